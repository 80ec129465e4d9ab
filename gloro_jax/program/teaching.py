"""Errors of JAX and Flax about what a frozen body must not do, in this library's words."""

import contextlib
from collections.abc import Iterator

import flax.errors
import jax

_ASKS_FOR_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


@contextlib.contextmanager
def taught() -> Iterator[None]:
    """Says what to do where a body is traced and asks for a value, a random number or a variable.

    Raises:
        TypeError: in place of the error of JAX or Flax, which stays its cause.
    """
    try:
        yield
    except _ASKS_FOR_VALUES as error:
        raise TypeError(
            "The network asks for the value of an array while it is traced: by if, float(...), a "
            "function of NumPy or gj.matrix_norm of what jax.numpy made. What is frozen is one "
            "program for all images. Write functions of activations with jax.numpy (jnp.where in "
            "place of if), and compute constants from NumPy arrays, or outside the layer."
        ) from error
    except flax.errors.InvalidRngError as error:
        raise TypeError(
            f"The network draws random numbers: {_first_words(error)}. A certificate is about one "
            "function of the image: draw only where x.is_training."
        ) from error
    except flax.errors.ScopeCollectionNotFound as error:
        raise TypeError(
            f"A layer reads a variable that is not among those given: {_first_words(error)}. Pass "
            "all collections that net.init returned; and what a layer reads when it is frozen are "
            "the arrays of maps alone (docs/adding-a-layer.md)."
        ) from error


def _first_words(error: Exception) -> str:
    return str(error).split(" (http", maxsplit=1)[0].rstrip(".")
