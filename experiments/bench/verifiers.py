"""Verifiers on plainly trained MNIST networks: Crown's time, and what branch and bound decides.

ReLU networks are trained for a few epochs with cross-entropy: "conv", of 3,604 ReLUs (16 4x4
kernels of stride 2, 32 of them, 100 units), and "mlp", 256 x 2, by Adam without weight decay, and
"mlp_decay", the same by SGD with momentum 0.9 and the usual weight decay of 5e-4. Their weights are
kept in --cache, where `experiments.bench.crown_torch` finds those of "conv".

Commands:
    python -m experiments.bench.verifiers crown     (Crown at linf, with and without float64)
    python -m experiments.bench.verifiers branch    (25 images of 60 s, MixedInteger 10 s; each MLP)
(a prepared set "mnist"; an otherwise idle machine for "crown")
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gloro_jax as gj
from gloro_jax import layers, verifiers
from gloro_jax.data.dataset import DataConfig
from gloro_jax.platforms import jit
from gloro_jax.verifiers import Status

RESULTS = Path(__file__).parent.parent / "results" / "verifiers.json"
_EPOCHS, _BATCH = 4, 128
MLPS = ("mlp", "mlp_decay")


def conv_body() -> Any:
    return nn.Sequential(
        [
            layers.Conv(16, (4, 4), strides=2, padding="VALID", name="conv1"),
            layers.ReLU(name="relu1"),
            layers.Conv(32, (4, 4), strides=2, padding="VALID", name="conv2"),
            layers.ReLU(name="relu2"),
            layers.Flatten(name="flatten"),
            layers.Dense(100, name="dense"),
            layers.ReLU(name="relu3"),
        ]
    )


def mlp_body() -> Any:
    parts: list[Any] = [layers.Flatten(name="flatten")]
    for number in (1, 2):
        parts += [layers.Dense(256, name=f"dense{number}"), layers.ReLU(name=f"relu{number}")]
    return nn.Sequential(parts)


BODIES = {"conv": conv_body, "mlp": mlp_body, "mlp_decay": mlp_body}


def rule_of(name: str, steps: int) -> optax.GradientTransformation:
    """How a network is trained."""
    if name != "mlp_decay":
        return optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    sgd = optax.sgd(optax.cosine_decay_schedule(0.1, steps), momentum=0.9)
    return optax.chain(optax.add_decayed_weights(5e-4), sgd)


def trained(name: str, data: Any, cache: Path) -> Any:
    """The frozen network, trained once."""
    net, file = gj.GloroNet(BODIES[name](), 10), cache / f"plain_{name}.npz"
    example = jnp.zeros((1, 28, 28, 1))
    norms = gj.PowerIteration(steps=1)
    variables = net.init(jax.random.key(0), example, norms=norms)
    leaves, tree = jax.tree.flatten(variables["params"])
    if not file.exists():
        params = _fitted(name, net, variables, data)
        np.savez(file, *map(np.asarray, jax.tree.leaves(params)))
    with np.load(file) as stored:
        leaves = [jnp.asarray(stored[f"arr_{i}"]) for i in range(len(leaves))]
    params = jax.tree.unflatten(tree, leaves)
    return gj.freeze(net, {**variables, "params": params}, input_shape=(28, 28, 1))


def _fitted(name: str, net: Any, variables: Any, data: Any) -> Any:
    images, labels = np.asarray(data.train.images), np.asarray(data.train.labels)
    steps = _EPOCHS * (len(images) // _BATCH)
    rule = rule_of(name, steps)

    def loss(params: Any, x: Any, y: Any) -> Any:
        all_of_it = {**variables, "params": params}
        logits = net.apply(all_of_it, x, norms=gj.PowerIteration(steps=1), mutable=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits.values, y).mean()

    @jit
    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        updates, state = rule.update(jax.grad(loss)(params, x, y), state, params)
        return optax.apply_updates(params, updates), state

    params, state, rng = (
        variables["params"],
        rule.init(variables["params"]),
        np.random.default_rng(0),
    )
    for _ in range(_EPOCHS):
        order = rng.permutation(len(images))[: len(images) // _BATCH * _BATCH]
        for rows in order.reshape(-1, _BATCH):
            params, state = step(params, state, images[rows].astype(np.float32) / 255, labels[rows])
    return params


def correct(frozen: Any, split: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` test images that the network classifies correctly."""
    images = np.asarray(split.images[: 4 * count]).astype(np.float32) / 255
    labels = np.asarray(split.labels[: 4 * count]).astype(np.int64)
    right = np.flatnonzero(np.asarray(frozen(images).prediction) == labels)[:count]
    return images[right], labels[right]


def crown(data: Any, cache: Path, radius: float) -> dict[str, Any]:
    """Seconds for 100 images, compilation apart, and the bounds for crown_torch to compare."""
    frozen = trained("conv", data, cache)
    x, labels = correct(frozen, data.test, 100)
    told: dict[str, Any] = {"images": len(x), "radius": radius, "network": "conv, 3,604 ReLUs"}
    for word, method in (
        ("float32", verifiers.Crown(is_rounding_counted=False)),
        ("with the float64 pass", verifiers.Crown()),
    ):
        seconds = []
        for _ in range(4):
            began = time.perf_counter()
            found = method.verify(frozen, x, labels, norm="linf", radius=radius, box=None)
            seconds.append(time.perf_counter() - began)
        told[word] = {"seconds": min(seconds[1:]), "verified": int(found.is_verified.sum())}
    np.savez(cache / "crown_points.npz", x=x, labels=labels)
    return told


def branch(name: str, data: Any, cache: Path, radius: float) -> dict[str, Any]:
    """Verdicts of branch and bound on the first 25 correct images; MixedInteger where it ends."""
    frozen = trained(name, data, cache)
    x, labels = correct(frozen, data.test, 25)
    rows = []
    for i in range(len(x)):
        row: dict[str, Any] = {"label": int(labels[i])}
        for method in (verifiers.BranchAndBound(), verifiers.MixedInteger(time_limit=10)):
            found = method.verify(
                frozen, x[i : i + 1], labels[i : i + 1], norm="linf", radius=radius, box=(0.0, 1.0)
            )
            status = Status(int(found.status[0])).name
            row[method.name] = {"status": status, "seconds": round(float(found.seconds[0]), 2)}
        rows.append(row)
        print(row, flush=True)
    decided = sum(row["BranchAndBound"]["status"] != "UNKNOWN" for row in rows)
    pairs = [(row["BranchAndBound"]["status"], row["MixedInteger"]["status"]) for row in rows]
    contradictions = sum(set(pair) == {"VERIFIED", "FALSIFIED"} for pair in pairs)
    return {
        "radius": radius,
        "box": [0.0, 1.0],
        "images": len(rows),
        "decided": decided,
        "contradictions": contradictions,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("what", choices=("crown", "branch"))
    parser.add_argument("--cache", type=Path, default=Path("scratch"))
    parser.add_argument("--radius", type=float)
    parser.add_argument("--mlps", nargs="+", choices=MLPS, default=MLPS, metavar="NAME")
    options = parser.parse_args()
    options.cache.mkdir(exist_ok=True)
    data = gj.data.open_data(DataConfig("mnist", validation=1 / 12))
    if options.what == "crown":
        save("crown", crown(data, options.cache, options.radius or 0.02))
    for name in options.mlps if options.what == "branch" else ():
        told = branch(name, data, options.cache, options.radius or 0.03)
        save("branch", {**known().get("branch", {}), name: told})


def known() -> dict[str, Any]:
    """What was measured before."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def save(what: str, told: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps({**known(), what: told}, indent=1) + "\n")
    print(json.dumps(told, indent=1), flush=True)


if __name__ == "__main__":
    main()
