"""Norms of many operators: large ones in processes beside each other, with one BLAS thread each."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gloro_jax.lipschitz.lower import lower_bound, refutes
from gloro_jax.lipschitz.norms import UpperBound, check_bound
from gloro_jax.lipschitz.operators import Convolution, Matrix, Operator, Scaling

_OURS = (Matrix, Convolution, Scaling)
# From this many weights on, a norm takes seconds, and a process is worth its start.
_LARGE = 2**19


def norms(
    operators: Sequence[Operator], *, on_progress: Callable[[int], None] = lambda done: None
) -> list[np.ndarray]:
    """The guaranteed norm of each operator, float64.

    An operator whose kernel `nn.scan` has stacked gets an array of norms, one for each layer of the
    stack, and every other one an array of shape ().

    Args:
        operators: with concrete kernels.
        on_progress: called with 1 after each norm, in order.
    """
    stacks = [_unstacked(operator) for operator in operators]
    singles = [single for stack in stacks for single in stack]
    found = []
    for norm in _each(singles):
        found.append(norm)
        on_progress(1)
    bounds, start = [], 0
    for operator, stack in zip(operators, stacks, strict=True):
        lead = np.shape(operator.kernel)[: np.ndim(operator.kernel) - operator.kernel_ndim]
        bounds.append(np.asarray(found[start : start + len(stack)], np.float64).reshape(lead))
        start += len(stack)
    return bounds


def lower_norms(operator: Operator) -> np.ndarray:
    """The norm from below of an operator, or of each that `nn.scan` stacked."""
    lead = np.shape(operator.kernel)[: np.ndim(operator.kernel) - operator.kernel_ndim]
    return np.array([lower_bound(single) for single in _unstacked(operator)]).reshape(lead)


def _each(operators: list[Operator]) -> Iterator[float]:
    large = sum(o.kernel.size >= _LARGE for o in operators)
    if large < 2:
        return map(_norm, operators)
    import joblib

    # joblib counts the CPUs that a scheduler or a container grants, which os does not.
    workers = min(joblib.cpu_count(), large)
    if workers < 2:
        return map(_norm, operators)
    # Workers start afresh: safe beside the threads of JAX, and in scripts without a main guard.
    parallel: Any = joblib.Parallel(n_jobs=workers, return_as="generator")
    return parallel(joblib.delayed(_norm)(operator) for operator in operators)


def _norm(operator: Operator) -> float:
    norm: Any = operator.norm()
    if not isinstance(norm, UpperBound):
        raise TypeError(
            f"{type(operator).__name__}.norm() must return a gj.UpperBound, a number that is "
            f"proved from above; got {type(norm).__name__}. Power iteration errs low and "
            "proves nothing: use gj.matrix_norm or gj.conv_norm, or an UpperBound with a proof."
        )
    check_bound(norm.value, name=f"The norm of {type(operator).__name__}")
    if type(operator) not in _OURS and refutes(found := lower_bound(operator), float(norm)):
        raise ValueError(
            f"{type(operator).__name__}.norm() says {float(norm):.9g}, but a vector is stretched "
            f"by {found:.9g}: it is no upper bound. Use gj.matrix_norm or gj.conv_norm, or mend it."
        )
    return float(norm)


def _unstacked(operator: Operator) -> list[Operator]:
    kernel = np.asarray(operator.kernel)
    single: Any = operator
    each = kernel.reshape((-1, *kernel.shape[kernel.ndim - operator.kernel_ndim :]))
    return [dataclasses.replace(single, kernel=np.asarray(k)) for k in each]
