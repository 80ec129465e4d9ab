"""Constants of many maps: large ones in processes beside each other, with one BLAS thread each."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from gloro_jax.lipschitz.lower import lower_bound, refutes
from gloro_jax.lipschitz.norms import UpperBound, check_bound
from gloro_jax.lipschitz.operators import Convolution, Matrix, Scaling, WeightedMap

_OURS = (Matrix, Convolution, Scaling)
# From this many weights on, a norm takes seconds, and a process is worth its start.
_LARGE = 2**19


def norms(
    operators: Sequence[WeightedMap], *, on_progress: Callable[[int], None] = lambda done: None
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
        some = np.asarray(found[start : start + len(stack)], np.float64)
        bounds.append(some.reshape(operator.stack_of()))
        start += len(stack)
    return bounds


def lower_norms(operator: WeightedMap) -> np.ndarray:
    """The norm from below of an operator, or of each that `nn.scan` stacked."""
    found = [lower_bound(single) for single in _unstacked(operator)]
    return np.array(found).reshape(operator.stack_of())


def _each(operators: list[WeightedMap]) -> Iterator[float]:
    large = sum(_size(o) >= _LARGE for o in operators)
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


def _norm(operator: WeightedMap) -> float:
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


def _size(operator: WeightedMap) -> int:
    return sum(np.size(getattr(operator, name)) for name in operator.array_ndims)


def _unstacked(operator: WeightedMap) -> list[WeightedMap]:
    lead, single = operator.stack_of(), cast(Any, operator)
    arrays = {name: np.asarray(getattr(operator, name)) for name in operator.array_ndims}
    flat = {name: a.reshape((-1, *a.shape[len(lead) :])) for name, a in arrays.items()}
    return [
        dataclasses.replace(single, **{name: np.asarray(a[i]) for name, a in flat.items()})
        for i in range(math.prod(lead))
    ]
