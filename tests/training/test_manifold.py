"""Orthogonal parameters: steps that turn, exponentials, retractions, and who is routed where."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg

import gloro_jax as gj
from gloro_jax.models import LipNext
from gloro_jax.orthogonal import distance_from_orthogonal, retracted, special_orthogonal
from gloro_jax.training import TrainConfig, manifold
from gloro_jax.training.optimizers import make_optimizer
from gloro_jax.training.state import initial_state, started_from
from tests import draws


def skew(seed, n, length):
    a = np.asarray(draws.normal(seed, (n, n)), np.float64)
    a = a - a.T
    return a * length / np.linalg.norm(a)


@pytest.mark.parametrize("length", [0.0, 0.01, 0.3, 0.49, 0.51, 3.0])
def test_the_exponential_is_scipys_and_a_rotation(length):
    a = skew(0, 6, length)
    found = np.asarray(manifold.exponential(jnp.asarray(a, jnp.float32)), np.float64)
    np.testing.assert_allclose(found, scipy.linalg.expm(a), atol=2e-4 if length < 1 else 1e-5)
    assert np.linalg.norm(found.T @ found - np.eye(6)) < 1e-4


def test_random_rotations_and_their_retraction():
    for seed in range(5):
        x = special_orthogonal(draws.key(seed), (6, 6))
        assert float(distance_from_orthogonal(x)) < 1e-5
        assert np.linalg.det(np.asarray(x, np.float64)) == pytest.approx(1, abs=1e-5)
        moved = x + 0.02 * draws.normal(seed, (6, 6))
        u, _, vt = np.linalg.svd(np.asarray(moved, np.float64))
        np.testing.assert_allclose(retracted(moved), u @ vt, atol=1e-5)
    with pytest.raises(ValueError, match="square"):
        special_orthogonal(draws.key(0), (3, 4))


def config(**changes):
    options = {"learning_rate": 0.02, "learning_rate_schedule": "fixed", "clip_norm": 1e9}
    return TrainConfig(epsilon=0.1, epochs=10, **{**options, "optimizer": "adam", **changes})


def test_one_step_turns_against_the_skew_gradient_and_leaves_others_to_adam():
    x, g = special_orthogonal(draws.key(0), (4, 4)), draws.normal(1, (4, 4))
    params = {"mix": {"orthogonal": x, "bias": jnp.ones(4)}}
    optimizer = make_optimizer(config(), steps_per_epoch=100)
    gradient = {"mix": {"orthogonal": g, "bias": jnp.ones(4)}}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    new = optax.apply_updates(params, updates)["mix"]
    exact, slope = np.asarray(x, np.float64), np.asarray(g, np.float64)
    turn = (exact.T @ slope - slope.T @ exact) / 2
    # Adam's first step is the sign of the gradient.
    wanted = exact @ scipy.linalg.expm(-0.02 * turn / (np.abs(turn) + 1e-8))
    np.testing.assert_allclose(new["orthogonal"], wanted, atol=1e-5)
    np.testing.assert_allclose(new["bias"], 1 - 0.02, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"lookahead": 3}, {"average": 0.9}])
def test_a_rotation_is_learnt_without_leaving_the_manifold(changes):
    target = special_orthogonal(draws.key(2), (5, 5))
    params = {"orthogonal": special_orthogonal(draws.key(3), (5, 5))}
    optimizer = make_optimizer(config(**changes), steps_per_epoch=50)

    def loss(params):
        return jnp.sum(jnp.square(params["orthogonal"] - target))

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state, before = optimizer.init(params), float(loss(params))
    for _ in range(400):
        params, state = step(params, state)
    assert float(distance_from_orthogonal(params["orthogonal"])) < 1e-4
    assert float(loss(params)) < 0.02 * before


def test_stacked_matrices_turn_one_by_one_and_what_is_not_square_is_plain():
    stack = jnp.stack([special_orthogonal(draws.key(seed), (3, 3)) for seed in range(3)])
    slope = draws.normal(5, (3, 3, 3))
    optimizer = make_optimizer(config(), steps_per_epoch=1)  # retracts each step, too

    def step(x, g):
        params, gradient = {"orthogonal": x}, {"orthogonal": g}
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        return optax.apply_updates(params, updates)["orthogonal"]

    together = step(stack, slope)
    for i in range(3):
        np.testing.assert_allclose(together[i], step(stack[i], slope[i]), atol=1e-6)
    flat = draws.normal(0, (4, 2))
    assert not manifold.has_orthogonal({"orthogonal": flat})
    np.testing.assert_allclose(step(flat, jnp.ones((4, 2))), flat - 0.02, rtol=1e-4)


def test_a_mean_of_matrices_is_put_back():
    pair = [special_orthogonal(draws.key(0), (4, 4))]
    pair.append(pair[0] @ manifold.exponential(jnp.asarray(skew(1, 4, 0.4), jnp.float32)))
    mean = {"orthogonal": sum(pair) / 2, "kernel": jnp.ones((2, 2))}
    assert float(distance_from_orthogonal(mean["orthogonal"])) > 1e-3
    back = manifold.put_back(mean)
    assert float(distance_from_orthogonal(back["orthogonal"])) < 1e-5
    assert np.array_equal(back["kernel"], mean["kernel"])


@pytest.fixture(scope="module")
def small():
    return LipNext(depth=2, width=8, num_classes=3, readout="l2", dense_features=8, dense_depth=1)


def test_initial_matrices_off_the_manifold_are_refused_by_how_much(small):
    net, optimizer = small.build(), make_optimizer(config(), steps_per_epoch=10)
    state = initial_state(net, optimizer, seed=0, input_shape=(6, 6, 1))
    given = {"params": jax.tree.map(lambda p: 1.5 * p, state.params)}
    off = 1.25 * 8**0.5  # of 1.5^2 - 1 on the diagonal
    with pytest.raises(ValueError, match=rf"{off:.3g} for body/block1_mix/orthogonal"):
        started_from(state, given, net=net, optimizer=optimizer, input_shape=(6, 6, 1))


@pytest.mark.parametrize(
    "changes", [pytest.param({}, marks=pytest.mark.slow), {"average": 0.9, "lookahead": 2}]
)
def test_a_lipnext_trains_freezes_and_certifies(small, changes, tiny_data, tmp_path):
    training = TrainConfig(epsilon=0.2, epochs=15, batch_size=20, learning_rate=5e-3, **changes)
    result = gj.training.fit(small, tiny_data, training, run=tmp_path / "run")
    assert result.validation.clean_accuracy > 0.9
    assert all(row["distance_from_orthogonal"] < 1e-3 for row in result.history)
    norms = result.frozen.layer_norms()
    mixes = [norm for name, norm in norms.items() if "mix" in name or "back" in name]
    assert len(mixes) == 4
    assert np.allclose(mixes, 1, atol=1e-4)
    loaded = gj.load(tmp_path / "run")
    assert loaded.digest == result.frozen.digest
    path, test = tmp_path / "c", tiny_data.test
    written = gj.certificates.write(loaded, test.images, test.labels, epsilon="1/5", out=path)
    assert written.vra > 0.3
    gj.certificates.check(path)


def test_the_mean_of_weights_is_adams_path_averaged():
    params = {"w": jnp.asarray([1.0, -2.0])}
    optimizer = make_optimizer(config(average=0.5), steps_per_epoch=1)
    state, mean = optimizer.init(params), np.asarray(params["w"])
    for count in range(1, 6):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
        keep = min(0.5, (1 + count) / (10 + count))
        mean = keep * mean + (1 - keep) * np.asarray(params["w"])
    np.testing.assert_allclose(state.mean["w"], mean, rtol=1e-6)
