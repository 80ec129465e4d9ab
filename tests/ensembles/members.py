"""Small frozen networks of random weights, which differ in their seed."""

import jax
import numpy as np

import gloro_jax as gj
from gloro_jax.models import GloroCNN
from tests import draws

SHAPE, CLASSES = (6, 6, 1), 4


def member(seed, *, classes=CLASSES, shape=SHAPE, gain=1.0):
    """Away from its symmetric start; `gain` widens the head, and margins with it."""
    net = GloroCNN(convs=((4, 3, 2),), dense=(8,), num_classes=classes).build()
    x = draws.uniform(seed, (1, *shape))
    variables = jax.jit(lambda k: net.init(k, x, norms=gj.PowerIteration(steps=1)))(draws.key(seed))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda p: np.asarray(p + 0.2 * rng.standard_normal(p.shape), np.float32) * gain,
        variables["params"],
    )
    return gj.freeze(net, {"params": params}, input_shape=shape)
