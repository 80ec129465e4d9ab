"""The alarm: a stored bound below what a single direction reaches is false."""

import numpy as np

from gloro_jax.frozen_net import FrozenNet
from gloro_jax.lipschitz import many
from gloro_jax.lipschitz.lower import refutes


def lower_norms(frozen: FrozenNet) -> dict[str, np.ndarray]:
    """The norm of every linear layer found from below, by its path; large ones take seconds."""
    return {path: many.lower_norms(operator) for path, operator in frozen.operators().items()}


def norm_alarm(frozen: FrozenNet, lower: dict[str, np.ndarray] | None = None) -> str:
    """What is wrong with the stored norms of a network, in words; empty if nothing is.

    A norm, or a distance of the head, that is stored below what a single direction reaches is
    refuted. What `freeze` computed never is; a bound that was altered, or a bug, can be.

    Args:
        frozen: the network.
        lower: what `lower_norms` returned, where it is known already.
    """
    lower, stored = lower_norms(frozen) if lower is None else lower, frozen.stored_norms()
    wrong = [
        f"{name}: {found.max():.9g} found, {stored[name].max():.9g} stored"
        for name, found in lower.items()
        if refutes(found, stored[name])
    ]
    head = frozen.head()
    rows = np.asarray(head.head.kernel, np.float64).T
    apart = np.stack([np.linalg.norm(rows - row, axis=1) for row in rows])
    if refutes(apart, head.distances):
        wrong.append("head: a distance between two of its rows is stored too small")
    if not wrong:
        return ""
    return (
        "ALARM: stored norms lie below what a single direction reaches, so certificates made with "
        f"them are false. {'; '.join(wrong)}. The bounds were altered, or this is a bug: please "
        "report it (SECURITY.md). Freeze the network again."
    )
