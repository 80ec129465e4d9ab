"""Relaxed certificates against strict ones, and a repairing layer of 100 classes: paired times.

Command: python -m experiments.bench.guarantees
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import gloro_jax as gj
from gloro_jax.guarantees import TopK, cifar100_superclasses
from gloro_jax.models import gloro_2c2f, gloro_6c2f
from gloro_jax.repair import Order, PredictedIn, Property, Repair

BATCH, PAIRS = 256, 15


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def ratio(slow: Callable[[], Any], fast: Callable[[], Any]) -> tuple[float, float]:
    """The median ratio of paired times, and the median time of `fast`."""
    for run in (slow, fast):
        run()
    pairs = [(seconds(slow), seconds(fast)) for _ in range(PAIRS)]
    return statistics.median(a / b for a, b in pairs), statistics.median(b for _, b in pairs)


def certificates() -> None:
    wide = dataclasses.replace(gloro_6c2f(), num_classes=100)
    cases = {
        "2C2F, 10 classes": (gloro_2c2f(), (28, 28, 1), [TopK(3), TopK(9)]),
        "6C2F, 100 classes": (wide, (32, 32, 3), [TopK(5), cifar100_superclasses()]),
    }
    for name, (model, shape, guarantees) in cases.items():
        net, x = model.build(), jax.random.uniform(jax.random.key(0), (BATCH, *shape))
        variables = net.init(jax.random.key(1), x[:1], norms=gj.PowerIteration(steps=1))
        frozen = gj.freeze(net, variables, input_shape=shape)
        for guarantee in guarantees:
            found, strict = ratio(
                lambda f=frozen, x=x, g=guarantee: gj.certify(f, x, epsilon=0.1, guarantee=g),
                lambda f=frozen, x=x: gj.certify(f, x, epsilon=0.1),
            )
            words = str(guarantee)[:24]
            print(f"{name}, {words}: {found:.3f}x the time of certify, {1e3 * strict:.1f} ms")


def repair() -> None:
    properties = []
    for one in cifar100_superclasses().sets:
        outside = sorted(set(range(100)) - set(one))
        choice = frozenset((low, high) for low in outside for high in one)
        properties.append(Property(PredictedIn(one), Order((choice,))))
    layer, x = Repair(properties, 100), jnp.zeros((BATCH, 1))
    values = jax.random.normal(jax.random.key(0), (BATCH, 100))
    layer(x, values)
    spent = statistics.median(seconds(lambda: layer(x, values)) for _ in range(PAIRS))
    print(f"repair, 100 classes, 20 properties: {1e3 * spent / BATCH:.3f} ms a sample")


if __name__ == "__main__":
    certificates()
    repair()
