"""fit: learns, saves, loads again, repeats itself, and refuses bad input before it starts."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.models import ChordLiResNet, GloroCNN
from gloro_jax.runs import read_metrics
from gloro_jax.training.optimizers import make_optimizer
from gloro_jax.training.state import initial_state, started_from

MODEL = GloroCNN(convs=((4, 3, 1),), dense=(8,), num_classes=3)
CONFIG = gj.training.TrainConfig(epsilon=0.3, epochs=12, batch_size=40, learning_rate=1e-2)


@pytest.fixture(scope="module")
def result(tiny_data, tmp_path_factory):
    return gj.training.fit(MODEL, tiny_data, CONFIG, run=tmp_path_factory.mktemp("fit") / "run")


def test_it_learns_to_certify(result, tiny_data):
    assert result.validation.clean_accuracy > 0.9
    assert result.validation.vra > 0.5
    losses = [row["train"]["loss"] for row in result.history]
    assert np.isfinite(losses).all()


def test_the_run_folder_holds_config_metrics_and_weights(result, tiny_data):
    config = json.loads((result.run / "config.json").read_text())
    assert config["model"] == json.loads(json.dumps(gj.models.as_plain(MODEL)))
    assert config["training"] == dataclasses.asdict(CONFIG)
    assert config["data"]["fingerprint"] == tiny_data.fingerprint
    rows = read_metrics(result.run)
    assert [row["epoch"] for row in rows] == list(range(1, 13))
    assert rows == result.history
    names = ("vra_estimate", "clean", "vra_estimate_2x")
    keys = [tuple(row["validation"][name] for name in names) for row in rows]
    best = [row["epoch"] for row, key in zip(rows, keys, strict=True) if key == max(keys)]
    assert result.best_epoch == best[-1]  # the last of equals has learnt most


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_load_gives_back_the_same_certificates(result, tiny_data, checkpoint):
    loaded = gj.load(result.run, checkpoint=checkpoint)
    x = tiny_data.test.images
    if checkpoint == "best":
        assert loaded.digest == result.frozen.digest
        ours, theirs = (gj.certify(f, x, epsilon=0.3) for f in (loaded, result.frozen))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    assert set(loaded.layer_norms()) == {"body/conv1", "body/dense1"}


def test_the_same_seed_gives_the_same_digest_and_another_does_not(result, tiny_data, tmp_path):
    again = gj.training.fit(MODEL, tiny_data, CONFIG, run=tmp_path / "again")
    assert again.frozen.digest == result.frozen.digest
    short = dataclasses.replace(CONFIG, seed=1, epochs=1)
    other = gj.training.fit(MODEL, tiny_data, short, run=tmp_path / "other")
    assert other.frozen.digest != result.frozen.digest


def test_estimated_vra_agrees_with_the_guaranteed_one_within_a_few_examples(result, tiny_data):
    row = result.history[result.best_epoch - 1]["validation"]
    assert abs(row["vra_estimate"] - result.validation.vra) <= 2 / len(tiny_data.validation)
    assert row["clean"] == pytest.approx(result.validation.clean_accuracy, abs=1e-6)


def test_a_network_of_ones_own_needs_to_be_given_again(tiny_data, tmp_path):
    body = nn.Sequential([layers.Flatten(), layers.Dense(6), layers.MinMax()])
    net = gj.GloroNet(body, num_classes=3)
    short = dataclasses.replace(CONFIG, epochs=1)
    result = gj.training.fit(net, tiny_data, short, run=tmp_path / "own")
    with pytest.raises(ValueError, match=r"gj\.load\(run, net=\.\.\.\)"):
        gj.load(result.run)
    assert gj.load(result.run, net=net).digest == result.frozen.digest
    wrong = gj.GloroNet(nn.Sequential([layers.Flatten(), layers.Dense(4)]), num_classes=3)
    with pytest.raises(ValueError, match="do not belong to this network"):
        gj.load(result.run, net=wrong)
    found = gj.evaluation.report(
        result.run, result.frozen, tiny_data.test, examples=2, steps=1, source="its own test split"
    )
    page = (result.run / "report.html").read_text(encoding="utf-8")
    assert "its own test split" in page
    assert found.frozen.digest in page
    assert not found.is_alarm
    assert found.report.epsilon == pytest.approx(CONFIG.epsilon)
    with pytest.raises(ValueError, match="examples is at least 1"):
        gj.evaluation.report(result.run, result.frozen, tiny_data.test, examples=0)


def test_an_existing_run_is_never_touched(result, tiny_data):
    before = (result.run / "metrics.jsonl").read_text()
    with pytest.raises(FileExistsError, match="Runs are never overwritten"):
        gj.training.fit(MODEL, tiny_data, CONFIG, run=result.run)
    assert (result.run / "metrics.jsonl").read_text() == before


OTHERS = ["gloro_cross_entropy", "trades_ce", "margin", "lmt"]


@pytest.mark.parametrize(
    "loss", ["emma", "trades_kl", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_every_loss_trains(tiny_data, tmp_path, loss):
    config = dataclasses.replace(CONFIG, epochs=2, loss=loss, power_steps=1)
    result = gj.training.fit(
        GloroCNN(convs=(), dense=(4,), num_classes=3), tiny_data, config, run=tmp_path / loss
    )
    assert result.history[1]["train"]["loss"] < np.inf


def test_a_loss_that_is_not_finite_stops_with_its_step_and_keeps_what_was_there(
    tiny_data, tmp_path, monkeypatch
):
    from gloro_jax.training import step

    def explosive(logits, labels, *, epsilon, weight):
        import jax.numpy as jnp

        return gj.losses.emma(logits, labels, epsilon=epsilon) / jnp.where(epsilon < 0.25, 1.0, 0.0)

    monkeypatch.setattr(step, "make_loss", lambda config: explosive)
    with pytest.raises(FloatingPointError, match=r"at step \d+"):
        gj.training.fit(MODEL, tiny_data, CONFIG, run=tmp_path / "run")
    assert read_metrics(tmp_path / "run")
    assert gj.load(tmp_path / "run").lipschitz > 0


def test_a_log_whose_last_line_was_cut_off_is_read(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"epoch": 1, "step": 9, "train": {}, "validation": {}}\n{"epo'
    )
    assert read_metrics(tmp_path) == [{"epoch": 1, "step": 9, "train": {}, "validation": {}}]


def test_a_config_that_could_not_be_read_back_is_refused_first(tiny_data, tmp_path):
    class Own(GloroCNN):
        pass

    own = Own(convs=(), dense=(4,), num_classes=3)
    with pytest.raises(ValueError, match="cannot be stored as a model config"):
        gj.training.fit(own, tiny_data, CONFIG, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"epsilon": -1.0}, "epsilon must be positive"),
        ({"epsilon": float("nan")}, "epsilon must be positive"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"epsilon_schedule": "ramp"}, "epsilon_schedule: 'ramp' is no schedule"),
        ({"learning_rate_schedule": "[1]-[30:0]"}, "within the 12 epochs"),
        ({"microbatches": 3}, "multiple of microbatches"),
        ({"lookahead": 1}, "at least 2 steps"),
        ({"trades_weight": -1.0}, "trades_weight must be at least 0"),
    ],
)
def test_configs_are_checked_when_they_are_made(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_what_does_not_fit_is_refused_before_anything_is_written(tiny_data, tmp_path):
    with pytest.raises(ValueError, match="build it with num_classes=3"):
        gj.training.fit(GloroCNN((), (4,)), tiny_data, CONFIG, run=tmp_path / "a")
    big = dataclasses.replace(CONFIG, batch_size=400)
    with pytest.raises(ValueError, match="batch_size 400 exceeds"):
        gj.training.fit(MODEL, tiny_data, big, run=tmp_path / "a")
    odd = dataclasses.replace(MODEL, dense=(7,))
    with pytest.raises(ValueError, match="got 7 channels"):
        gj.training.fit(odd, tiny_data, CONFIG, run=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_training_metrics_are_those_of_all_batches(tiny_data, tmp_path):
    """With weights that stand still and batches that cover the split, they are the split's own."""
    still = dataclasses.replace(CONFIG, epochs=1, batch_size=20, learning_rate=1e-9)
    result = gj.training.fit(MODEL, tiny_data, still, run=tmp_path / "run")
    report = gj.evaluation.verified_robust_accuracy(
        result.frozen, [(tiny_data.train.images, tiny_data.train.labels)], epsilon=0.3
    )
    assert len(tiny_data.train) % 20 == 0
    assert result.history[0]["train"]["clean"] == pytest.approx(report.clean_accuracy, abs=1e-6)


@pytest.mark.parametrize(
    "changes", [{"epsilon": 1e39}, {"epsilon": 1e-50}, {"learning_rate": 1e20}, {"seed": 2**70}]
)
def test_numbers_that_float32_cannot_hold_are_refused(changes):
    with pytest.raises(ValueError, match="must be"):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize(
    ("given", "teaches"),
    [
        ({"optimizer": "adagrad"}, "optimizer is one of"),
        ({"momentum": 1.0}, "momentum is at least 0 and below 1"),
        ({"weight_decay": 1e-4}, "goes with adamw and sgd"),
        ({"optimizer": "sgd", "weight_decay": float("nan")}, "weight_decay must be"),
        ({"loss": "ema"}, "loss is one of"),
        ({"epochs": 2.5}, "epochs is a whole number"),
        ({"epsilon": "36/0"}, "epsilon is a number such as 0.3 or 36/255"),
        ({"epochs": float("inf")}, "epochs is a whole number"),
        ({"epsilon": 10**400}, "epsilon is larger than any float"),
        ({"batch_size": "many"}, "batch_size is a number"),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_name(untyped, given, teaches):
    with pytest.raises(ValueError, match=teaches):
        gj.training.TrainConfig(**{"epsilon": 0.3, "epochs": 2, **given})


def test_numbers_of_numpy_and_fractions_are_numbers_that_json_can_hold(untyped):
    config = gj.training.TrainConfig(epsilon="36/255", epochs=np.int64(2), clip_norm=np.float32(3))
    assert config.epsilon == 36 / 255
    assert json.loads(json.dumps(dataclasses.asdict(config)))["epochs"] == 2


@pytest.mark.slow
def test_another_generator_of_the_process_changes_no_number(tiny_data, tmp_path):
    digests = set()
    for name in ("threefry2x32", "rbg"):
        with jax.default_prng_impl(name):
            config = dataclasses.replace(
                CONFIG, epochs=1, augmentation=gj.data.Augmentation(crop=1)
            )
            result = gj.training.fit(MODEL, tiny_data, config, run=tmp_path / name)
            digests.add(result.frozen.digest)
    assert len(digests) == 1


@pytest.mark.slow
def test_64_bit_settings_of_other_programs_change_nothing(tiny_data, tmp_path):
    """Types, draws and digests are those of a process without JAX_ENABLE_X64."""
    net = ChordLiResNet(depth=2, width=4, num_classes=3, dense_features=6, dense_depth=1)
    moved = dataclasses.replace(
        CONFIG, epochs=1, augmentation=gj.data.Augmentation(crop=1, operations=1)
    )
    plain = gj.training.fit(net, tiny_data, moved, run=tmp_path / "plain")
    with jax.enable_x64(True):
        wide = gj.training.fit(net, tiny_data, moved, run=tmp_path / "wide")
        assert wide.frozen.digest == plain.frozen.digest
        assert gj.load(tmp_path / "plain").digest == plain.frozen.digest
        frozen, images = gj.load(wide.run), tiny_data.test.images[:4]
        gj.evaluation.report(wide.run, frozen, tiny_data.test, examples=2, steps=2)
        radii = gj.certify(frozen, images, epsilon=0.1).radius
    np.testing.assert_array_equal(radii, gj.certify(plain.frozen, images, epsilon=0.1).radius)


@pytest.mark.parametrize("change", [
    lambda params: {**params, "more": {"kernel": np.ones((2, 2), np.float32)}},
    lambda params: {name: leaf for name, leaf in params.items() if name != "head_bias"},
    lambda params: {**params, "head_bias": np.ones(7, np.float32)},
])  # fmt: skip
def test_initial_weights_of_another_network_are_named(tiny_data, change):
    net, optimizer = MODEL.build(), make_optimizer(CONFIG, steps_per_epoch=1)
    shape = tiny_data.input_shape
    state = initial_state(net, optimizer, seed=0, input_shape=shape)
    told = {"net": net, "optimizer": optimizer, "input_shape": shape}
    started_from(state, {"params": state.params}, **told)
    with pytest.raises(ValueError, match=r"another network.*(more|head_bias)"):
        started_from(state, {"params": change(dict(state.params))}, **told)
