"""Small networks to verify, redrawn without freezing each anew, and their exact radii in numpy.

Nothing here shares code with `gloro_jax.verifiers`: a network is a list of (weights, bias) with an
activation between them, and a pattern of an activation is a choice of affine map per unit.
"""

import dataclasses
import functools
import itertools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.network import network_of
from tests import draws

CLASSES = 3


@functools.cache
def template(activation, widths, inputs=3):
    """A frozen network of the architecture."""
    acts = {"relu": layers.ReLU, "minmax": layers.MinMax, "abs": layers.Abs}
    body = []
    for number, width in enumerate(widths):
        body.append(layers.Dense(width, name=f"dense_{number}"))
        if activation is not None:
            body.append(acts[activation](name=f"act_{number}"))
    net = gj.GloroNet(nn.Sequential(body or [layers.Flatten(name="flatten")]), CLASSES)
    example = jnp.zeros((1, inputs))
    variables = draws.init(net, 0, example, norms=gj.PowerIteration(steps=1))
    return gj.freeze(net, variables, input_shape=(inputs,))


def redrawn(frozen, seed):
    """The network with other weights, and they as [(kernel, bias), ...], the head last."""
    network, rng = network_of(frozen), np.random.default_rng(seed)
    arrays, norms, pairs, lipschitz = {}, {}, [], 1.0
    for step in network.steps:
        options = dict(step.options)
        if step.op != "dense":
            continue
        shape = network.arrays[options["kernel"]].shape
        kernel = (rng.normal(size=shape) * 1.5 / np.sqrt(shape[0])).astype(np.float32)
        bias = (rng.normal(size=shape[1]) * 0.3).astype(np.float32)
        arrays |= {options["kernel"]: kernel, options["bias"]: bias}
        norm = np.linalg.norm(kernel.astype(np.float64), 2) * (1 + 1e-9)
        norms[options["layer"]] = np.float64(
            np.linalg.norm(kernel) if options["layer"] == "head" else norm
        )
        lipschitz *= 1.0 if options["layer"] == "head" else norm
        pairs.append((kernel.astype(np.float64), bias.astype(np.float64)))
    rows = pairs[-1][0].T
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1) * (1 + 1e-9)
    return dataclasses.replace(
        network,
        arrays=arrays,
        norms=norms,
        lipschitz=np.float64(lipschitz),
        head_distances=distances,
    ), pairs


def images(seed, count=2, inputs=3):
    return np.random.default_rng(1000 + seed).uniform(0, 1, (count, inputs)).astype(np.float32)


def scores(pairs, activation, x):
    for kernel, bias in pairs[:-1]:
        x = _activated(x @ kernel + bias, activation)
    return x @ pairs[-1][0] + pairs[-1][1]


def _activated(z, activation):
    if activation == "relu":
        return np.maximum(z, 0)
    if activation == "abs":
        return np.abs(z)
    a, b = np.split(z, 2, axis=-1)
    return np.concatenate([np.maximum(a, b), np.minimum(a, b)], axis=-1)


def exact_l2_radius(pairs, activation, x):
    """The distance from x (d,) to the nearest point of another class, over all patterns."""
    label, best = int(np.argmax(scores(pairs, activation, x))), np.inf
    widths = [k.shape[1] // (2 if activation == "minmax" else 1) for k, _ in pairs[:-1]]
    for pattern in itertools.product((False, True), repeat=sum(widths)):
        matrix, constant, rows, limits, at = np.eye(len(x)), np.zeros(len(x)), [], [], 0
        for (kernel, bias), width in zip(pairs[:-1], widths, strict=True):
            matrix, constant = matrix @ kernel, constant @ kernel + bias
            on, at = np.array(pattern[at : at + width]), at + width
            if activation == "minmax":
                difference = matrix[:, :width] - matrix[:, width:]
                shift = constant[:width] - constant[width:]
                order = np.concatenate([np.where(on, 0, width), np.where(on, width, 0)])
                order = order + np.tile(np.arange(width), 2)
                pre, offset = difference, shift
                matrix, constant = matrix[:, order], constant[order]
            else:
                pre, offset = matrix, constant
                low = {"relu": 0.0, "abs": -1.0}[activation]
                factor = np.where(on, 1.0, low)
                matrix, constant = matrix * factor, constant * factor
            sign = np.where(on, -1.0, 1.0)
            rows.append((pre * sign).T)
            limits.append(-offset * sign)
        head, bias = pairs[-1]
        matrix, constant = matrix @ head, constant @ head + bias
        for rival in range(CLASSES):
            if rival != label:
                lead = matrix[:, label] - matrix[:, rival]
                bound = np.append(np.concatenate([*limits, []]), constant[rival] - constant[label])
                best = min(best, _distance(np.vstack([*rows, lead[None]]), bound, x))
    return best


def _distance(rows, limits, x):
    """From x to the nearest point with rows point <= limits: non-negative least squares."""
    room = rows @ x - limits
    system = np.vstack([-rows.T, room[None]])
    goal = np.zeros(len(system))
    goal[-1] = 1.0
    weights, residual = scipy.optimize.nnls(system, goal, maxiter=1000)
    if residual < 1e-9:
        return np.inf
    left = system @ weights - goal
    return float(np.linalg.norm(left[:-1] / left[-1]))
