"""The kit for a layer of one's own: does its declared constant hold?

    from gloro_jax.testing import check_lipschitz

    check_lipschitz(MyLayer(), (8, 8, 3))

It cannot prove a constant; it refutes wrong ones, by the exact Jacobian at random points and by an
ascent over pairs of points. Every layer of this library passes it in CI.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.freeze import freeze
from gloro_jax.gloro import GloroNet
from gloro_jax.layers.base import Frozen, LipschitzLayer, PowerIteration
from gloro_jax.lipschitz.bounded import Bounded

# The layer is replayed in float64 with its float32 weights, which are exact there.
_TOLERANCE = 1e-9


class _Probe(nn.Module):
    """A body that hands out the layer's output in the collection "probe"."""

    layer: nn.Module

    def __call__(self, x: Bounded) -> Bounded:
        def hand_out(values: Any) -> Any:
            self.sow("probe", "output", values, init_fn=lambda: None, reduce_fn=lambda _, v: v)
            return values.reshape(len(values), -1)

        return self.layer(x).apply(hand_out, lipschitz=1.0)


def check_lipschitz(
    layer: LipschitzLayer,
    input_shape: tuple[int, ...],
    *,
    seed: int = 0,
    points: int = 4,
    scale_weights: float = 1.0,
) -> float:
    """Tests a layer's guaranteed constant against what the layer does.

    Args:
        layer: from `Bounded` to `Bounded`.
        input_shape: one example's input; keep it small, a full Jacobian is computed.
        seed: of weights and points.
        points: at how many random points.
        scale_weights: multiplies every parameter after initialisation; 0 is worth a try.

    Returns:
        The best ratio found of actual to declared stretch, at most 1 up to rounding.

    Raises:
        AssertionError: if the layer stretches more than it declares, mixes examples of a batch,
            or differs between training and frozen passes.
    """
    net = GloroNet(_Probe(layer), num_classes=2)
    keys = jax.random.split(jax.random.key(seed), 3)
    example = jax.random.normal(keys[0], (points, *input_shape))
    variables = net.init(keys[1], example, norms=PowerIteration(steps=2))
    variables = {k: v for k, v in variables.items() if k != "probe"}
    params = variables.get("params", {})
    params = jax.tree.map(
        lambda p: scale_weights * (p + 0.1 * jax.random.normal(keys[2], p.shape)), params
    )
    variables = {**variables, "params": params}
    frozen = freeze(net, variables, input_shape=input_shape)
    tree = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), frozen.tree_flatten()[0][0])

    def run(x: Any) -> Any:
        probe = net.apply({"frozen": tree}, x, norms=Frozen(), mutable=["probe"])[1]["probe"]
        return probe["body"]["output"]

    with jax.enable_x64(True):
        points64 = jnp.asarray(np.asarray(example, np.float64))
        key64 = jax.random.key(seed)
        actual = max(_jacobian_norm(run, points64), _pair_stretch(run, points64, key64))
        _check_examples_are_apart(run, points64)
        replayed = np.asarray(run(points64))
    _check_training_agrees(net, variables, replayed, example)
    declared = frozen.lipschitz
    assert actual <= declared * (1 + _TOLERANCE), (
        f"{type(layer).__name__} declares Lipschitz constant {declared:.9g} but stretches by "
        f"{actual:.9g}."
    )
    return actual / declared if declared else 0.0


def _check_training_agrees(net: GloroNet, variables: Any, frozen: np.ndarray, x: Any) -> None:
    _, updates = net.apply(
        variables, x, norms=PowerIteration(steps=1), mutable=["probe", "spectral"]
    )
    trained = np.asarray(updates["probe"]["body"]["output"])
    gap = np.abs(trained - frozen).max(initial=0.0)
    assert gap <= 1e-4 * (1 + np.abs(trained).max(initial=0.0)), (
        f"The frozen layer differs from the trained one by {gap:.3g}: it must use the operator "
        "that apply_linear stores."
    )


def _check_examples_are_apart(run: Callable[..., Any], x: Any) -> None:
    whole, changed = np.asarray(run(x)), np.asarray(run(x.at[0].multiply(3.0)))
    gap = np.abs(whole[1:] - changed[1:]).max(initial=0.0)
    assert gap <= 1e-4 * (1 + np.abs(whole).max(initial=0.0)), (
        f"Changing one example moved another by {gap:.3g}: a layer treats examples one by one."
    )


def _jacobian_norm(run: Callable[..., Any], x: Any) -> float:
    jacobian = jax.vmap(jax.jacrev(lambda point: run(point[None])[0].ravel()))(x)
    matrices = np.asarray(jacobian, np.float64).reshape(len(x), -1, x[0].size)
    return float(np.linalg.norm(matrices, ord=2, axis=(1, 2)).max(initial=0.0))


def _pair_stretch(run: Callable[..., Any], x: Any, key: Any) -> float:
    """The largest difference quotient along an ascent over pairs of points."""

    def stretch(pair: Any) -> Any:
        out = run(pair[0]) - run(pair[1])
        far, near = jnp.sum(jnp.square(out)), jnp.sum(jnp.square(pair[0] - pair[1]))
        return jnp.sqrt(far / near)

    step = jax.jit(jax.value_and_grad(stretch))
    best = 0.0
    for size in (1e-2, 1.0):
        delta = size * jax.random.normal(key, x[:1].shape)
        pair = (x[:1] + delta, x[:1])
        for _ in range(30):
            value, gradient = step(pair)
            best = max(best, float(value)) if np.isfinite(value) else best
            length = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in gradient))
            rate = 0.1 * size / jnp.where(length > 0, length, 1.0)
            pair = tuple(p + rate * jnp.nan_to_num(g) for p, g in zip(pair, gradient, strict=True))
    return best
