"""Augmented steps, compiled as for users: unoptimised, jaxlib 0.10.2 errs in some divisions."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

import gloro_jax as gj
from tests.training.test_parallel import CONFIG, trained


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "microbatches"), [(2, 2), (4, 1), (1, 4), (2, 8)])
def test_augmented_steps_do_not_depend_on_how_a_batch_is_divided(devices, microbatches):
    sgd = optax.with_extra_args_support(optax.sgd(0.1))
    augmentation = gj.data.Augmentation(crop=1, is_flipping=True, operations=2)
    config = dataclasses.replace(CONFIG, augmentation=augmentation)
    whole = trained(sgd, backend="pmap", devices=1, steps=4, config=config)
    config = dataclasses.replace(config, microbatches=microbatches)
    parts = trained(sgd, backend="shard_map", devices=devices, steps=4, config=config)
    for ours, theirs in zip(
        jax.tree.leaves((parts.params, parts.spectral)),
        jax.tree.leaves((whole.params, whole.spectral)),
        strict=True,
    ):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=1e-5)
