"""A hunt for false certificates: hostile networks, points, and attacks at our own radius.

A case is an architecture from a fixed list, weights of a hostile kind, and a point. Norms come
from `gj.matrix_norm` and `gj.conv_norm`, radii from the code that writes certificate files; the
attack is a targeted projected gradient in float64, written here on its own, at 1 - 1e-6 of the
radius. Some heads are aligned with the body's top singular vector, where the bound is exactly
tight, so that a norm three millionths too small is found.
"""

import dataclasses
import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

import gloro_jax as gj
from gloro_jax.certificates import check_certificate as checker
from gloro_jax.certificates.points import claim_points
from gloro_jax.lipschitz import upper

_SHARE = 1 - 1e-6
_BATCH = 64
_STEPS = 12
_TORUS_SHARE = 0.05


def conv(inputs, outputs, size, kernel, strides=(1, 1), pads=((1, 1), (1, 1)), groups=1):
    """A convolution, as a shape and the geometry of its step."""
    geometry = {
        "image_size": list(size),
        "strides": list(strides),
        "pads": [list(pair) for pair in pads],
        "groups": groups,
    }
    return "conv", (*kernel, inputs // groups, outputs), geometry


def dense(inputs, outputs):
    """A dense layer, likewise."""
    return "dense", (inputs, outputs), {}


MINMAX = {"op": "minmax", "pairing": "halves", "order": "max_min"}
FLATTEN = {"op": "flatten"}
# name: (input shape, chain of layers, features before the head, classes)
ARCHITECTURES = {
    "linear": ((7,), [dense(7, 5)], 5, 3),
    "wide": ((4,), [dense(4, 12), MINMAX], 12, 2),
    "deep": ((6,), [dense(6, 8), MINMAX, dense(8, 8), {"op": "relu"}, dense(8, 4), MINMAX], 4, 4),
    "conv 3x3": ((5, 6, 2), [conv(2, 4, (5, 6), (3, 3)), MINMAX, FLATTEN], 120, 3),
    "conv 3x3, linear": ((6, 5, 3), [conv(3, 2, (6, 5), (3, 3)), FLATTEN], 60, 2),
    "conv 4x4 s2": (
        (7, 6, 1),
        [conv(1, 4, (7, 6), (4, 4), (2, 2), ((1, 2), (1, 1))), FLATTEN],
        48,
        3,
    ),
    "conv 2x3, lopsided": (
        (4, 5, 2),
        [conv(2, 2, (4, 5), (2, 3), (1, 1), ((1, 0), (2, 0))), {"op": "abs"}, FLATTEN],
        40,
        2,
    ),
    "depthwise": ((5, 5, 3), [conv(3, 3, (5, 5), (3, 3), groups=3), FLATTEN], 75, 3),
    "patches": (
        (6, 6, 2),
        [conv(2, 5, (6, 6), (2, 2), (2, 2), ((0, 0), (0, 0))), FLATTEN],
        45,
        2,
    ),
    "residual": (
        (4, 4, 2),
        [[conv(2, 2, (4, 4), (3, 3)), MINMAX], FLATTEN],
        32,
        3,
    ),
}
KINDS = (
    "gaussian", "opponent", "high-pass", "smooth", "low rank", "near ties", "sparse",
    "identity", "tiny", "huge", "mixed scales", "equal columns",
)  # fmt: skip


@dataclasses.dataclass
class Found:
    """What a hunt came to.

    Attributes:
        cases: how many were tried.
        certified: how many had a radius above 0.
        false: descriptions of false certificates.
        nearest: the smallest lead left by an attack over the lead at the point.
    """

    cases: int = 0
    certified: int = 0
    false: list[str] = dataclasses.field(default_factory=list)
    nearest: float = math.inf


def hunt(cases, *, seed=0, shrink=1.0, on_progress=lambda done: None):
    """Tries about `cases` cases; `shrink` multiplies every norm, to see that the hunt sees."""
    found = Found()
    for number, name in enumerate(itertools.cycle(ARCHITECTURES)):
        if found.cases >= cases:
            return found
        rng = np.random.default_rng([seed, number])
        batch = [_case(name, rng, shrink) for _ in range(min(_BATCH, cases - found.cases))]
        _attack(name, batch, found, f"seed {seed}, batch {number}")
        on_progress(found.cases)
    return found


def _case(name, rng, shrink):
    """One network at one point: (weights in order, point, prediction, radius, what it is)."""
    shape, chain, features, classes = ARCHITECTURES[name]
    kind = str(rng.choice(KINDS))
    arrays, norms = {}, {}
    steps = [_step(layer, rng, kind, arrays, norms, shrink) for layer in chain]
    head = _weights((features, classes), rng, kind)
    if rng.random() < 0.5:
        head = _aligned(steps, arrays, norms, shape, head, rng)
    arrays["head"], arrays["head bias"] = head, _bias(classes, rng, kind)
    header = {"network": steps, "head": {"kernel": "head", "bias": "head bias"}}
    network = checker.Network(header, arrays)
    network.norms = norms
    x = rng.uniform(size=(1, *shape)).astype(np.float32)
    scores = network.scores(x)
    claim = claim_points(network, *scores, epsilon=1e-3, guarantee=None)
    names = [name for name in arrays if not name.startswith("head")]
    weights = [arrays[name] for name in (*names, "head", "head bias")]
    return weights, x[0], int(claim["prediction"][0]), float(claim["radius"][0]), kind


def _step(layer, rng, kind, arrays, norms, shrink):
    if isinstance(layer, dict):
        return layer
    if isinstance(layer, list):
        branch = [_step(inner, rng, kind, arrays, norms, shrink) for inner in layer]
        return {"op": "sum", "branches": [[], branch]}
    op, shape, geometry = layer
    name = f"layer{len(norms)}"
    arrays[name], arrays[f"{name} bias"] = _weights(shape, rng, kind), _bias(shape[-1], rng, kind)
    if op == "conv":
        options = {key: geometry[key] for key in ("image_size", "strides", "groups")}
        options |= {key: tuple(options[key]) for key in ("image_size", "strides")}
        pads = tuple(map(tuple, geometry["pads"]))
        is_forced = rng.random() < _TORUS_SHARE
        norm = _conv_norm(arrays[name], is_forced, padding=pads, **options)
    else:
        norm = gj.matrix_norm(arrays[name])
    norms[name] = float(norm) * shrink
    return {"op": op, "layer": name, "kernel": name, "bias": f"{name} bias", **geometry}


def _conv_norm(kernel, is_on_torus, **options):
    """`gj.conv_norm`, now and then by the route that is meant for larger operators."""
    side = upper.EXPLICIT_SIDE
    upper.EXPLICIT_SIDE = 0 if is_on_torus else side
    try:
        return gj.conv_norm(kernel, **options)
    finally:
        upper.EXPLICIT_SIDE = side


def _weights(shape, rng, kind):
    w = rng.standard_normal(shape)
    if kind == "opponent":  # an all-ones vector is orthogonal to every filter
        w -= w.mean(axis=tuple(range(w.ndim - 1)), keepdims=True)
    elif kind == "high-pass" and w.ndim == 4:
        w = np.abs(w) * (-1.0) ** np.add.outer(*map(np.arange, shape[:2]))[..., None, None]
    elif kind == "smooth":
        w = 1 + 0.1 * np.abs(w)
    elif kind == "low rank":
        w = rng.standard_normal((*shape[:-1], 1)) * rng.standard_normal(shape[-1]) + 1e-4 * w
    elif kind == "near ties":
        w = np.sign(w) + 1e-4 * w
    elif kind == "sparse":
        w *= rng.random(shape) < 0.2
    elif kind == "identity":
        w *= 0.01
        middle = tuple(n // 2 for n in shape[:-2])
        w[middle] += np.eye(*shape[-2:])
    elif kind == "tiny":
        w *= 10.0 ** -rng.uniform(5, 30)
    elif kind == "huge":
        w *= 10.0 ** rng.uniform(3, 12)
    elif kind == "mixed scales":
        w *= 10.0 ** rng.uniform(-12, 3, shape[-1])
    elif kind == "equal columns":
        w[..., 1:2] = w[..., 0:1]
    return w.astype(np.float32)


def _bias(size, rng, kind):
    scale = {"tiny": 1e-6, "huge": 1e6}.get(kind, 1.0)
    return (scale * rng.standard_normal(size) * rng.choice([0, 0.1, 1])).astype(np.float32)


def _aligned(steps, arrays, norms, shape, head, rng):
    """A head along the direction in which the body stretches most, if the body is linear."""
    if any(step["op"] not in ("conv", "dense", "flatten") for step in steps):
        return head
    without = {name: np.zeros_like(a) if "bias" in name else a for name, a in arrays.items()}
    spare = {"head": np.zeros((1, 2), np.float32), "head bias": np.zeros(2, np.float32)}
    header = {"network": steps, "head": {"kernel": "head", "bias": "head bias"}}
    network = checker.Network(header, {**without, **spare})
    network.norms = norms
    size = math.prod(shape)
    body, _ = network.run(steps, np.eye(size).reshape(size, *shape), np.zeros(size))
    top = np.linalg.svd(body, full_matrices=False)[2][0]
    return (top[:, None] * rng.standard_normal(head.shape[1])).astype(np.float32)


def _forward(name, weights, x):
    """The network in plain JAX: an implementation of its own, for the attack."""
    weights = list(weights)

    def run(layers, v):
        for layer in layers:
            if isinstance(layer, list):
                v = v + run(layer, v)
            elif isinstance(layer, dict):
                v = _activation(layer["op"], v)
            elif layer[0] == "dense":
                v = v @ weights.pop(0) + weights.pop(0)
            else:
                geometry = layer[2]
                v = jax.lax.conv_general_dilated(
                    v[None],
                    weights.pop(0),
                    geometry["strides"],
                    geometry["pads"],
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                    feature_group_count=geometry["groups"],
                )[0] + weights.pop(0).reshape(1, 1, -1)
        return v

    features = run(ARCHITECTURES[name][1], x)
    return features @ weights[0] + weights[1]


def _activation(op, v):
    if op == "minmax":
        a, b = jnp.split(v, 2, axis=-1)
        return jnp.concatenate([jnp.maximum(a, b), jnp.minimum(a, b)], axis=-1)
    return {"relu": jax.nn.relu, "abs": jnp.abs, "flatten": jnp.ravel}[op](v)


_compiled = {}


def _ascend(name):
    """A jitted, batched step of the attack: (x', the lead there)."""
    if name not in _compiled:

        def lead(x, weights, own, other):
            scores = _forward(name, weights, x)
            return scores[own] - scores[other]

        def attack(weights, x, own, other, reach):
            def step(y, _):
                value, slope = jax.value_and_grad(lead)(y, weights, own, other)
                largest = jnp.max(jnp.abs(slope))
                slope = slope / jnp.where(largest > 0, largest, 1.0)
                length = jnp.sqrt(jnp.sum(slope**2))
                # The nearest point of a linear function is at the ball's edge, against the slope.
                y = x - reach * slope / jnp.where(length > 0, length, 1.0)
                return y, value

            y, _ = jax.lax.scan(step, x, length=_STEPS)
            return y, lead(y, weights, own, other), lead(x, weights, own, other)

        _compiled[name] = jax.jit(jax.vmap(attack))
    return _compiled[name]


def _attack(name, batch, found, where):
    classes = ARCHITECTURES[name][3]
    weights, points, own, radii, kinds = zip(*batch, strict=True)
    found.cases += len(batch)
    found.certified += sum(radius > 0 for radius in radii)
    own, reach = np.array(own), np.array(radii) * _SHARE
    reach = np.where(reach < 1e12, reach, 0.0)
    with jax.enable_x64(True):
        columns = [np.stack(column).astype(np.float64) for column in zip(*weights, strict=True)]
        x = np.stack(points).astype(np.float64)
        for shift in range(1, classes):
            other = (own + shift) % classes
            y, lead, start = map(np.asarray, _ascend(name)(columns, x, own, other, reach))
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.where((reach > 0) & (start > 0), lead / start, np.inf)
            found.nearest = min(found.nearest, float(np.nanmin(share)))
            for i in np.nonzero((reach > 0) & (lead <= 0))[0]:
                if _is_inside(y[i], x[i], radii[i]):
                    found.false.append(f"{where}, {name}, {kinds[i]}, case {i}: lead {lead[i]:.3g}")


def _is_inside(y, x, radius):
    """Whether the exact distance of two float64 points is within the radius."""
    pairs = zip(y.ravel().tolist(), x.ravel().tolist(), strict=True)
    squared = sum((Fraction(a) - Fraction(b)) ** 2 for a, b in pairs)
    return squared <= Fraction(radius) ** 2
