"""The network of orthonormalised dense layers: nothing is lost on the way, and what it refuses."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.models import ChordMLP, as_plain, from_plain_model
from tests.draws import init, normal, uniform

SHAPE = (3, 4, 1)


def test_norms_are_one_and_gradients_keep_their_length():
    config = ChordMLP(features=12, depth=2, num_classes=3)
    assert from_plain_model(json.loads(json.dumps(as_plain(config)))) == config
    net, x = config.build(), uniform(0, (5, *SHAPE))
    params = init(net, 1, x, norms=gj.PowerIteration(steps=1))["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.3 * normal(leaf.size, leaf.shape), params)
    frozen = gj.freeze(net, {"params": params}, input_shape=SHAPE)
    norms = frozen.layer_norms()
    assert len(norms) == 3
    np.testing.assert_allclose(list(norms.values()), 1.0, atol=1e-3)
    assert 1 - 1e-3 <= frozen.lipschitz <= 1 + 1e-6
    # Square and orthogonal layers, sorted in between: the slope of a score is its row of the head.
    slopes = jax.jacrev(lambda image: frozen(image).values)(x[0])
    lengths = np.linalg.norm(np.asarray(slopes).reshape(3, -1), axis=1)
    rows = np.linalg.norm(np.asarray(frozen.head().head.kernel), axis=0)
    assert (lengths <= rows * (1 + 1e-5)).all()
    np.testing.assert_allclose(lengths, rows, rtol=0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": 7}, "features must be even and at least 2, got 7"),
        ({"features": 0}, "features must be even and at least 2, got 0"),
        ({"depth": -1}, "depth must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_built_says_why(fields, message):
    with pytest.raises(ValueError, match=message):
        ChordMLP(**fields).build()


def test_without_chord_layers_it_is_one_layer():
    net = ChordMLP(features=4, depth=0, num_classes=2).build()
    params = init(net, 0, jnp.ones((1, 4)), norms=gj.PowerIteration(steps=1))["params"]
    assert set(params["body"]) == {"neck_dense"}
