"""Norms of many operators: large ones in processes beside each other, with one BLAS thread each."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gloro_jax.lipschitz.operators import Operator

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


def _each(operators: list[Operator]) -> Iterator[float]:
    workers = min(os.cpu_count() or 1, sum(o.kernel.size >= _LARGE for o in operators))
    if workers < 2:
        return map(_norm, operators)
    import joblib

    # Workers start afresh: safe beside the threads of JAX, and in scripts without a main guard.
    parallel: Any = joblib.Parallel(n_jobs=workers, return_as="generator")
    return parallel(joblib.delayed(_norm)(operator) for operator in operators)


def _norm(operator: Operator) -> float:
    return float(operator.norm())


def _unstacked(operator: Operator) -> list[Operator]:
    kernel = np.asarray(operator.kernel)
    single: Any = operator
    each = kernel.reshape((-1, *kernel.shape[kernel.ndim - operator.kernel_ndim :]))
    return [dataclasses.replace(single, kernel=np.asarray(k)) for k in each]
