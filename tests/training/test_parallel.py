"""One step on 1, 2 and 4 devices, under pmap and under checked shard_map: the same parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gloro_jax as gj
from gloro_jax.data import Batch
from gloro_jax.models import ChordLiResNet, GloroCNN
from gloro_jax.training.scaling.parallel import data_parallel, sum_over_devices, value_and_grad
from gloro_jax.training.state import initial_state
from gloro_jax.training.step import make_train_step

CONFIG = gj.training.TrainConfig(epsilon=0.3, epochs=5, batch_size=16, power_steps=2)
SHAPE = (6, 6, 1)


def batches(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        images = rng.uniform(size=(16, *SHAPE)).astype(np.float32)
        # Unequal shards: a sum in place of a mean, or one device's share, would show.
        labels = np.sort(rng.integers(0, 3, 16)).astype(np.int32)
        yield Batch(images, labels, np.ones(16, bool), np.arange(16, dtype=np.int32))


SMALL = GloroCNN(convs=((4, 3, 1),), dense=(8,), num_classes=3)
# Its blocks subtract the means of a batch, wherever its examples are.
CENTERED = ChordLiResNet(depth=2, width=4, num_classes=3, dense_features=6, dense_depth=1)


def trained(optimizer, *, backend, devices, steps, config=CONFIG, model=SMALL, metrics=None):
    net = model.build()
    step = make_train_step(net, config, optimizer, steps_per_epoch=10)
    run = data_parallel(step, backend=backend, devices=jax.devices()[:devices])
    state = initial_state(net, optimizer, seed=0, input_shape=SHAPE)
    for batch in batches(steps):
        state, sums = run(state, batch)
        if metrics is not None:
            metrics.append({name: float(value) for name, value in sums.items()})
    return state


@pytest.fixture(scope="module")
def sgd():
    return optax.with_extra_args_support(optax.sgd(0.1))


@pytest.fixture(scope="module")
def reference(sgd):
    return trained(sgd, backend="pmap", devices=1, steps=20)


@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
@pytest.mark.parametrize("devices", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)), 4])
def test_twenty_sgd_steps_do_not_depend_on_devices_or_backend(sgd, reference, backend, devices):
    metrics = []
    state = trained(sgd, backend=backend, devices=devices, steps=20, metrics=metrics)
    # Sums are over the whole batch, so that an epoch may go on with another number of devices.
    assert [sums["count"] for sums in metrics] == [16] * 20
    assert 0 < metrics[0]["loss"] / 16 < 10
    for ours, theirs in zip(
        jax.tree.leaves((state.params, state.spectral)),
        jax.tree.leaves((reference.params, reference.spectral)),
        strict=True,
    ):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=1e-5)


@pytest.fixture(scope="module")
def centered_reference(sgd):
    return trained(sgd, backend="pmap", devices=1, steps=6, model=CENTERED)


@pytest.mark.parametrize(
    ("backend", "devices"),
    [("shard_map", 4), pytest.param("pmap", 2, marks=pytest.mark.slow)],
)
def test_means_of_a_batch_are_over_all_devices(sgd, centered_reference, backend, devices):
    state = trained(sgd, backend=backend, devices=devices, steps=6, model=CENTERED)
    means = jax.tree.leaves(state.centering)
    assert len(means) == 2
    assert all(np.abs(mean).max() > 1e-4 for mean in means)
    for ours, theirs in zip(
        jax.tree.leaves(state.variables),
        jax.tree.leaves(centered_reference.variables),
        strict=True,
    ):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=1e-5)


@pytest.mark.slow
def test_running_means_move_once_per_step_however_many_microbatches(sgd):
    config = dataclasses.replace(CONFIG, microbatches=2)
    whole = trained(sgd, backend="pmap", devices=1, steps=1, model=CENTERED)
    parts = trained(sgd, backend="pmap", devices=2, steps=1, model=CENTERED, config=config)
    # The first block's means are averages of those of equal parts.
    ours, theirs = (state.centering["body"]["block1"]["mean"] for state in (parts, whole))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
@pytest.mark.parametrize("microbatches", [1, 2, 4])
def test_first_step_gradients_are_means_over_devices_and_microbatches(backend, microbatches):
    # What Adam would divide by |g| is compared before it divides.
    def step(state, batch):
        def loss(params, batch):
            return jnp.mean(jnp.square(batch.images @ params)), ()

        _, gradient = value_and_grad(loss, state, batch, microbatches=microbatches)
        return gradient, {"count": sum_over_devices(jnp.sum(batch.is_real))}

    x = np.arange(32, dtype=np.float32).reshape(16, 2) ** 1.5
    batch = Batch(x, np.zeros(16, np.int32), np.ones(16, bool), np.arange(16))
    params = jnp.asarray([0.3, -0.2])
    expected = 2 * x.T @ (x @ np.asarray(params)) / 16
    gradient, metrics = data_parallel(step, backend=backend)(params, batch)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
    assert int(metrics["count"]) == 16


def test_shard_map_is_a_witness_that_pmap_is_not():
    def forgetful(state, batch):
        return state + jnp.sum(batch.images), {}

    batch = Batch(np.arange(16.0, dtype=np.float32), np.zeros(16), np.ones(16, bool), np.arange(16))
    wrong, _ = data_parallel(forgetful, backend="pmap")(jnp.zeros(()), batch)
    assert float(wrong) != batch.images.sum()
    with pytest.raises(ValueError, match=r"replicat|out_specs"):
        data_parallel(forgetful, backend="shard_map")(jnp.zeros(()), batch)


def test_a_batch_that_cannot_be_divided_is_refused():
    run = data_parallel(lambda s, b: (s, {}), devices=jax.devices()[:4])
    with pytest.raises(ValueError, match="A batch of 6 cannot be divided among 4"):
        run(jnp.zeros(()), Batch(np.zeros((6, 1)), np.zeros(6), np.ones(6, bool), np.arange(6)))
