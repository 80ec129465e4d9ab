"""Numbers as people write them, and as they read them back; kinds of fields."""

from fractions import Fraction

import flax.linen as nn
import numpy as np
import pytest

from gloro_jax.certificates.write import as_fraction
from gloro_jax.margins import as_epsilon
from gloro_jax.plain import check_fields, exact, in_words, number


def test_a_radius_is_written_as_the_field_writes_it_and_means_the_same_number():
    for levels in range(1, 600):
        assert number(in_words(levels / 255)) == levels / 255
    assert [in_words(x) for x in (36 / 255, 0.3, 1.58, 2.0, 1e-3)] == [
        "36/255", "0.3", "1.58", "2", "0.001",
    ]  # fmt: skip
    assert in_words(0.1234567891) == "0.123457"


@pytest.mark.parametrize("text", ["1e999999999", "1E-999999999", "1e+0999999999", "9" * 2000])
def test_numbers_that_would_take_the_memory_are_refused_at_once(text):
    with pytest.raises(ValueError, match="beyond what a float can hold"):
        exact(text)
    for reader in (as_fraction, as_epsilon):
        with pytest.raises(ValueError, match="epsilon is an l2 radius"):
            reader(text)


def test_exact_numbers_are_exact():
    assert exact("36/255") == Fraction(36, 255)
    assert exact("1e-300") == Fraction(1, 10**300)
    assert exact(0.1) == Fraction(0.1)


def test_fields_of_several_kinds_are_let_through():
    class Layer(nn.Module):
        size: int | tuple[int, int] | None = None
        rank: int | None = None

    for size in (None, 3, (3, 3), "of its own"):
        check_fields(Layer(size=size, rank=np.int64(2)))
    for rank in ("2", 1.5, True):
        with pytest.raises(TypeError, match="rank of Layer is a whole number"):
            check_fields(Layer(rank=rank))
