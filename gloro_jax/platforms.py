"""How the library compiles: the one place that knows about back ends."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl
from jax.core import Tracer

# XLA:CPU hands convolutions to YNNPACK, whose weight gradients are 2 to 10 times slower than
# Eigen's. An empty list of fusion types keeps Eigen. Measure again with each new JAX.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}

P = ParamSpec("P")
R = TypeVar("R")


def compiler_options() -> dict[str, str]:
    """The XLA options for the default back end; starts that back end."""
    return dict(_CPU_OPTIONS) if _target() == "cpu" else {}


_rehearsed: list[str] = []


def _target() -> str:
    """The platform that programs are compiled for; starts the default back end."""
    return _rehearsed[-1] if _rehearsed else jax.default_backend()


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Programs written meanwhile are for another platform than this machine's."""
    _rehearsed.append(platform)
    try:
        yield
    finally:
        _rehearsed.pop()


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


def follows_ieee(numbers: Any) -> Any:
    """Whether the program that holds this rounds as IEEE 754 says, for each of `numbers` >= 0.

    XLA can be told not to (`--xla_cpu_enable_fast_math`, or an option of one `jit`): it then
    reorders sums and assumes that there are neither NaN nor infinities, so that rounding against
    us, and a check for NaN, mean nothing. A one that is added to a number too large to hold it, and
    the number taken off again, leaves 0, and 1 where sums are reordered. It depends on the
    program's input, so no compiler can compute it beforehand.
    """
    large = 2.0**26 * (1 + numbers)
    return (large + 1) - large == 0


@functools.cache
def check_arithmetic() -> None:
    """Raises a RuntimeError, once and for all in a process, if XLA does not follow IEEE 754."""

    def passes(numbers: Any) -> Any:
        nan = jnp.sqrt(-1 - numbers)
        finds = ~jnp.isfinite(nan) & ~jnp.isfinite(1 / (numbers - numbers)) & ~(nan > 0)
        return follows_ieee(numbers) & finds & (nan != nan)

    # Apart from whatever is being traced: a program of its own, on the platform that is used.
    with jax.ensure_compile_time_eval():
        compiled = jax.jit(passes, compiler_options=compiler_options())
        is_sound = bool(compiled(jnp.asarray([0.0, 1.0], jnp.float32)).all())
    if not is_sound:
        raise RuntimeError(
            "XLA compiles here as if sums could be reordered and there were neither NaN nor "
            "infinity, so what must not be certified could be. Take flags such as "
            "--xla_cpu_enable_fast_math out of the environment variable XLA_FLAGS; it is "
            f"{os.environ.get('XLA_FLAGS', '')!r}."
        )


def memory() -> int:
    """Bytes of memory of this machine; very many where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 2**62


def random_key(seed: int) -> Any:
    """A key whose draws hang on the seed alone, and not on how a batch is divided.

    `jax_default_prng_impl` may name another generator, rbg say, of which neither holds.
    """
    return jax.random.key(seed, impl="threefry2x32")


def in_32_bits(fn: Callable[P, R]) -> Callable[P, R]:
    """`fn` as it is without JAX_ENABLE_X64, which changes types, and with them random draws."""

    @functools.wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.enable_x64(False):
            return fn(*args, **kwargs)

    return call


@contextlib.contextmanager
def in_64_bits() -> Iterator[None]:
    """Programs called meanwhile compute in float64 on the host, where IEEE 754 is followed.

    A user's `jax_default_matmul_precision` may name an algorithm that multiplies float64 in
    bfloat16.
    """
    precise, host = jax.default_matmul_precision("highest"), jax.devices("cpu")[0]
    with jax.enable_x64(True), jax.default_device(host), compiling_for("cpu"), precise:
        yield


def scan_unroll(length: int) -> int:
    """How far to unroll a scan whose body differentiates convolutions.

    XLA:CPU runs such gradients inside a loop about 75 times slower, so there the loop is unrolled
    whole. Elsewhere it stays a loop, which compiles faster and holds one body's memory.
    """
    return length if _target() == "cpu" else 1


def holds_traced(*trees: Any) -> bool:
    """Whether one of `trees` holds a traced value; streams of batches are not looked into."""

    def is_stream(node: Any) -> bool:
        return isinstance(node, Iterable) and not isinstance(node, tuple | list | dict)

    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees, is_leaf=is_stream))


def is_tracing(*trees: Any) -> bool:
    """Whether we are inside a JAX transformation, or one of `trees` holds a traced value."""
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))
    return traced or isinstance(jnp.zeros(()), Tracer)


def check_outside_jit(*trees: Any, what: str) -> None:
    """Raises a TypeError inside a JAX transformation, or if one of `trees` holds a traced value."""
    if is_tracing(*trees):
        raise TypeError(
            f"{what} looks at numbers on the host, so it cannot run inside jit, vmap or grad. Call "
            "it outside."
        )


def outside_jit(fn: Callable[P, R]) -> Callable[P, R]:
    """`fn`, or a TypeError where an argument holds a traced array, at which it could not look."""

    @functools.wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if holds_traced(args, kwargs):
            check_outside_jit(args, kwargs, what=fn.__qualname__)
        return fn(*args, **kwargs)

    return call


def on_host(array: Any) -> Any:
    """An array of JAX as one of NumPy; others as they are."""
    return np.asarray(array) if isinstance(array, jax.Array) else array


def is_on_host(x: Any) -> bool:
    """Whether the values of an array can be read without waiting for an accelerator."""
    if not isinstance(x, jax.Array):
        return True
    return x.is_fully_addressable and {device.platform for device in x.devices()} == {"cpu"}


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
    def with_options(*options: tuple[str, str]) -> Callable[..., Any]:
        return jax.jit(fn, static_argnames=static_argnames, compiler_options=dict(options))

    def outer() -> Any:
        return with_options(*compiler_options().items())

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (inner if is_tracing(args, kwargs) else outer())(*args, **kwargs)

    call.lower = lambda *args, **kwargs: outer().lower(*args, **kwargs)  # type: ignore[attr-defined]
    return call
