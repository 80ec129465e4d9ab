"""How the library compiles: the one place that knows about back ends."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import threadpoolctl
from jax.core import Tracer

# XLA:CPU hands convolutions to YNNPACK, whose weight gradients are 2 to 10 times slower than
# Eigen's. An empty list of fusion types keeps Eigen. Measure again with each new JAX.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


def compiler_options() -> dict[str, str]:
    """The XLA options for the default back end; starts that back end."""
    return dict(_CPU_OPTIONS) if jax.default_backend() == "cpu" else {}


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Lets BLAS factorise with one thread while it lasts.

    XLA:CPU and NumPy hand factorisations to OpenBLAS. Many small ones are slower on several
    threads; and in a training step, XLA already runs independent ones beside each other on its own
    threads, which those of OpenBLAS then keep waiting: 1.1 to 1.4 times slower on two cores, from
    128 to 2,048 rows.
    """
    import scipy.linalg  # noqa: F401  (its BLAS is the one that XLA calls; loaded before it is limited)

    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


def keeps_nan_and_infinity(numbers: Any) -> Any:
    """Whether a program that holds this tells NaN and infinity from numbers, element by element.

    XLA can be told to assume that there are none (`--xla_cpu_enable_fast_math`), and then a check
    for them says nothing. So the check is itself checked, in the same program, on values that
    depend on its input and that no compiler can compute beforehand.

    Args:
        numbers: of at least 0, any array.
    """
    nan, huge = jnp.sqrt(-1 - numbers), (1 + numbers) * 3e38 * 10
    finds = ~jnp.isfinite(nan) & ~jnp.isfinite(huge) & ~jnp.isfinite(-huge)
    return finds & ~(nan > 0) & ~(nan <= 0) & (nan != nan)


@functools.cache
def check_arithmetic() -> None:
    """Raises a RuntimeError, once and for all in a process, if XLA drops NaN and infinities."""
    # Apart from whatever is being traced: a program of its own, on the platform that is used.
    with jax.ensure_compile_time_eval():
        keeps = jax.jit(keeps_nan_and_infinity, compiler_options=compiler_options())
        is_kept = bool(keeps(jnp.asarray([0.0, 1.0], jnp.float32)).all())
    if not is_kept:
        raise RuntimeError(
            "XLA compiles here as if there were neither NaN nor infinity, so what must not be "
            "certified could be. Take flags such as --xla_cpu_enable_fast_math out of the "
            f"environment variable XLA_FLAGS; it is {os.environ.get('XLA_FLAGS', '')!r}."
        )


def scan_unroll(length: int) -> int:
    """How far to unroll a scan whose body differentiates convolutions.

    XLA:CPU runs such gradients inside a loop about 75 times slower, so there the loop is unrolled
    whole. Elsewhere it stays a loop, which compiles faster and holds one body's memory.
    """
    return length if jax.default_backend() == "cpu" else 1


def is_tracing(*trees: Any) -> bool:
    """Whether we are inside a JAX transformation, or one of `trees` holds a traced value."""
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))
    return traced or isinstance(jnp.zeros(()), Tracer)


def jit(fn: Callable[..., Any], *, static_argnames: tuple[str, ...] = ()) -> Callable[..., Any]:
    """`jax.jit` with this library's compiler options, usable inside other transformations.

    JAX accepts compiler options on the outermost `jit` only. Called while tracing, the function
    therefore joins the caller's program without them.

    Args:
        fn: the function to compile.
        static_argnames: as for `jax.jit`.

    Returns:
        The compiled function; nothing runs, and no back end starts, before its first call.
    """
    inner = jax.jit(fn, static_argnames=static_argnames)

    @functools.cache
    def outer() -> Callable[..., Any]:
        options = compiler_options()
        return jax.jit(fn, static_argnames=static_argnames, compiler_options=options)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (inner if is_tracing(args, kwargs) else outer())(*args, **kwargs)

    call.lower = lambda *args, **kwargs: outer().lower(*args, **kwargs)  # type: ignore[attr-defined]
    return call
