"""A hunt through the front door: bodies of honest and hostile parts, `gj.freeze`, `gj.certify`.

A body is a chain of layers with one or two parts of one kind in it. Each part comes with a plain
function that says what its Python code does, hostile or not; the attack descends on that one, in
float64, inside the radius that `certify` states. A case is a body, weights and a point. A part may
be refused; it may certify, and then it must be true.
"""

import collections
import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.gloro import GloroNet
from gloro_jax.lipschitz.operators import Operator
from gloro_jax.pytrees import pytree_dataclass
from tests import draws

WIDTH, CLASSES, SHAPE = 4, 3, (3, 3, 1)
POINTS = 4
_STEPS = 10
# Scores are float32; an attack counts if it gets beyond what they may be wrong by.
_ROUNDING = 1e-5
_SHARE = 1 - 1e-4
TURN = np.linalg.qr(np.random.default_rng(0).standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
NORMS = gj.PowerIteration(steps=1)


class Own(layers.LipschitzLayer):
    """A layer of one's own, from a function of a Bounded."""

    fn: object

    def __call__(self, x):
        return self.fn(x)


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of a body: what is written, and what it does to a batch (n, WIDTH) in plain JAX."""

    bounded: Callable
    plain: Callable


def declared(fn, constant):
    """An honest layer without weights."""
    return Part(lambda x: x.apply(fn, lipschitz=constant), fn)


def times(c):
    return lambda x: x.apply(lambda v: c * v, lipschitz=float(c))


def mapped(fn, plain):
    return Part(lambda x: jax.tree.map(fn, x), plain)


def steep(c, join, plain):
    """`join` over the leaves of a steep branch and of the activation itself."""
    return Part(lambda x: jax.tree.map(join, times(c)(x), x), plain)


def keeping(use):
    """A function that keeps its activation for the next one: a skip connection by hand."""

    def bounded(x):
        kept = []

        def keep(v):
            kept.append(v)
            return v

        return x.apply(keep, lipschitz=1.0).apply(lambda v: use(v, kept[0]), lipschitz=1.0)

    return Part(bounded, lambda v: use(v, v))


def from_leaves(use):
    def bounded(x):
        value = jax.tree.leaves(x)[0]
        return times(1)(x).apply(lambda v: use(v, value), lipschitz=1.0)

    return Part(bounded, lambda v: use(v, v))


def replaced(c):
    def bounded(x):
        return dataclasses.replace(times(c)(x), _lipschitz=jax.tree.leaves(x)[1])

    return Part(bounded, lambda v: c * v)


def looped(fn, plain):
    def bounded(x):
        return jax.lax.scan(lambda carry, _: (fn(carry), None), x, None, length=2)[0]

    return Part(bounded, lambda v: plain(plain(v)))


def estimated(matrix):
    def stretch(v):
        return v @ jnp.asarray(matrix)

    def bounded(x):
        start = jnp.asarray([1.0, 0.1, -0.2, 0.3])
        return x.apply(stretch, lipschitz=gj.power_iteration(stretch, start, steps=1))

    return Part(bounded, lambda v: v @ jnp.asarray(matrix, v.dtype))


def constant(make, c):
    return Part(lambda x: x.apply(lambda v: c * v, lipschitz=make()), lambda v: c * v)


@pytree_dataclass()
class OwnMatrix(Operator):
    """A matrix whose norm is said to be a share of what it is."""

    kernel: object
    kernel_ndim = 2
    share = 1.0

    @property
    def input_shape(self):
        return (WIDTH,)

    def __call__(self, values, *, precision=None):
        return jnp.matmul(values, self.kernel, precision=precision)

    def norm(self):
        return gj.UpperBound(self.share * float(gj.matrix_norm(np.asarray(self.kernel))))


@pytree_dataclass()
class LyingMatrix(OwnMatrix):
    kernel: object
    share = 0.9


class OwnLinear(layers.LipschitzLayer):
    """A linear layer with an operator of one's own."""

    operator: type = OwnMatrix

    @nn.compact
    def __call__(self, x):
        def make():
            kernel = self.param("kernel", nn.initializers.orthogonal(), (WIDTH, WIDTH))
            return layers.Linear(self.operator(kernel))

        return self.apply_linear(x, make)


def by_shape(c):
    return lambda a: c * a if a.ndim else a


def draw(kind, rng):
    """A part of a kind: a Part, or a module with weights."""
    c = float(np.round(rng.uniform(2, 60), 2))
    matrix = (rng.standard_normal((WIDTH, WIDTH)) * 3).astype(np.float32)
    options = {
        "library": [
            layers.MinMax(),
            layers.ReLU(),
            layers.Abs(),
            layers.Dense(WIDTH),
            layers.Scale(-2.0),
            layers.Residual(layers.Dense(WIDTH)),
            layers.Residual(layers.MinMax()),
            layers.SmoothAbs(),
            layers.SmoothMinMax(),
        ],
        "layer of one's own": [
            declared(jax.nn.softplus, 1.0),
            declared(jnp.tanh, 1.0),
            declared(lambda v: jnp.sort(v, axis=-1), 1.0),
            declared(lambda v: jnp.roll(v, 1, axis=-1), 1.0),
            declared(lambda v: jnp.log1p(jnp.abs(v)), 1.0),
            declared(lambda v: jnp.clip(v, -1, 1), 1.0),
            declared(lambda v: c * jnp.sin(v), c),
            declared(lambda v: v * jnp.arange(4, dtype=v.dtype)[None], 3.0),
            declared(lambda v: v @ jnp.asarray(TURN, v.dtype), 1.00001),
            declared(jax.vmap(lambda row: c * row), c),
            OwnLinear(),
        ],
        "structure": [
            Part(lambda x: gj.Bounded.add(x, times(c)(x)), lambda v: (1 + c) * v),
            Part(lambda x: jax.jit(times(c))(x), lambda v: c * v),
            Part(lambda x: jax.checkpoint(times(c))(x), lambda v: c * v),
            looped(times(c), lambda v: c * v),
            mapped(lambda a: a, lambda v: v),
            Part(lambda x: gj.Bounded.add(x, x), lambda v: 2 * v),
            Part(
                lambda x: gj.Bounded.add(
                    x.apply(jnp.tanh, lipschitz=1.0), x.apply(jnp.sin, lipschitz=1.0)
                ),
                lambda v: jnp.tanh(v) + jnp.sin(v),
            ),
        ],
        "foreign constant": [
            constant(lambda: gj.UpperBound(np.float32(c) * 1.001), c),
            constant(lambda: gj.UpperBound(jnp.float32(c + 0.1)), c),
            constant(lambda: gj.UpperBound(jnp.sum(jnp.full(2, c / 2 + 0.1))), c),
            constant(lambda: int(c) + 1, c),
            constant(lambda: gj.matrix_norm(c * np.eye(3)), c),
            constant(lambda: np.float64(c), c),
            estimated(matrix),
            constant(lambda: gj.Estimate(jnp.float32(1)), c),
            constant(lambda: jnp.float32(1), c),
            constant(lambda: gj.UpperBound(-c), c),
            constant(lambda: gj.UpperBound(jnp.nan), c),
            constant(lambda: gj.UpperBound(1j * c), c),
            constant(lambda: -1.0, c),
            constant(lambda: "1", c),
            constant(lambda: jax.tree.map(lambda a: -a, gj.UpperBound(c)), c),
            constant(lambda: gj.UpperBound(jnp.log(jnp.zeros(()))), c),
            OwnLinear(LyingMatrix),
        ],
        "mapped tree": [
            mapped(lambda a: a, lambda v: v),
            mapped(by_shape(c), lambda v: c * v),
            mapped(jax.nn.hard_tanh, jax.nn.hard_tanh),
            mapped(lambda a: a[..., ::-1] if a.ndim else a, lambda v: v[..., ::-1]),
            mapped(
                lambda a: a.at[:, 0].multiply(c) if a.ndim else a, lambda v: v.at[:, 0].multiply(c)
            ),
            mapped(lambda a: jax.jit(by_shape(c))(a), lambda v: c * v),
            mapped(lambda a: a + c if a.ndim else a * 0.5, lambda v: v + c),
            steep(c, jnp.minimum, lambda v: jnp.minimum(c * v, v)),
            steep(c, lambda a, b: a if a.ndim else b, lambda v: c * v),
            steep(
                c, lambda a, b: jnp.maximum(a, b) if a.ndim else b, lambda v: jnp.maximum(c * v, v)
            ),
            steep(c, lambda a, b: a, lambda v: c * v),
            replaced(c),
            looped(lambda x: jax.tree.map(by_shape(c), x), lambda v: c * v),
            Part(
                lambda x: jax.checkpoint(lambda x: jax.tree.map(by_shape(c), x))(x), lambda v: c * v
            ),
        ],
        "kept activation": [
            keeping(lambda v, kept: v + c * kept),
            keeping(lambda v, kept: v * kept),
            keeping(lambda v, kept: c * kept),
            from_leaves(lambda v, kept: v + c * kept),
            from_leaves(jnp.maximum),
            from_leaves(lambda v, kept: c * kept),
            # Its honest twins: nothing is kept, or what is kept is a number.
            keeping(lambda v, kept: v),
            Part(lambda x: gj.Bounded.add(x, times(c)(x)), lambda v: v + c * v),
        ],
        "batch": [
            declared(lambda v: v[::-1], 1.0),
            declared(lambda v: v - v.mean(0, keepdims=True), 1.0),
            declared(lambda v: jnp.cumsum(v, axis=0) / 4, 1.0),
            declared(lambda v: v - v.mean(-1, keepdims=True), 1.0),
            mapped(lambda a: a[::-1] if a.ndim else a, lambda v: v[::-1]),
        ],
    }
    return options[kind][rng.integers(len(options[kind]))]


KINDS = (
    "library", "layer of one's own", "structure", "foreign constant", "mapped tree",
    "kept activation", "batch",
)  # fmt: skip


def _plain(part, params, v):
    """What a part does, written once more."""
    if isinstance(part, Part):
        return part.plain(v)
    name, softness = type(part).__name__, 0.1
    a, b = v[..., : WIDTH // 2], v[..., WIDTH // 2 :]
    if name in ("Dense", "OwnLinear"):
        return v @ params["kernel"] + params.get("bias", np.zeros(WIDTH))[None]
    if name == "Scale":
        return params["factor"] * v
    if name == "Residual":
        return v + _plain(part.branch, params.get("branch", {}), v)
    if name == "SmoothMinMax":
        half = jnp.sqrt((a - b) ** 2 + softness**2) / 2
        return jnp.concatenate([(a + b) / 2 + half, (a + b) / 2 - half], axis=-1)
    return {
        "MinMax": lambda: jnp.concatenate([jnp.maximum(a, b), jnp.minimum(a, b)], axis=-1),
        "ReLU": lambda: jnp.maximum(v, 0),
        "Abs": lambda: jnp.abs(v),
        "SmoothAbs": lambda: jnp.sqrt(v**2 + softness**2) - softness,
    }[name]()


class Body:
    """A network of a kind, its plain twin, and the compiled attack."""

    def __init__(self, kind, rng):
        self.kind = kind
        parts = [draw(kind, rng) for _ in range(rng.integers(1, 3))]
        between = [draw("library", rng) for _ in parts]
        self.parts = [p for pair in zip(between, parts, strict=True) for p in pair]
        own = [Own(p.bounded) if isinstance(p, Part) else p for p in self.parts]
        chain = [layers.Flatten(), layers.Dense(WIDTH), *own]
        self.net = GloroNet(nn.Sequential(chain), num_classes=CLASSES)
        self.variables = None
        self._ascend = jax.jit(jax.vmap(self._attack, in_axes=(None, 0, 0, 0, 0)))

    def scores(self, params, x):
        body = params.get("body", {})
        v = x.reshape(len(x), -1)
        first = body["layers_1"]
        v = v @ first["kernel"] + first["bias"][None]
        for number, part in enumerate(self.parts, start=2):
            v = _plain(part, body.get(f"layers_{number}", {}), v)
        return v @ params["head_kernel"] + params["head_bias"][None]

    def weights(self, rng):
        """Fresh weights in the shapes of the network."""
        if self.variables is None:
            example = jnp.ones((1, *SHAPE))
            self.variables = draws.init(self.net, 0, example, norms=NORMS)
        scale = 10.0 ** rng.uniform(-1, 1)
        return jax.tree.map(
            lambda p: (scale * rng.standard_normal(p.shape)).astype(np.float32),
            self.variables["params"],
        )

    def attack(self, params, x, prediction, radius):
        """The least lead of a prediction that was found, in proportion to the scores' size."""
        with jax.enable_x64(True):
            exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
            at = np.asarray(x, np.float64)
            size = np.abs(np.asarray(self.scores(exact, at))).max(axis=-1) + 1e-30
            least = np.full(len(x), np.inf)
            for shift in range(1, CLASSES):
                other = (prediction + shift) % CLASSES
                lead = np.asarray(self._ascend(exact, at, prediction, other, radius))
                least = np.minimum(least, np.where(np.isfinite(lead), lead, np.inf))
        return least / size

    def _attack(self, params, x, own, other, reach):
        def lead(y):
            scores = self.scores(params, y[None])[0]
            return scores[own] - scores[other]

        def step(y, _):
            slope = jnp.nan_to_num(jax.grad(lead)(y))
            length = jnp.sqrt(jnp.sum(slope**2))
            y = x - reach * slope / jnp.where(length > 0, length, 1.0)
            return y, lead(y)

        start = x + reach * jax.random.normal(jax.random.key(0), x.shape) / np.sqrt(x.size) / 2
        _, leads = jax.lax.scan(step, start, length=_STEPS)
        return jnp.min(leads)


@dataclasses.dataclass
class Found:
    """What a hunt came to: cases by kind and outcome; what is false, and would be at 2 radii."""

    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    bodies: int = 0
    false: list[str] = dataclasses.field(default_factory=list)
    seen: int = 0

    def of(self, outcome, kind=None):
        """How many cases had an outcome."""
        return sum(n for (k, o), n in self.counts.items() if o == outcome and kind in (None, k))


def hunt(bodies, *, weights, seed=0, on_progress=lambda cases: None):
    """Tries `bodies` bodies with `weights` draws of weights each, and POINTS points a draw.

    The attack is made at twice the radius as well, to see that the hunt sees.
    """
    found = Found()
    for number in range(bodies):
        rng = np.random.default_rng([seed, number])
        body = Body(KINDS[number % len(KINDS)], rng)
        found.bodies += 1
        for _ in range(weights):
            _try(body, rng, found, f"seed {seed}, body {number}, {body.kind}")
        on_progress(POINTS * weights * (number + 1))
    return found


def _try(body, rng, found, where):
    count = lambda outcome, n: found.counts.update({(body.kind, outcome): n})  # noqa: E731
    x = rng.uniform(size=(POINTS, *SHAPE)).astype(np.float32)
    try:
        params = body.weights(rng)
        frozen = gj.freeze(body.net, {"params": params}, input_shape=SHAPE)
        certificate = gj.certify(frozen, x, epsilon=1e-9)
    except (TypeError, ValueError):
        count("refused", POINTS)
        return
    radius = np.asarray(certificate.radius, np.float64)
    is_held = np.asarray(certificate.is_certified) & (radius > 0) & (radius < 1e6)
    count("certified", int(is_held.sum()))
    count("not certified", int((~is_held).sum()))
    reach = np.where(is_held, radius * _SHARE, 0.0)
    prediction = np.asarray(certificate.prediction)
    found.seen += int((is_held & (body.attack(params, x, prediction, 2 * reach) < 0)).sum())
    lead = body.attack(params, x, prediction, reach)
    for i in np.nonzero(is_held & (lead < -_ROUNDING))[0]:
        count("false", 1)
        found.false.append(f"{where}, point {i}: lead {lead[i]:.3g} of the scores' size")
