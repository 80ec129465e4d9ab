"""Optimisers: the learning rate's closed form, and Lookahead against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gloro_jax.training import TrainConfig
from gloro_jax.training.optimizers import learning_rate, make_optimizer


def config(**changes):
    return TrainConfig(epsilon=0.1, epochs=10, learning_rate=0.5, clip_norm=1e9, **changes)


def test_the_learning_rate_is_warm_up_times_schedule_times_peak():
    rate = learning_rate(config(warmup_epochs=2), steps_per_epoch=5)
    steps = np.arange(51)
    expected = 0.5 * np.minimum(steps / 10, 1) * (1 + np.cos(np.pi * steps / 50)) / 2
    np.testing.assert_allclose([float(rate(s)) for s in steps], expected, atol=1e-6)


def run(optimizer, steps):
    params = {"w": jnp.asarray([1.0, -2.0])}
    state = optimizer.init(params)
    seen = []
    for _ in range(steps):
        gradient = {"w": params["w"] * jnp.asarray([1.0, 3.0])}
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(np.asarray(params["w"]))
    return np.array(seen)


@pytest.mark.parametrize(("name", "plain"), [("adam", optax.adam), ("nadam", optax.nadam)])
def test_adam_and_nadam_are_optaxs(name, plain):
    ours = make_optimizer(config(optimizer=name, learning_rate_schedule="fixed"), steps_per_epoch=1)
    np.testing.assert_allclose(run(ours, 5), run(plain(0.5), 5), rtol=1e-6)


def test_lookahead_steps_back_halfway_every_period():
    """Zhang et al. 2019, algorithm 1: slow <- slow + (fast - slow) / 2, then fast <- slow."""
    options = {"optimizer": "adam", "learning_rate_schedule": "fixed"}
    ours = run(make_optimizer(config(lookahead=3, **options), steps_per_epoch=1), 7)
    fast_optimizer = optax.adam(0.5)
    slow = fast = jnp.asarray([1.0, -2.0])
    state, expected = fast_optimizer.init(fast), []
    for step in range(1, 8):
        updates, state = fast_optimizer.update(fast * jnp.asarray([1.0, 3.0]), state, fast)
        fast = fast + updates
        if step % 3 == 0:
            slow = slow + 0.5 * (fast - slow)
            fast = slow
        expected.append(np.asarray(fast))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_gradients_are_clipped_to_the_global_norm():
    clipped = TrainConfig(epsilon=0.1, epochs=1, clip_norm=1e-3, learning_rate_schedule="fixed")
    optimizer = make_optimizer(clipped, steps_per_epoch=1)
    params = {"w": jnp.zeros(2)}
    state = optimizer.init(params)
    _, state = optimizer.update({"w": jnp.asarray([3e3, 4e3])}, state, params)
    first_moment = next(
        leaf for leaf in jax.tree.leaves(state) if leaf.shape == (2,) and leaf[0] != 0
    )
    np.testing.assert_allclose(first_moment, 0.1 * np.array([0.6e-3, 0.8e-3]), rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_kernels_decay_and_vectors_do_not(name):
    """Without a gradient a kernel shrinks by what its optimiser says, and a bias stays."""
    decaying = config(optimizer=name, weight_decay=0.1, learning_rate_schedule="fixed")
    optimizer = make_optimizer(decaying, steps_per_epoch=1)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    params |= {"scanned": {"bias": jnp.ones((3, 2))}, "position": {"offset": jnp.ones((4, 4, 1))}}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    first = {"sgd": 0.5 * 0.1 * (1 + 0.9), "adamw": 0.5 * 0.1}[name]  # Nesterov looks ahead
    np.testing.assert_allclose(updates["kernel"], -first, rtol=1e-5)
    for name in ("bias", "scanned", "position"):
        jax.tree.map(lambda moved: np.testing.assert_array_equal(moved, 0), updates[name])


def test_sgd_is_nesterov_s():
    """v <- m v + g; w <- w - rate (g + m v)."""
    options = {"optimizer": "sgd", "momentum": 0.8, "learning_rate_schedule": "fixed"}
    gentle = TrainConfig(epsilon=0.1, epochs=1, learning_rate=0.05, clip_norm=1e9, **options)
    ours = run(make_optimizer(gentle, steps_per_epoch=1), 5)
    w, v, expected = np.array([1.0, -2.0]), np.zeros(2), []
    for _ in range(5):
        g = w * np.array([1.0, 3.0])
        v = 0.8 * v + g
        w = w - 0.05 * (g + 0.8 * v)
        expected.append(w)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_muon_moves_kernels_evenly_in_all_directions_and_vectors_as_nadam():
    """Jordan et al. 2024: the singular values of a move are one, about, whatever the gradient's.

    Of a convolution, those of its matrix from patches to channels; of a stack, each by itself. The
    root mean square of its entries is 0.2 of the rate, as Liu et al. 2025 measured Adam's.
    """
    options = {"optimizer": "muon", "learning_rate_schedule": "fixed"}
    optimizer = make_optimizer(config(**options), steps_per_epoch=1)
    rng = np.random.default_rng(0)
    shapes = {"dense": (6, 4), "conv": (3, 3, 2, 4), "stack": (2, 6, 4), "bias": (4,)}
    shapes |= {"offset": (4, 4, 1), "head_bias": (2, 4)}
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    gradient = {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}
    gradient["dense"] = gradient["dense"].at[:, 0].mul(20.0)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    for move, slope in (
        (updates["dense"], gradient["dense"]),
        (updates["conv"].reshape(18, 4), gradient["conv"].reshape(18, 4)),
        *zip(updates["stack"], gradient["stack"], strict=True),
    ):
        u, _, vt = np.linalg.svd(np.asarray(slope), full_matrices=False)
        even = -u @ vt * 0.5 * 0.2 * np.sqrt(len(slope))
        size = np.linalg.svd(even, compute_uv=False)[0]
        # Five steps of Newton-Schulz leave singular values between 0.68 and 1.14.
        assert np.linalg.norm(np.asarray(move) - even, 2) < 0.35 * size
    nadam = optax.nadam(0.5)
    for name in ("bias", "offset", "head_bias"):
        alone, _ = nadam.update({"b": gradient[name]}, nadam.init({"b": params[name]}))
        np.testing.assert_allclose(updates[name], alone["b"], rtol=1e-4)
