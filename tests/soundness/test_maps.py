"""Maps with weights: each bound against brute force in float64, over many random cases."""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.freezing import from_arrays
from gloro_jax.layers.aol import rescaled
from gloro_jax.layers.bro import reflector
from gloro_jax.lipschitz.lower import lower_bound
from gloro_jax.lipschitz.operators import Matrix, WeightedMap
from gloro_jax.maps import CircularConvolution, ConvexPotential, Translation
from gloro_jax.pytrees import pytree_dataclass
from tests import draws
from tests.lipschitz.test_upper import exact_conv_norm

# A few of the random cases run each time, 500 of each in `make test-all`.
random_cases = pytest.mark.parametrize(
    ("seed", "cases"), [(0, 8), pytest.param(1, 500, marks=pytest.mark.slow)]
)


def steepest(kernel, tau):
    """The largest norm of I - tau W^T D W over every pattern of active units."""
    inputs, hidden = kernel.shape
    patterns = (np.array(bits, float) for bits in itertools.product((0, 1), repeat=hidden))
    slopes = (np.eye(inputs) - tau * (kernel * bits) @ kernel.T for bits in patterns)
    return max(np.linalg.norm(slope, ord=2) for slope in slopes)


@random_cases
def test_a_convex_potential_is_never_bounded_below_its_steepest_slope(seed, cases):
    rng = np.random.default_rng(seed)
    for _ in range(cases):
        inputs, hidden = rng.integers(1, 6, 2)
        kernel = (10.0 ** rng.uniform(-6, 3) * rng.standard_normal((inputs, hidden))).astype("f4")
        exact = kernel.astype(np.float64)
        tau = np.float32(rng.uniform(0, 6) / np.linalg.norm(exact, ord=2) ** 2)
        bound = float(ConvexPotential(kernel, np.zeros(hidden, "f4"), tau).norm())
        truth = steepest(exact, float(tau))
        assert bound >= truth * (1 - 1e-13)
        formula = max(1.0, float(tau) * np.linalg.norm(exact, ord=2) ** 2 - 1)
        assert bound <= 1.001 * formula
        # All units active is a pattern, so beyond 2 / |W|^2 the formula is the truth.
        assert formula == pytest.approx(max(truth, 1.0), rel=1e-9)


def test_a_step_from_a_norm_five_percent_low_is_counted():
    kernel = np.diag([1.0, 0.5]).astype("f4")
    low = ConvexPotential(kernel, np.zeros(2, "f4"), np.float32(2 / 0.95**2))
    assert float(low.norm()) == pytest.approx(1.216, abs=1e-3)
    right = dataclasses.replace(low, tau=np.float32(2.0))
    assert float(right.norm()) == pytest.approx(1.0, abs=1e-5)
    for tau in (-0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="at least 0"):
            dataclasses.replace(low, tau=np.float32(tau)).norm()


@pytest.mark.parametrize("image", [None, (4, 3)])
def test_the_adjoint_in_a_convex_potential_is_that_of_its_kernel(image):
    shape = (5, 4) if image is None else (3, 2, 2, 3)
    kernel, offset = draws.normal(0, shape), draws.normal(1, shape[-1:])
    potential = ConvexPotential(kernel, offset, jnp.float32(0.3), image)
    x = draws.normal(2, (1, *potential.input_shape))
    matrix = jax.jacobian(lambda v: potential.inner(v[None])[0].ravel())(x[0])
    matrix = np.asarray(matrix, np.float64).reshape(-1, x.size)
    wide = np.broadcast_to(offset, potential.inner(x).shape).ravel()
    flat = np.asarray(x, np.float64).ravel()
    wanted = flat - 0.3 * matrix.T @ np.maximum(matrix @ flat + wide, 0)
    assert np.allclose(np.asarray(potential(x)).ravel(), wanted, atol=1e-5)


def circular(kernel, image_size, margin):
    """The matrix of a circular convolution of a padded image, cropped, by its definition."""
    height, width = image_size
    rows, columns, inputs, outputs = kernel.shape
    matrix = np.zeros((height, width, outputs, height, width, inputs))
    for y, x, v, u in itertools.product(*map(range, (height, width, height, width))):
        matrix[y, x, :, v, u] = kernel[(y - v) % rows, (x - u) % columns].T
    return matrix.reshape(height * width * outputs, -1)


def whole_circle(kernel):
    rows, columns = kernel.shape[:2]
    return circular(kernel, (rows, columns), 0)


@random_cases
def test_a_circular_convolution_is_bounded_by_its_whole_matrix(seed, cases):
    rng = np.random.default_rng(seed)
    for _ in range(cases):
        size, margin = tuple(int(n) for n in rng.integers(1, 4, 2)), int(rng.integers(0, 2))
        grid = tuple(n + 2 * margin for n in size)
        shape = (*grid, *rng.integers(1, 4, 2))
        kernel = (10.0 ** rng.uniform(-9, 9) * rng.standard_normal(shape)).astype("f4")
        operator = CircularConvolution(kernel, size, margin)
        exact = kernel.astype(np.float64)
        bound, truth = float(operator.norm()), np.linalg.norm(whole_circle(exact), ord=2)
        assert truth * (1 - 1e-13) <= bound <= 1.001 * truth
        assert lower_bound(operator) <= bound
        x = rng.standard_normal((1, *operator.input_shape)).astype("f4")
        wanted = circular(exact, size, margin) @ x.astype(np.float64).ravel()
        found = np.asarray(operator(jnp.asarray(x))).ravel()
        assert np.abs(found - wanted).max() <= 1e-5 * truth * np.linalg.norm(x)


def test_reflectors_are_orthogonal_and_stay_inside_the_unit_ball():
    for seed in range(20):
        columns = draws.normal(seed, (7, 3))
        exact = np.asarray(reflector(columns, ridge=1e-9), np.float64)
        assert np.allclose(exact @ exact.T, np.eye(7), atol=1e-4)
        assert np.isclose(np.linalg.det(exact), -1, atol=1e-4)  # three directions are reflected
        ridged = np.asarray(reflector(columns, ridge=0.5), np.float64)
        eigenvalues = np.linalg.eigvalsh(ridged)
        s2 = np.linalg.svd(np.asarray(columns, np.float64), compute_uv=False) ** 2
        e = 0.5 * s2.sum() / 3
        assert np.allclose(eigenvalues[:3], np.sort(1 - 2 * s2 / (s2 + e)), atol=1e-4)
        assert np.array_equal(
            reflector(1e-18 * columns, ridge=0.5), reflector(columns, ridge=0.5)
        ) or (np.allclose(reflector(1e-18 * columns, ridge=0.5), ridged, atol=1e-5))
    assert np.array_equal(reflector(jnp.zeros((3, 2)), ridge=1e-6), np.eye(3))


SIZES, QUICK = [(4, 4), (5, 3), (2, 6)], [(2, (5, 3))]


@pytest.mark.parametrize(
    ("window", "size"),
    [
        *QUICK,
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in itertools.product((1, 2, 3), SIZES)
            if case not in QUICK
        ),
    ],
)
def test_a_bro_convolution_reflects_at_each_frequency(window, size):
    net = gj.GloroNet(nn.Sequential([layers.BroConv(window, ridge=1e-9), layers.Flatten()]), 2)
    x = jnp.zeros((1, *size, 4))
    variables = draws.init(net, 1, x, norms=gj.PowerIteration(steps=1))
    frozen = gj.freeze(net, variables, input_shape=x.shape[1:])
    (operator,) = frozen.operators().values()
    matrix = whole_circle(np.asarray(operator.kernel, np.float64))
    assert np.allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-4)
    assert 1 - 1e-4 < frozen.lipschitz < 1 + 1e-3


@random_cases
def test_rescaled_kernels_have_norm_at_most_one(seed, cases):
    rng = np.random.default_rng(seed)
    for _ in range(cases):
        kernel = 10.0 ** rng.uniform(-20, 20) * rng.standard_normal(rng.integers(1, 4, 4))
        scaled = np.asarray(rescaled(jnp.asarray(kernel, jnp.float32)), np.float64)
        size = tuple(int(n) for n in rng.integers(3, 6, 2))
        pads = ((1, 2), (2, 1))
        assert exact_conv_norm(scaled, size, (1, 1), pads, 1) <= 1 + 1e-5
    orthogonal = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    kept = np.asarray(rescaled(jnp.asarray(orthogonal[None, None], jnp.float32)))
    assert np.allclose(kept[0, 0], orthogonal, atol=1e-4)  # AOL leaves an orthogonal matrix alone


def test_what_could_overflow_inside_a_map_is_refused():
    """W^T relu(W x) beyond float32 is hidden behind a small tau, and MinMax may drop it."""
    kernel = np.array([[6e18, 8e18, 0, 0]], "f4").T
    potential = ConvexPotential(kernel, np.zeros(1, "f4"), np.float32(2e-38))
    with pytest.raises(ValueError, match="could overflow inside"):
        potential.norm()
    small = dataclasses.replace(potential, kernel=kernel * np.float32(1e-12))
    assert float(small.norm()) >= 1
    with pytest.raises(ValueError, match="could overflow inside"):
        dataclasses.replace(small, offset=np.full(1, 1e10, "f4")).norm()


def test_a_function_of_ones_own_does_not_pass_as_the_librarys(untyped):
    def body(branch):
        layer = layers.Residual(branch)
        return nn.Sequential([layers.Flatten(), layer, layers.MinMax(), layers.FirstFeatures(2)])

    def init(net):
        x = jnp.zeros((1, 2, 2, 1))
        return net, draws.init(net, 0, x, norms=gj.PowerIteration(steps=1))

    with pytest.raises(TypeError, match="branch of a Residual is a layer"):
        init(gj.GloroNet(body(lambda t: t.apply(jnp.abs, lipschitz=1.0)), 2))

    class Softminus(layers.LipschitzLayer):
        def __call__(self, x):
            return x.apply(lambda v: -jnp.log(1 + jnp.exp(v)), lipschitz=1.0)

    net, variables = init(gj.GloroNet(body(Softminus()), 2))
    frozen = gj.freeze(net, variables, input_shape=(2, 2, 1))
    far = np.array([100.0, 0, 0, 0], "f4").reshape(1, 2, 2, 1)  # exp overflows, MinMax hides it
    certify = jax.jit(lambda x: gj.certify(frozen, x, epsilon=1e-3))
    assert not certify(far).is_certified.any()


def test_a_translation_that_would_broadcast_is_refused():
    x = jnp.zeros((2, 3, 4, 5))
    for shape in ((3, 4, 1), (1, 1, 5)):
        assert Translation(jnp.ones(shape), (3, 4, 5))(x).shape == x.shape
    for shape in ((2, 4, 5), (5,), (3, 4, 5, 5)):
        with pytest.raises(ValueError, match="does not fit"):
            Translation(jnp.ones(shape), (3, 4, 5))(x)


def frozen_potential():
    net = gj.GloroNet(nn.Sequential([layers.CplDense(), layers.Dense(4)]), 3)
    init = draws.init(net, 0, jnp.zeros((1, 5)), norms=gj.PowerIteration(steps=1))
    return net, gj.freeze(net, init, input_shape=(5,))


def test_every_array_of_a_map_is_bound_by_the_digest():
    net, frozen = frozen_potential()
    arrays, given = frozen.arrays(), {"input_shape": (5,), "digest": frozen.digest}
    assert from_arrays(net, arrays, **given).digest == frozen.digest
    names = [name for name in arrays if "/operator/" in name]
    assert {name.rsplit("/")[-1] for name in names} == {"kernel", "offset", "tau"}
    for name in names:
        forged = {**arrays, name: np.asarray(arrays[name] * np.float32(1.01) + np.float32(1e-3))}
        with pytest.raises(ValueError, match="digest"):
            from_arrays(net, forged, **given)


def test_stacked_maps_are_bounded_one_by_one():
    class Turn(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return layers.CplDense()(x), None

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            turns = nn.scan(Turn, variable_axes={True: 0}, split_rngs={True: True}, length=3)
            return turns()(x, None)[0]

    net = gj.GloroNet(Stack(), 3)
    init = draws.init(net, 0, jnp.zeros((1, 5)), norms=gj.PowerIteration(steps=1))
    frozen = gj.freeze(net, init, input_shape=(5,))
    ((path, norms),) = frozen.stored_norms().items()
    operator = frozen.operators()[path]
    assert norms.shape == np.shape(operator.tau) == (3,)
    for i in range(3):
        single = ConvexPotential(operator.kernel[i], operator.offset[i], operator.tau[i])
        assert float(norms[i]) == pytest.approx(float(single.norm()), rel=1e-6)
    assert frozen.lipschitz == pytest.approx(float(np.prod(norms.astype(float))), rel=1e-6)


def test_an_operator_that_is_not_linear_says_so():
    @pytree_dataclass()
    class Curved(Matrix):
        def __call__(self, values, *, precision=None):
            return jnp.abs(super().__call__(values, precision=precision))

    with pytest.raises(TypeError, match="Curved is an Operator and its __call__ is not linear"):
        Curved(jnp.eye(3)).estimate(jnp.ones(3), steps=2)


@pytree_dataclass()
class Turned(WeightedMap):
    """|x W|, an own map with an array of another name."""

    weights: object

    @property
    def array_ndims(self):
        return {"weights": 2}

    @property
    def input_shape(self):
        return (self.weights.shape[-2],)

    def __call__(self, values, *, precision=None):
        return jnp.abs(jnp.matmul(values, self.weights, precision=precision))

    def norm(self):
        return gj.matrix_norm(np.asarray(self.weights))


class Own(layers.LipschitzLayer):
    @nn.compact
    def __call__(self, x):
        def make():
            init, shape = nn.initializers.orthogonal(), (x.shape[-1], 8)
            return layers.Linear(Turned(self.param("weights", init, shape, jnp.float32)))

        return self.apply_linear(x, make)


def test_a_map_of_ones_own_is_trained_frozen_and_reported(tiny_data, tmp_path):
    net = gj.GloroNet(nn.Sequential([layers.Flatten(), Own(), layers.Dense(8)]), 3)
    config = gj.training.TrainConfig(epsilon=0.1, epochs=2, batch_size=20)
    run = tmp_path / "run"
    result = gj.training.fit(net, tiny_data, config, run=run)
    pairs = gj.runs.read_summary(run)["norms"]
    assert len(pairs) == 2
    assert all(pair["estimate"] <= pair["guaranteed"] * (1 + 1e-5) for pair in pairs.values())
    assert gj.load(run, net=net).digest == result.frozen.digest


class KeepsItsWeights(layers.LipschitzLayer):
    """Declares a constant, and owns weights that nobody bounds."""

    @nn.compact
    def __call__(self, x):
        shift = self.param("shift", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return x.apply(lambda v: v + shift[None], lipschitz=1.0)


def test_a_layer_that_cannot_be_frozen_is_refused_before_training(tiny_data, tmp_path):
    body = nn.Sequential([layers.Flatten(), KeepsItsWeights(), layers.Dense(8)])
    config = gj.training.TrainConfig(epsilon=0.1, epochs=1, batch_size=20)
    with pytest.raises(TypeError, match=r'reads weights of its own.*"shift".*WeightedMap'):
        gj.training.fit(gj.GloroNet(body, 3), tiny_data, config, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (layers.BroDense(rank=4), (4,), "rank is at least 1 and below 4, got 4"),
        (layers.BroConv(3, rank=0), (4, 4, 2), "below 2, got 0"),
        (layers.BroConv(3), (224, 224, 64), "MiB when it is frozen"),
        (layers.ChannelShift(0.5), (4, 4, 8), "together at most all"),
        (layers.ChannelShift(0.01), (4, 4, 8), "at least 1"),
        (layers.BetaAbs(1.5), (4,), "between 0 and 1"),
        (layers.FirstFeatures(5), (4,), "no more than there are"),
        (layers.L2Pool(), (4,), "takes images"),
        (layers.CplDense(hidden=0), (4,), "hidden of CplDense is at least 1, got 0"),
        (layers.CplConv(rounds=0), (4, 4, 2), "rounds of CplConv is at least 1, got 0"),
        (layers.BroDense(ridge=-1.0), (4,), "ridge is at least 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(layer, shape, message):
    net = gj.GloroNet(nn.Sequential([layer, layers.Flatten()]), 2)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            lambda k: net.init(k, jnp.zeros((1, *shape)), norms=gj.PowerIteration(steps=1)),
            jax.random.key(0),
        )
