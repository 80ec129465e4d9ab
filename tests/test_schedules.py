"""Schedules: the reference's formulas at whole epochs, every name, and what is refused."""

import jax
import numpy as np
import pytest

from gloro_jax.schedules import NAMED, check_schedule, parse_schedule

EPOCHS = 40


def at(text, times, epochs=EPOCHS):
    schedule = jax.jit(parse_schedule(text, epochs=epochs))
    return np.array([float(schedule(t)) for t in times])


# klasleino/gloro, gloro/training/schedules.py: the value at epoch i of D from a to b.
REFERENCE = {
    "-": lambda a, b, i, d: a + (b - a) * i / d,
    "-exp-": lambda a, b, i, d: a * np.exp(i * np.log(b / a) / d),
    "-log-": lambda a, b, i, d: np.log((np.exp(b) - np.exp(a)) * i / d + np.exp(a)),
    "-cos-": lambda a, b, i, d: b + (a - b) * 0.5 * (np.cos(i / d * np.pi) + 1),
    "": lambda a, b, i, d: np.full_like(i, a, dtype=float),
}


@pytest.mark.parametrize("kind", REFERENCE)
@pytest.mark.parametrize(("a", "b"), [(0.01, 1.1), (1.0, 0.001), (0.3, 0.3)])
def test_each_kind_is_the_references_formula(kind, a, b):
    i = np.arange(20)
    expected = REFERENCE[kind](a, b, i, 20)
    np.testing.assert_allclose(at(f"[{a}]{kind}[50%:{b}]", i), expected, rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(at(f"[{a}]{kind}[20:{b}]", i), expected, rtol=2e-6, atol=1e-7)
    # Past its end a schedule stays.
    np.testing.assert_allclose(at(f"[{a}]{kind}[50%:{b}]", [20, 33, 40, 99]), b, rtol=1e-6)


ENDS = {  # value at the start, at half time, at three quarters, at the end
    "fixed": (1, 1, 1, 1),
    "linear": (0, 0.5, 0.75, 1),
    "linear_half": (0, 1, 1, 1),
    "linear_decay": (1, 0.5, 0.25, 0),
    "linear_decay_after_half": (1, 1, 0.5, 0),
    "logarithmic": (0.01, np.log((np.e - np.exp(0.01)) / 2 + np.exp(0.01)), None, 1),
    "logarithmic_half": (0.01, 1, 1, 1),
    "decay": (1, 1e-3**0.5, 1e-3**0.75, 1e-3),
    "decay_after_half": (1, 1, 1e-3**0.5, 1e-3),
    "cos": (1, 0.5, (1 + np.cos(0.75 * np.pi)) / 2, 0),
    "cos_after_half": (1, 1, 0.5, 0),
    "one_cycle": (
        0.04,
        (1 + np.cos(np.pi * 2 / 7)) / 2,
        (1 + np.cos(np.pi * 4.5 / 7)) / 2,
        0,
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_every_name_means_what_it_says(name):
    # The reference cannot reach decay_after_half and cos_after_half: it tests their prefixes first.
    found = at(name, [0, 20, 30, 40])
    for value, expected in zip(found, ENDS[name], strict=True):
        if expected is not None:
            assert value == pytest.approx(expected, abs=1e-6)


def test_pieces_follow_each_other():
    text = "[0.1]-[10:1]-exp-[30:0.01][0.5]"
    assert at(text, [5])[0] == pytest.approx(0.55)
    assert at(text, [20])[0] == pytest.approx(0.1, rel=1e-5)
    np.testing.assert_allclose(at(text, [30, 35, 39.9]), 0.01, rtol=1e-6)
    assert at(text, [40])[0] == pytest.approx(0.5)


def test_a_jump_is_a_jump_and_time_is_continuous_within_epochs():
    np.testing.assert_allclose(at("[1][80%:0.1]", [0, 31.99, 32, 40]), [1, 1, 0.1, 0.1])
    assert at("linear", [0.5])[0] == pytest.approx(0.5 / EPOCHS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no schedule"),
        ("linear_hlaf", "linear_half"),
        ("[1]--[2]", "is no schedule"),
        ("[1]-sin-[0]", "is no schedule"),
        ("x[1]", "is no schedule"),
        ("[1-2]", "is no schedule"),
        ("[1]-[2]-[3]", "needs a time"),
        ("[1]-[50:2]", "within the 40 epochs"),
        ("[1]-[120%:2]", "within the 40 epochs"),
        ("[1]-[50%:2]-[25%:3]", "must not decrease"),
        ("[0]-exp-[1]", "joins values from"),
        ("[1]-log-[900]", "joins values up to"),
        ("[1]-[1e999]", "factors up to"),
        ("[1]-[1e39]", "factors up to"),
        ("[1e-50]-exp-[1]", "joins values from"),
        ("[1]-[-1]", "must not be negative"),
    ],
)
def test_what_is_not_a_schedule_is_refused_with_the_grammar(text, message):
    with pytest.raises(ValueError, match=message):
        check_schedule("epsilon_schedule", text, epochs=EPOCHS)
