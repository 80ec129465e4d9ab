"""The kit for a layer of one's own: does its declared constant hold?

    from gloro_jax.testing import check_lipschitz

    check_lipschitz(MyLayer(), (8, 8, 3))

It cannot prove a constant; it refutes wrong ones, by the exact Jacobian at random points and by an
ascent over pairs of points. Every layer of this library passes it in CI.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.freezing import freeze
from gloro_jax.frozen_net import FrozenNet
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
    points: int = 3,
    weight_scales: tuple[float, ...] = (1.0, 0.0, 1e-16, 1e-5, 1e5),
) -> float:
    """Tests a layer's guaranteed constant against what the layer does.

    Args:
        layer: from `Bounded` to `Bounded`.
        input_shape: one example's input; keep it small, a full Jacobian is computed.
        seed: of weights and points.
        points: at how many random points.
        weight_scales: every parameter is multiplied by each of these in turn; zero and tiny
            weights are where published bounds broke.

    Returns:
        The best ratio found of actual to declared stretch, at most 1 up to rounding.

    Raises:
        AssertionError: if the layer stretches more than it declares, mixes examples of a batch,
            differs between training and frozen passes, or cannot be frozen.
    """
    net = GloroNet(_Probe(layer), num_classes=2)
    rng = np.random.default_rng(seed)
    example = _gaussian(rng, (points, *input_shape))
    variables = jax.jit(lambda k, x: net.init(k, x, norms=PowerIteration(steps=2)))(
        jax.random.key(seed, impl="rbg"), example
    )
    kept = {name: variables.get(name, {}) for name in ("params", "centering")}
    drawn = jax.tree.map(lambda p: np.asarray(p) + 0.1 * _gaussian(rng, p.shape), kept)
    checks = _Checks(net, type(layer).__name__)
    ratios = []
    for scale in weight_scales:
        scaled = jax.tree.map(lambda p, scale=scale: scale * p, drawn)
        frozen = checks.frozen(scaled, input_shape)
        spectral = variables.get("spectral", {})
        checks.training_agrees(frozen, {**scaled, "spectral": spectral}, example)
        ratios.append(checks.constant_holds(frozen, example))
    return max(ratios)


def _gaussian(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Float32, from NumPy: a draw of JAX's is compiled anew for every shape."""
    return rng.standard_normal(shape, np.float32)


class _Checks:
    """The checks of one layer, compiled once for all weights."""

    def __init__(self, net: GloroNet, name: str) -> None:
        self._net, self._name = net, name
        self._run = jax.jit(self._forward)
        self._jacobian = jax.jit(jax.vmap(self._point_jacobian, in_axes=(None, 0)))
        self._ascent = jax.jit(jax.value_and_grad(self._stretch, argnums=1))
        self._train = jax.jit(self._train_forward)

    def frozen(self, variables: Any, input_shape: tuple[int, ...]) -> FrozenNet:
        """The layer with guaranteed norms."""
        try:
            return freeze(self._net, variables, input_shape=input_shape)
        except (TypeError, ValueError) as error:
            raise AssertionError(f"{self._name} cannot be frozen: {error}") from None

    def constant_holds(self, frozen: FrozenNet, example: Any) -> float:
        """Compares the declared constant with Jacobians and pairs, in float64."""
        tree = jax.tree.map(lambda a: np.asarray(a, np.float64), frozen.tree_flatten()[0][0])
        with jax.enable_x64(True):
            x = np.asarray(example, np.float64)
            self._examples_are_apart(tree, x)
            matrices = np.asarray(self._jacobian(tree, x)).reshape(len(x), -1, x[0].size)
            steepest = float(np.linalg.norm(matrices, ord=2, axis=(1, 2)).max(initial=0.0))
            actual = max(steepest, self._best_pair(tree, x))
        declared = frozen.lipschitz
        assert actual <= declared * (1 + _TOLERANCE), (
            f"{self._name} declares Lipschitz constant {declared:.9g} but stretches by "
            f"{actual:.9g}."
        )
        return actual / declared if declared else 0.0

    def training_agrees(self, frozen: FrozenNet, variables: Any, x: Any) -> None:
        """The frozen layer computes what the trained one does."""
        trained = np.asarray(self._train(variables, x))
        replayed = np.asarray(self._run(frozen.tree_flatten()[0][0], x))
        gap = np.abs(trained - replayed).max(initial=0.0)
        assert gap <= 1e-4 * np.abs(trained).max(initial=0.0), (
            f"The frozen {self._name} differs from the trained one by {gap:.3g}: it must use the "
            "operator that apply_linear stores."
        )

    def _examples_are_apart(self, tree: Any, x: Any) -> None:
        other = np.concatenate([3.0 * x[:1], x[1:]])
        whole, changed = (np.asarray(self._run(tree, v)) for v in (x, other))
        gap = np.abs(whole[1:] - changed[1:]).max(initial=0.0)
        assert gap <= 1e-12 * np.abs(whole).max(initial=0.0), (
            f"{self._name}: changing one example moved another by {gap:.3g}; a layer treats "
            "examples one by one."
        )

    def _best_pair(self, tree: Any, x: Any) -> float:
        """The largest difference quotient along an ascent over pairs of points."""
        best, rng = 0.0, np.random.default_rng(0)
        for size in (1e-2, 1.0):
            pair = np.stack([x[0], x[0] + size * rng.standard_normal(x[0].shape)])
            for _ in range(20):
                value, gradient = jax.device_get(self._ascent(tree, pair))
                if not np.isfinite(value):
                    break
                best, gradient = max(best, float(value)), np.nan_to_num(gradient)
                pair += 0.1 * size * gradient / (np.linalg.norm(gradient) or 1.0)
        return best

    def _forward(self, tree: Any, x: Any) -> Any:
        probe = self._net.apply({"frozen": tree}, x, norms=Frozen(), mutable=["probe"])[1]["probe"]
        return probe["body"]["output"]

    def _train_forward(self, variables: Any, x: Any) -> Any:
        mutable = ["probe", "spectral"]
        made = self._net.apply(variables, x, norms=PowerIteration(steps=1), mutable=mutable)[1]
        return made["probe"]["body"]["output"]

    def _point_jacobian(self, tree: Any, x: Any) -> Any:
        return jax.jacrev(lambda v: self._forward(tree, v[None])[0].ravel())(x)

    def _stretch(self, tree: Any, pair: Any) -> Any:
        moved, apart = jnp.diff(self._forward(tree, pair), axis=0), jnp.diff(pair, axis=0)
        return jnp.sqrt(jnp.sum(jnp.square(moved)) / jnp.sum(jnp.square(apart)))
