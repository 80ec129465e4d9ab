"""ACE on CIFAR-10: a certified network where a gate says so, a plain one elsewhere, l2 36/255.

The certified network is experiments/zoo/cifar10_liresnet_small, the core a plain convolutional
network with batch normalisation, trained here by cross-entropy. Two gates: the certified network's
own entropy, at thresholds from none to all; and a small GloRo net of two classes, trained on
whether the certified network is right and certified on training images. Then linf balls of 0.5/255
by the verifier `Lipschitz`, on 500 images.

Command: python -m experiments.rows.ace (about 40 minutes on 2 CPU cores; finished parts in
--scratch are not repeated; CIFAR-10 must have been prepared: docs/data.md).
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gloro_jax as gj
from experiments.rows import save
from gloro_jax.data import Augmentation, Dataset, Split
from gloro_jax.data.augment import augmented
from gloro_jax.ensembles import Compositional, EntropyGate, gate_labels
from gloro_jax.models import GloroCNN
from gloro_jax.platforms import jit
from gloro_jax.verifiers import Lipschitz

ZOO = Path(__file__).parent.parent / "zoo" / "cifar10_liresnet_small"
EPSILON, EPOCHS, BATCH = 36 / 255, 10, 128
# Nats, from above 0 to all that ten classes have.
THRESHOLDS = (1e-6, 0.02, 0.1, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.302585)
LINF = 0.5 / 255


class Core(nn.Module):
    """A plain network: five 3x3 convolutions with batch normalisation, and a dense layer."""

    @nn.compact
    def __call__(self, x: Any, *, is_training: bool = False) -> Any:
        """Scores (n, 10) of images (n, 32, 32, 3)."""
        x = (x - 0.45) / 0.25
        for width, stride in ((48, 1), (48, 2), (96, 1), (96, 2), (192, 1)):
            x = nn.Conv(width, (3, 3), strides=stride, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not is_training, momentum=0.9)(x))
        return nn.Dense(10)(x.mean(axis=(1, 2)))


def trained_core(file: Path, data: Dataset) -> Any:
    """The weights of the core, from their file if it is there already."""
    net, key = Core(), jax.random.key(0)
    variables = net.init(key, jnp.zeros((1, 32, 32, 3)))
    if file.is_file():
        return flax.serialization.from_bytes(variables, file.read_bytes())
    images, labels = np.asarray(data.train.images), data.train.labels
    steps = len(images) // BATCH
    rate = optax.cosine_onecycle_schedule(EPOCHS * steps, 4e-3)
    optimizer = optax.adamw(rate, weight_decay=5e-4)
    config = Augmentation(crop=4, is_flipping=True)

    def loss(params: Any, rest: Any, x: Any, y: Any) -> Any:
        values, moved = net.apply(
            {"params": params, **rest}, x, is_training=True, mutable=["batch_stats"]
        )
        return optax.softmax_cross_entropy_with_integer_labels(values, y).mean(), moved

    @jit
    def step(params: Any, rest: Any, state: Any, x: Any, y: Any, index: Any, at: Any) -> Any:
        x = augmented(x, index, config=config, key=key, step=at)
        (value, moved), gradient = jax.value_and_grad(loss, has_aux=True)(params, rest, x, y)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), moved, state, value

    params, rest = variables["params"], {"batch_stats": variables["batch_stats"]}
    state, rng = optimizer.init(params), np.random.default_rng(0)
    for epoch in range(EPOCHS):
        order = rng.permutation(len(images))
        for i in range(steps):
            rows = order[i * BATCH : (i + 1) * BATCH]
            params, rest, state, value = step(
                params, rest, state, images[rows], labels[rows], rows, epoch * steps + i
            )
        print(f"core: epoch {epoch + 1} of {EPOCHS}, loss {float(value):.3f}", flush=True)
    variables = {"params": params, **rest}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(flax.serialization.to_bytes(variables))
    return variables


def trained_gate(folder: Path, data: Dataset, certified: gj.FrozenNet) -> gj.FrozenNet:
    """A gate of two classes, from its run folder if it is there already."""

    def marked(split: Split) -> Split:
        found = gate_labels(certified, np.asarray(split.images), split.labels, epsilon=EPSILON)
        return Split(split.images, found)

    model = GloroCNN(convs=((24, 3, 1), (24, 4, 2), (48, 3, 1), (48, 4, 2)), dense=(64,))
    model = dataclasses.replace(model, num_classes=2)
    config = gj.training.TrainConfig(
        epsilon=EPSILON,
        epochs=4,
        augmentation=Augmentation(crop=2, is_flipping=True),
    )
    if not (folder / "summary.json").is_file():
        parts = {name: marked(getattr(data, name)) for name in ("train", "validation", "test")}
        changed: Any = {"num_classes": 2, "class_names": ("core", "certified"), "origin": None}
        gated = dataclasses.replace(data, name="gate", **parts, **changed)
        session = gj.training.Session(is_resuming=True)
        gj.training.fit(model, gated, config, run=folder, session=session)
    return gj.load(folder)


def figures(one: Compositional, split: Split) -> dict[str, float]:
    gated, rows = [], []
    for start in range(0, len(split), 500):
        x = np.asarray(split.images[start : start + 500], np.float32) / 255
        labels = split.labels[start : start + 500]
        found = one.certify(x, epsilon=EPSILON)
        is_right = found.prediction == labels
        rows.append(np.stack([is_right, is_right & found.is_certified]))
        gated.append(found.is_gated)
    clean, vra = np.concatenate(rows, axis=1).mean(axis=1)
    share = np.concatenate(gated).mean()
    return {"gated": float(share), "clean": float(clean), "vra": float(vra)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scratch", type=Path, default=Path("scratch/ace"))
    scratch = parser.parse_args().scratch
    data = gj.data.open_data(gj.data.DataConfig("cifar10", validation=0.05))
    certified, variables = gj.load(ZOO), trained_core(scratch / "core.msgpack", data)
    apply = jit(lambda x: Core().apply(variables, x))
    row: dict[str, Any] = {"epsilon": EPSILON, "count": len(data.test), "entropy": {}}
    for threshold in THRESHOLDS:
        made = Compositional(apply, certified, EntropyGate(threshold))
        row["entropy"][threshold] = figures(made, data.test)
        print(threshold, row["entropy"][threshold], flush=True)
    made = Compositional(apply, certified, trained_gate(scratch / "gate", data, certified))
    row["gate network"] = figures(made, data.test)
    x = np.asarray(data.test.images[:500], np.float32) / 255
    verdicts = made.verify(x, data.test.labels[:500], Lipschitz(), norm="linf", radius=LINF)
    row["linf"] = {"radius": LINF, "images": 500, "vra": float(verdicts.is_verified.mean())}
    save("ace", row, command="python -m experiments.rows.ace")


if __name__ == "__main__":
    main()
