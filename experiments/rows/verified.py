"""Attacks in float64 on points that verifiers call VERIFIED.

The networks are the zoo's digits, its MNIST network at 0.3 (256 images: float64 is slow there),
and the plain MLP of `experiments.rows.verifiers`. Every deterministic method that is quick enough
verifies each image at a few radii; those that at least one verifies are attacked: projected
gradient descent on the least lead, in float64, in the very region of the claim. A success is a
point of the region, checked in exact arithmetic, with another class, its rounding counted.

Command: python -m experiments.rows.verified (the set "mnist" must have been prepared: docs/data.md)
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gloro_jax as gj
from experiments.rows import save
from experiments.rows.guarantees import ZOO
from experiments.rows.verifiers import plain
from gloro_jax import verifiers
from gloro_jax.network import network_of
from gloro_jax.platforms import in_64_bits, jit
from gloro_jax.verifiers.bounds.operations import run
from gloro_jax.verifiers.bounds.rules import chain_of
from gloro_jax.verifiers.scores import in_float64, is_inside, is_misclassified

LINES = ("Lipschitz", "IntervalBounds", "BallBox", "FastLin", "Crown")
RADII = {"l2": (0.1, 0.25, 0.5), "linf": (0.01, 0.02, 0.04)}
STEPS, AT_ONCE, OF_MNIST = 40, 256, 256


def _lead(network: Any, points: Any, labels: Any) -> Any:
    scores = run(chain_of(network), points)
    own = jnp.take_along_axis(scores, labels[:, None], 1)
    others = jnp.where(jnp.arange(scores.shape[1]) == labels[:, None], jnp.inf, own - scores)
    return others.min(axis=1)


@jit
def _slope(network: Any, points: Any, labels: Any) -> Any:
    return jax.grad(lambda points: _lead(network, points, labels).sum())(points)


def attacked(
    frozen: Any, x: np.ndarray, labels: np.ndarray, *, norm: Any, radius: float, box: Any = None
) -> int:
    """How many balls around images, within `box`, were found to hold a point of another class."""
    network, successes = network_of(frozen), 0
    wide, rng = in_float64(network), np.random.default_rng(0)
    for first in range(0, len(x), AT_ONCE):
        centre, own = (a[first : first + AT_ONCE] for a in (x.astype(np.float64), labels))
        fill = AT_ONCE - len(centre)
        centre, own = (np.concatenate([a, np.repeat(a[:1], fill, axis=0)]) for a in (centre, own))
        points = centre + radius * rng.uniform(-1, 1, centre.shape)
        points = _near(points, centre, norm, radius, box)
        for step in range(STEPS):
            with in_64_bits():
                slope = np.asarray(_slope(wide, points, own))
            move = np.sign(slope) if norm == "linf" else slope / _lengths(slope)
            points = points - radius * 0.5 * (1 - step / STEPS) * move
            points = _near(points, centre, norm, radius, box)
        count = AT_ONCE - fill
        is_won = is_misclassified(network, points[:count], own[:count])
        about: Any = {"norm": norm, "radius": radius, "box": box}
        successes += int(is_inside(points[:count][is_won], centre[:count][is_won], **about).sum())
    return successes


def _near(points: Any, centre: Any, norm: str, radius: float, box: Any) -> np.ndarray:
    """Points inside the ball around centres, and inside the box: a cut moves towards the centre."""
    moved, within = points - centre, radius * (1 - 1e-9)
    if norm == "linf":
        points = centre + np.clip(moved, -within, within)
    else:
        points = centre + moved * np.minimum(1, within / _lengths(moved))
    return points if box is None else np.clip(points, *box)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    axes = tuple(range(1, vectors.ndim))
    return np.maximum(np.sqrt(np.square(vectors).sum(axes, keepdims=True)), 1e-30)


def measured(name: str, frozen: Any, split: Any, methods: Any, radii: Any) -> list[dict[str, Any]]:
    images = np.asarray(split.images)
    images = images.astype(np.float32) / (255 if images.dtype == np.uint8 else 1)
    labels, rows = np.asarray(split.labels).astype(np.int64), []
    for norm, sizes in radii.items():
        for radius in sizes:
            began, counts = time.perf_counter(), {}
            is_verified = np.zeros(len(images), bool)
            for word in methods:
                found = getattr(verifiers, word)().verify(
                    frozen, images, labels, norm=norm, radius=radius
                )
                counts[word] = int(found.is_verified.sum())
                is_verified |= found.is_verified
            some = images[is_verified], labels[is_verified]
            wins = attacked(frozen, *some, norm=norm, radius=radius)
            # The attack is one: at eight times the radius it finds other classes.
            far = attacked(frozen, some[0][:256], some[1][:256], norm=norm, radius=8 * radius)
            row = {
                "network": name,
                "norm": norm,
                "radius": radius,
                "images": len(images),
                "verified": counts,
                "attacked": len(some[0]),
                "successes": wins,
                "successes_of_256_at_8_radii": far,
                "seconds": round(time.perf_counter() - began, 1),
            }
            print(row, flush=True)
            rows.append(row)
    return rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0]).parse_args()
    digits, mnist = gj.data.digits(), gj.load(ZOO / "mnist_liresnet_small")
    rows = measured("digits", gj.load(ZOO / "digits"), digits.train, LINES, RADII)
    rows += measured("plain digits MLP", plain(digits), digits.train, LINES, RADII)
    test = gj.data.open_data(gj.data.DataConfig("mnist")).test
    test = gj.data.Split(test.images[:OF_MNIST], test.labels[:OF_MNIST])
    rows += measured("mnist_liresnet_small", mnist, test, ("Lipschitz",), {"l2": (0.3, 1.0)})
    save("verified", {"steps": STEPS, "rows": rows}, command="python -m experiments.rows.verified")


if __name__ == "__main__":
    main()
