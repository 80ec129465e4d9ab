"""No attack beats a certificate, and an attack worth the name notices a broken bound."""

import jax
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax.evaluation import attack
from gloro_jax.models import GloroCNN, gloro_2c2f, gloro_4c3f, gloro_6c2f, gloro_8c2f
from tests.broken import with_too_small_a_bound
from tests.draws import key, normal, uniform


@pytest.fixture(
    scope="module",
    params=["minmax", pytest.param("relu, normalised", marks=pytest.mark.slow)],
)
def trained(request, tmp_path_factory, tiny_data):
    changes = {
        "minmax": {},
        "relu, normalised": {
            "activation": "relu",
            "is_head_normalized": True,
            "mean": (0.3,),
            "std": (0.35,),
        },
    }[request.param]
    model = GloroCNN(convs=((8, 3, 1), (8, 2, 2)), dense=(16,), num_classes=3, **changes)
    config = gj.training.TrainConfig(
        epsilon=0.4, epochs=30, batch_size=40, learning_rate=1e-2, power_steps=2
    )
    run = tmp_path_factory.mktemp("runs") / "run"
    return gj.training.fit(model, tiny_data, config, run=run).frozen


def test_no_attack_succeeds_inside_a_certified_radius(trained, tiny_data):
    images, labels = tiny_data.test.images, tiny_data.test.labels
    report = gj.evaluation.verified_robust_accuracy(trained, [(images, labels)], epsilon=0.4)
    assert report.vra > 0.5
    found = attack(trained, images, radii=report.radii, steps=40, restarts=2)
    assert found.successes == 0


def test_the_attack_notices_a_bound_four_times_too_small(trained, tiny_data):
    broken = with_too_small_a_bound(trained, factor=4)
    images, labels = tiny_data.test.images, tiny_data.test.labels
    report = gj.evaluation.verified_robust_accuracy(broken, [(images, labels)], epsilon=0.4)
    found = attack(broken, images, radii=report.radii, steps=40, restarts=1)
    assert found.successes > 0


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        pytest.param(gloro_2c2f(), (28, 28, 1), marks=pytest.mark.slow),
        pytest.param(gloro_4c3f(), (28, 28, 1), marks=pytest.mark.slow),
        pytest.param(gloro_6c2f(), (32, 32, 3), marks=pytest.mark.slow),
        pytest.param(gloro_8c2f(num_classes=200), (64, 64, 3), marks=pytest.mark.slow),
    ],
    ids=["2C2F", "4C3F", "6C2F", "8C2F"],
)
def test_the_papers_networks_freeze_to_bounds_just_above_converged_estimates(config, shape):
    net = config.build()
    x = uniform(0, (2, *shape))
    variables = jax.jit(lambda k: net.init(k, x, norms=gj.PowerIteration(steps=1)))(key(1))
    noise = jax.tree.map(lambda p: p + 0.02 * normal(p.size, p.shape), variables["params"])
    estimate = jax.jit(lambda v: net.apply(v, x, norms=gj.PowerIteration(steps=100)))(
        {**variables, "params": noise}
    )
    frozen = gj.freeze(net, {"params": noise}, input_shape=shape)
    layers = len(config.convs) + len(config.dense)
    assert len(frozen.layer_norms()) == layers
    assert float(estimate.lipschitz) <= frozen.lipschitz
    assert frozen.lipschitz <= float(estimate.lipschitz) * 1.02**layers
    np.testing.assert_allclose(frozen(np.asarray(x)).values, estimate.values, rtol=1e-3, atol=1e-4)
