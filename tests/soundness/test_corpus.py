"""The hostile corpus: each published or obvious way to a false certificate, by name and source.

Three more, with attacks, are in test_published.py; two thousand random ones in test_hunt.py.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import certificates, layers
from gloro_jax.freezing import from_arrays
from tests import draws
from tests.certificates.test_certificates import frozen_net

NORMS = gj.PowerIteration(steps=1)


def dense_net(matrix, head, *, bias=None, classes=2):
    """A frozen net of one dense layer, and its image shape."""
    net = gj.GloroNet(nn.Sequential([layers.Flatten(), layers.Dense(matrix.shape[1])]), classes)
    dense = {"kernel": jnp.asarray(matrix), "bias": jnp.zeros(matrix.shape[1])}
    head_bias = jnp.zeros(classes) if bias is None else jnp.asarray(bias)
    params = {"body": {"layers_1": dense}, "head_kernel": jnp.asarray(head), "head_bias": head_bias}
    return gj.freeze(net, {"params": params}, input_shape=(len(matrix), 1, 1))


def points(count, size):
    x = np.random.default_rng(0).uniform(size=(count, size, 1, 1))
    return x.astype(np.float32)


def test_a_tie_masked_by_value_would_be_certified():
    # klasleino/gloro issue 9: every logit equal to the largest is masked, so a tie has no rival.
    head = np.float32([[1, 1, 0], [0, 0, 1]])
    frozen = dense_net(np.eye(2, dtype=np.float32), head, classes=3)
    x = np.float32([1, 0]).reshape(1, 2, 1, 1)
    assert list(frozen(x).values[0]) == [1, 1, 0]
    masked_by_value = np.asarray(frozen(x).values[0])
    rest = masked_by_value[masked_by_value < masked_by_value.max()]
    assert masked_by_value.max() - rest.max() == 1  # what that code believes the margin to be
    certificate = gj.certify(frozen, x, epsilon=1e-6)
    assert not certificate.is_certified[0]
    assert certificate.radius[0] == 0


@pytest.mark.parametrize("guard", ["added", "largest of the two"])
@pytest.mark.parametrize("scale", [1e-8, 1e-13])
def test_a_constant_inside_a_norm_lowers_it(guard, scale):
    # klasleino/gloro issue 8: x / (|x| + epsilon) shrinks a small iterate, and so the norm.
    matrix = np.random.default_rng(0).standard_normal((6, 4)) * scale
    truth, start = np.linalg.norm(matrix, ord=2), np.random.default_rng(1).standard_normal(6)
    v = start
    for _ in range(200):
        v = matrix @ (matrix.T @ v)
        length = np.linalg.norm(v)
        v = v / (length + 1e-12 if guard == "added" else max(length, 1e-12))
    guarded = np.linalg.norm(matrix.T @ v)
    assert guarded < 0.02 * truth
    assert truth * (1 - 1e-12) <= float(gj.matrix_norm(matrix)) <= truth * (1 + 1e-6)
    small = jnp.asarray(matrix, jnp.float32)
    estimate = gj.power_iteration(lambda x: x @ small, jnp.asarray(start, jnp.float32), steps=50)
    assert float(estimate) == pytest.approx(truth, rel=1e-3)


def test_a_circular_transform_of_the_image_s_own_size_is_below_the_truth():
    # Sedghi et al. 2018 is exact for circular convolutions, and no bound for zero padding.
    kernel = np.zeros((1, 3, 1, 1))
    kernel[0, :, 0, 0] = [-0.5, 0, 0.5]
    circular = np.abs(np.fft.fft(kernel[0, :, 0, 0], 6)).max()
    true = np.cos(np.pi / 7)
    assert circular < 0.97 * true
    bound = gj.conv_norm(kernel, image_size=(1, 6), strides=1, padding=((0, 0), (1, 1)))
    assert float(bound) >= true


def test_the_reshaped_kernel_is_not_the_operator():
    # torch.nn.utils.spectral_norm normalises this matrix, which is up to 3 times too small.
    kernel = np.ones((3, 3, 1, 1))
    reshaped = np.linalg.norm(kernel.reshape(-1, 1))
    bound = float(gj.conv_norm(kernel, image_size=(20, 20), strides=1, padding="SAME"))
    assert reshaped == 3
    assert bound > 8.8


def test_overlapping_max_pooling_is_refused():
    # The reference's pooling layers report constant 1 whatever their stride.
    body = nn.Sequential([layers.MaxPool(2, strides=1), layers.Flatten()])
    with pytest.raises(ValueError, match="not 1-Lipschitz"):
        gj.GloroNet(body, 2).init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), norms=NORMS)


def test_a_negative_scale_stretches_by_its_absolute_value():
    # A learned residual scale used as its own bound makes the product negative, or shrinks a sum.
    body = nn.Sequential([layers.Residual(layers.Scale(-3.0)), layers.Flatten()])
    net = gj.GloroNet(body, num_classes=2)
    x = jnp.ones((1, 2, 2, 1))
    variables = draws.init(net, 0, x, norms=NORMS)
    assert gj.freeze(net, variables, input_shape=(2, 2, 1)).lipschitz >= 4


def test_an_orthogonal_layer_is_certified_as_materialised():
    # "Orthogonal by construction, so 1": the float32 matrix is not, nor need it be exactly.
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))
    stored = (q * (1 + 3e-7)).astype(np.float32)
    truth = np.linalg.norm(stored.astype(np.float64), ord=2)
    assert truth > 1
    frozen = dense_net(stored, np.eye(64, 2, dtype=np.float32))
    assert frozen.lipschitz >= truth


def test_a_deviation_outside_the_network_makes_its_epsilon_another_one():
    # Certifying in normalised units overstates a radius in pixels by 1 / std.
    std = 0.2
    body = [layers.Flatten(), layers.Dense(4)]
    inside = gj.GloroNet(nn.Sequential([layers.Normalize((0.5,), (std,)), *body]), 2)
    outside = gj.GloroNet(nn.Sequential(body), 2)
    x = points(8, 4)
    made = inside.init(jax.random.key(0), jnp.asarray(x), norms=NORMS)["params"]
    moved = {**made, "body": {"layers_1": made["body"]["layers_2"]}}
    within = gj.freeze(inside, {"params": made}, input_shape=(4, 1, 1))
    beyond = gj.freeze(outside, {"params": moved}, input_shape=(4, 1, 1))
    in_pixels = gj.certify(within, x, epsilon=0.1).radius
    in_deviations = gj.certify(beyond, (x - 0.5) / np.float32(std), epsilon=0.1).radius
    np.testing.assert_allclose(in_deviations * std, in_pixels, rtol=1e-4)


class Mystery(layers.LipschitzLayer):
    """A layer that says nothing of its constant."""

    def __call__(self, x):
        return x.apply(jnp.tanh, lipschitz=jnp.ones(()))


def test_an_unknown_layer_does_not_trace():
    x = jnp.ones((1, 4))
    for body in (nn.Sequential([nn.Dense(4)]), nn.Sequential([Mystery()])):
        with pytest.raises(TypeError):
            gj.GloroNet(body, 2).init(jax.random.key(0), x, norms=NORMS)


def test_the_bounds_of_other_weights_are_refused(tmp_path):
    small, large = (
        dense_net(scale * np.eye(3, dtype=np.float32), np.eye(3, 2, dtype=np.float32))
        for scale in (1.0, 5.0)
    )
    mixed = {**large.arrays()}
    mixed |= {n: a for n, a in small.arrays().items() if n.endswith("norm") or n == "lipschitz"}
    with pytest.raises(ValueError, match="digest"):
        from_arrays(large.net, mixed, input_shape=(3, 1, 1), digest=large.digest)
    x = points(4, 3)
    options = {"epsilon": 0.1, "out": tmp_path / "c"}
    written = certificates.write(small, x, np.zeros(4, int), **options)
    run = (certificates.describe(large), certificates.weights(large))
    with pytest.raises(certificates.Refused, match="not those of the run"):
        certificates.check(written.path, run=run)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_and_inputs_that_are_not_numbers_certify_nothing(value, tmp_path):
    matrix = np.eye(3, dtype=np.float32)
    matrix[1, 1] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        dense_net(matrix, np.eye(3, 2, dtype=np.float32))
    with pytest.raises(ValueError, match="NaN or infinite"):
        gj.conv_norm(matrix.reshape(3, 3, 1, 1), image_size=(4, 4), strides=1, padding="SAME")
    frozen = dense_net(np.eye(3, dtype=np.float32), np.eye(3, 2, dtype=np.float32))
    x = points(2, 3)
    x[0, 1] = value
    assert not bool(gj.certify(frozen, x, epsilon=1e-3).is_certified[0])
    options = {"epsilon": 0.1, "out": tmp_path / "c"}
    with pytest.raises(ValueError):
        certificates.write(frozen, x, np.zeros(2, int), **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scale", [1e-45, 1e-41, 1e-38, 1e-30])
def test_subnormal_weights_have_a_norm(scale):
    # Flushed to zero, they would have none, and every point every radius.
    matrix = (np.eye(4) * scale).astype(np.float32)
    assert matrix[0, 0] > 0
    assert float(gj.matrix_norm(matrix)) >= matrix[0, 0]
    options = {"image_size": (5, 5), "strides": 1, "padding": "SAME"}
    assert float(gj.conv_norm(matrix.reshape(2, 2, 2, 2), **options)) >= matrix[0, 0]
    frozen = dense_net(matrix, np.eye(4, 2, dtype=np.float32), bias=[1.0, 0.0])
    executed = np.asarray(frozen.operators()["body/layers_1"].kernel)
    assert frozen.lipschitz >= executed[0, 0]
    is_subnormal = scale < np.finfo(np.float32).tiny
    # Whether a device takes them for 0 differs, so in the frozen copy they are.
    assert (frozen.flushed, executed[0, 0]) == ((4, 0) if is_subnormal else (0, matrix[0, 0]))
    assert np.isfinite(gj.certify(frozen, points(1, 4), epsilon=0.1).slack[0])


def test_weights_in_half_precision_are_another_network(tmp_path):
    # Certifying float32 weights and shipping bfloat16 ones: the digest and the arrays differ.
    frozen = frozen_net(nn.Sequential([layers.Flatten(), layers.Dense(8)]), (3, 3, 1))
    weights = certificates.weights(frozen)
    halves = {
        name: np.asarray(jnp.asarray(a, jnp.bfloat16), np.float32) for name, a in weights.items()
    }
    assert any((halves[name] != weights[name]).any() for name in weights)
    x = np.random.default_rng(0).uniform(size=(3, 3, 3, 1)).astype(np.float32)
    options = {"epsilon": 0.1, "out": tmp_path / "c"}
    path = certificates.write(frozen, x, np.zeros(3, int), **options).path
    with pytest.raises(certificates.Refused, match="not those of the run"):
        certificates.check(path, run=(certificates.describe(frozen), halves))


def test_a_bound_that_is_altered_after_freezing_is_noticed():
    frozen = dense_net(np.eye(3, dtype=np.float32), np.eye(3, 2, dtype=np.float32))
    forged = jax.tree.map(lambda leaf: leaf / 2 if leaf.ndim == 0 else leaf, frozen)
    with pytest.raises(ValueError, match="altered after"):
        gj.certify(forged, points(1, 3), epsilon=0.1)
