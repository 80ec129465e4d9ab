"""Hostile cases by the thousand, no false certificate; and the hunts would have seen one."""

import pytest

from tests.soundness import api_hunting
from tests.soundness.hunting import hunt


@pytest.mark.parametrize("cases", [300, pytest.param(4000, marks=pytest.mark.slow)])
def test_hostile_cases_hold_no_false_certificate(cases):
    found = hunt(cases, seed=0)
    assert found.false == []
    assert found.cases == cases
    assert found.certified > 0.75 * cases
    # The attack comes as near as a millionth to the edge of what is certified.
    assert 0 < found.nearest < 3e-6


def test_the_hunt_sees_norms_that_are_three_millionths_too_small():
    found = hunt(640, seed=1, shrink=1 - 3e-6)
    assert len(found.false) > 20


def test_bodies_of_honest_and_hostile_parts_hold_no_false_certificate_and_the_attack_sees():
    found = api_hunting.hunt(7, weights=2, seed=3)
    assert found.false == []
    assert found.of("certified", "library") == 2 * api_hunting.POINTS
    assert found.of("refused", "mapped tree") > 0
    assert found.of("refused", "kept activation") > 0
    assert found.seen > 3  # at twice the radius
