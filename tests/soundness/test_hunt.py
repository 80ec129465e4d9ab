"""Two thousand hostile cases, no false certificate; and the hunt would have seen one."""

from tests.soundness.hunting import hunt


def test_two_thousand_hostile_cases_hold_no_false_certificate():
    found = hunt(2000, seed=0)
    assert found.false == []
    assert found.cases == 2000
    assert found.certified > 1500
    # The attack comes as near as a millionth to the edge of what is certified.
    assert 0 < found.nearest < 3e-6


def test_the_hunt_sees_norms_that_are_three_millionths_too_small():
    found = hunt(640, seed=1, shrink=1 - 3e-6)
    assert len(found.false) > 20
