"""A frozen network as a certificate file describes it, if each of its steps has a proof there."""

from typing import Any

from gloro_jax.certificates import check_certificate as checker
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.lipschitz.steps import Steps
from gloro_jax.network import HEAD


def describe(frozen: FrozenNet) -> dict[str, Any]:
    """The network as JSON holds it.

    Returns:
        "network" (the steps of the body), "head" (the names of its two arrays) and "input" (the
        shape of one image).

    Raises:
        ValueError: if a layer has no proof in a certificate file.
    """
    steps = frozen.steps()
    _check_named(steps)
    return {
        "network": [step.plain() for step in steps],
        "head": dict(HEAD),
        "input": list(frozen.input_shape),
    }


def _check_named(steps: Steps) -> None:
    for number, step in enumerate(steps, start=1):
        if step.op == "loop":
            raise ValueError(
                "The layers of this network cannot be listed one by one, as a certificate file "
                "needs them: they run inside nn.scan or another loop of JAX. Write them one after "
                "another."
            )
        if step.op not in checker.OPS:
            what = "a function of its own" if step.op is None else repr(step.op)
            raise ValueError(
                f"Layer {number} of {len(steps)} applies {what}, for which a certificate file has "
                "no proof. `gj.certify` takes its word for the constant; a file holds only what a "
                f"checker can prove again: {', '.join(checker.OPS)}."
            )
        for branch in step.branches:
            _check_named(branch)
