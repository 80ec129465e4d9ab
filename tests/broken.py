"""A deliberately unsound network, for tests of attacks and commands."""

import jax

from gloro_jax.frozen_net import assemble
from gloro_jax.identity import path_name


def with_too_small_a_bound(frozen, *, factor, layer="body/conv1"):
    """`frozen` with K, and the norm of one layer, divided by `factor`, and resealed.

    K alone would not do: the network composes it again from the stored norms and takes the larger.
    """

    def shrink(path, leaf):
        is_bound = path_name(path) in ("lipschitz", f"{layer}/linear/norm")
        return leaf / factor if is_bound else leaf

    tree = jax.tree_util.tree_map_with_path(shrink, frozen._frozen)
    broken = assemble(frozen.net, tree, input_shape=frozen.input_shape)
    assert broken.lipschitz < frozen.lipschitz
    assert broken.layer_norms()[layer] < frozen.layer_norms()[layer]
    return broken
