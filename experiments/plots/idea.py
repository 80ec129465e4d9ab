"""Draws docs/idea.svg: a GloRo Net on two rings in the plane, with its certified discs.

Command: python -m experiments.plots.idea
"""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import optax

import gloro_jax as gj
from gloro_jax import layers

OUTPUT = Path(__file__).parents[2] / "docs" / "idea.svg"
NORMS, EPSILON = gj.PowerIteration(steps=5), 0.12


def rings(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of an inner disc, class 0, and of a ring around it, class 1."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    radii = np.where(labels == 0, 0.28 * np.sqrt(rng.uniform(size=count)), 0)
    radii += np.where(labels == 1, rng.uniform(0.62, 0.95, count), 0)
    angles = rng.uniform(0, 2 * np.pi, count)
    points = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return points.astype(np.float32), labels


def train(net: gj.GloroNet, x: np.ndarray, labels: np.ndarray) -> Any:
    variables = net.init(jax.random.key(0), x, norms=NORMS)
    optimizer = optax.nadam(optax.cosine_decay_schedule(5e-3, 3000))

    @jax.jit
    def step(params: Any, spectral: Any, state: Any) -> Any:
        def loss(params: Any) -> Any:
            tree = {"params": params, "spectral": spectral}
            logits, new = net.apply(tree, x, norms=NORMS, mutable=["spectral"])
            return gj.losses.emma(logits, labels, epsilon=1.5 * EPSILON).mean(), new["spectral"]

        gradient, spectral = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), spectral, state

    params, spectral = variables["params"], variables["spectral"]
    state = optimizer.init(params)
    for _ in range(3000):
        params, spectral, state = step(params, spectral, state)
    return gj.freeze(net, {"params": params}, input_shape=(2,))


def draw(frozen: gj.FrozenNet, points: np.ndarray, labels: np.ndarray) -> None:
    mpl.rcParams["svg.hashsalt"] = "gloro"  # the same file each time
    figure, axes = plt.subplots(figsize=(4.6, 4.6))
    ticks = np.linspace(-1.15, 1.15, 300, dtype=np.float32)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1)
    certificate = gj.certify(frozen, grid, epsilon=EPSILON)
    regions = np.where(certificate.is_certified, certificate.prediction, 2)
    colours = mpl.colors.ListedColormap(["#cfe3f5", "#f8dcc4", "#ffffff"])
    extent = (-1.15, 1.15, -1.15, 1.15)
    axes.imshow(regions, origin="lower", extent=extent, cmap=colours, interpolation="nearest")
    axes.contour(ticks, ticks, np.asarray(certificate.prediction), [0.5], colors="#444444")
    radii = np.asarray(gj.certify(frozen, jnp.asarray(points), epsilon=EPSILON).radius)
    edge = np.where(labels == 0, "#1f5f99", "#b3591a")
    for point, radius, colour in zip(points, radii, edge, strict=True):
        axes.add_patch(plt.Circle(point, radius, fill=False, color=colour, lw=0.9))
    axes.scatter(*points.T, c=edge, s=9, zorder=3)
    axes.set(xticks=[], yticks=[], xlim=(-1.15, 1.15), ylim=(-1.15, 1.15))
    figure.tight_layout(pad=0.3)
    figure.savefig(OUTPUT, metadata={"Date": None})


def main() -> None:
    body = nn.Sequential([
        layers.Dense(64), layers.MinMax(), layers.Dense(64), layers.MinMax(), layers.Dense(64),
        layers.MinMax(),
    ])  # fmt: skip
    net = gj.GloroNet(body, num_classes=2)
    frozen = train(net, *rings(600, seed=0))
    draw(frozen, *rings(36, seed=1))


if __name__ == "__main__":
    main()
