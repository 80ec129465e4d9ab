"""The alarm: a stored bound that one direction exceeds is seen wherever both are at hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import certificates, layers
from gloro_jax.alarms import lower_norms, norm_alarm
from gloro_jax.frozen_net import assemble
from gloro_jax.identity import path_name
from gloro_jax.lipschitz.lower import lower_bound
from gloro_jax.lipschitz.operators import Convolution, Matrix, Scaling
from tests.broken import with_too_small_a_bound
from tests.draws import init

NORMS = gj.PowerIteration(steps=1)


def test_what_freeze_stores_raises_no_alarm_and_lies_just_above_what_is_found(small_frozen):
    assert norm_alarm(small_frozen) == ""
    for name, found in lower_norms(small_frozen).items():
        assert 0.999 < float(found) / small_frozen.layer_norms()[name] <= 1


@pytest.mark.parametrize("factor", [1.05, 1.001])
def test_a_stored_norm_a_little_too_low_is_named_and_no_file_is_written(
    small_frozen, factor, tmp_path
):
    broken = with_too_small_a_bound(small_frozen, factor=factor)
    alarm = norm_alarm(broken)
    assert alarm.startswith("ALARM")
    assert "body/conv1: " in alarm
    assert "body/conv2" not in alarm
    images, labels = np.zeros((2, 8, 8, 1), np.float32), np.zeros(2, int)
    with pytest.raises(ValueError, match=r"ALARM.*body/conv1"):
        certificates.write(broken, images, labels, epsilon=0.1, out=tmp_path / "c")
    assert list(tmp_path.iterdir()) == []
    certificates.write(small_frozen, images, labels, epsilon=0.1, out=tmp_path / "honest")


def test_a_distance_of_the_head_that_is_too_small_is_named(small_frozen):
    def shrink(path, leaf):
        return leaf * np.float32(0.99) if path_name(path) == "head/distances" else leaf

    tree = jax.tree_util.tree_map_with_path(shrink, small_frozen._frozen)
    broken = assemble(small_frozen.net, tree, input_shape=small_frozen.input_shape)
    assert "head: a distance" in norm_alarm(broken)


def test_stacked_layers_are_tested_one_by_one():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return layers.Dense(4, name="dense")(x), None

    class Body(nn.Module):
        @nn.compact
        def __call__(self, x):
            axes = {"params": 0, "spectral": 0, "operators": 0, "frozen": 0}
            scanned = nn.scan(Block, variable_axes=axes, split_rngs={"params": True}, length=3)
            return scanned(name="blocks")(x, None)[0]

    net = gj.GloroNet(Body(), num_classes=2)
    variables = init(net, 0, jnp.ones((1, 4)), norms=NORMS)
    frozen = gj.freeze(net, variables, input_shape=(4,))
    assert norm_alarm(frozen) == ""

    def shrink(path, leaf):
        is_norm = path_name(path).endswith("/norm")
        return leaf * np.float32([1, 0.99, 1]) if is_norm else leaf

    tree = jax.tree_util.tree_map_with_path(shrink, frozen._frozen)
    del tree["lipschitz"]
    assert "body/blocks/dense" in norm_alarm(assemble(net, tree, input_shape=(4,)))


@pytest.mark.parametrize("seed", range(4))
def test_a_norm_from_below_is_never_above_the_truth(seed):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((5, 7)).astype(np.float32)
    truth = np.linalg.norm(matrix.astype(np.float64), 2)
    assert truth * 0.999 < lower_bound(Matrix(matrix)) <= truth * (1 + 1e-14)
    assert lower_bound(Scaling(np.float32(-2.5), (3,))) == 2.5
    kernel = rng.standard_normal((3, 3, 2, 4)).astype(np.float32)
    groups = int(rng.choice([1, 2]))
    conv = Convolution(kernel, (7, 6), (2, 1), ((1, 0), (2, 1)), groups)
    eye = jnp.eye(7 * 6 * 2 * groups).reshape(-1, 7, 6, 2 * groups)
    dense = np.asarray(conv(eye, precision="highest"), np.float64).reshape(len(eye), -1)
    truth = np.linalg.norm(dense, 2)
    assert truth * 0.99 < lower_bound(conv) <= truth * (1 + 1e-12)
