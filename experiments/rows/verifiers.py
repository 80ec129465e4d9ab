"""Certified radii of every verifier on the same 100 digits of the same two networks.

"gloro" is the network of experiments/zoo/digits, MinMax activations, trained with EMMA. "plain" is
an MLP of 2 x 24 ReLUs, trained with cross-entropy alone. l2 radii over all of R^n, of each
network's own prediction; smoothing speaks of the smoothed classifier instead. Then each network is
attacked at 0.999 of the largest radius that any deterministic method certifies, in float64.
MixedInteger, which knows linf alone, is left out.

Command: python -m experiments.rows.verifiers [--only METHOD...] (about 40 minutes on 2 CPU cores;
with --only, the others' radii stay, if the networks are still those that they were measured on)
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import gloro_jax as gj
from experiments.rows import RESULTS, save
from gloro_jax import layers, verifiers
from gloro_jax.platforms import jit

ROOT = Path(__file__).parent.parent.parent
RADII = RESULTS / "verifiers_radii.json"
COUNT = 100
METHODS: dict[str, Any] = {
    "Lipschitz": verifiers.Lipschitz(),
    "IntervalBounds": verifiers.IntervalBounds(),
    "BallBox": verifiers.BallBox(),
    "FastLin": verifiers.FastLin(),
    "Dual": verifiers.Dual(),
    "Crown": verifiers.Crown(),
    "AlphaCrown": verifiers.AlphaCrown(),
    "Projections, lower bound": verifiers.Projections(mode="lower_bound", time_limit=5),
    "Projections, complete": verifiers.Projections(time_limit=5),
    "BranchAndBound": verifiers.BranchAndBound(time_limit=5),
    "Smoothing, sigma 0.25": verifiers.Smoothing(sigma=0.25, n=10_000),
}
KNOWN_BY = "Lipschitz"  # whose radii tell whether a network is the one that was measured before


def plain(data: Any) -> Any:
    """The MLP, trained in a few seconds."""
    body: list[Any] = [layers.Flatten(name="flatten")]
    for number in (1, 2):
        body += [layers.Dense(24, name=f"dense{number}"), layers.ReLU(name=f"relu{number}")]
    net = gj.GloroNet(nn.Sequential(body), 10)
    norms = gj.PowerIteration(steps=1)
    variables = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), norms=norms)
    images = jnp.asarray(np.asarray(data.train.images), jnp.float32)
    images = images / 255 if data.train.images.dtype == np.uint8 else images
    labels, rule = jnp.asarray(data.train.labels), optax.adam(3e-3)

    def loss(params: Any) -> Any:
        logits: Any = net.apply({**variables, "params": params}, images, norms=norms)
        return optax.softmax_cross_entropy_with_integer_labels(logits.values, labels).mean()

    @jit
    def step(params: Any, state: Any) -> Any:
        updates, state = rule.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    params, state = variables["params"], rule.init(variables["params"])
    for _ in range(400):
        params, state = step(params, state)
    return gj.freeze(net, {**variables, "params": params}, input_shape=(8, 8, 1))


def measured(
    name: str, frozen: Any, images: np.ndarray, *, only: list[str], before: dict[str, Any]
) -> dict[str, Any]:
    """Radii and seconds of each method, and how many attacks below the largest succeed."""
    found: dict[str, Any] = {}
    for word in dict.fromkeys([KNOWN_BY, *only]):
        began = time.perf_counter()
        radii = METHODS[word].certified_radius(frozen, images, norm="l2")
        seconds = time.perf_counter() - began
        found[word] = {"radii": [round(float(r), 6) for r in radii], "seconds": round(seconds, 1)}
        print(f"{name}: {word}: median {np.median(radii):.4f}, {seconds:.1f} s", flush=True)
        if before and word == KNOWN_BY and found[word]["radii"] != before[word]["radii"]:
            raise SystemExit(
                f"The network {name!r} is no longer the one that the other methods were measured "
                "on. Measure them all: leave --only out."
            )
    told = {word: {**before, **found}[word] for word in METHODS if word in {**before, **found}}
    proofs = [np.array(row["radii"]) for word, row in told.items() if "Smoothing" not in word]
    largest = np.max(proofs, axis=0)
    found = gj.evaluation.attack(frozen, images, radii=largest * 0.999, steps=100, restarts=4)
    return {"methods": told, "attacks": len(images), "successes": int(found.successes)}


def draw(told: dict[str, Any], file: Path) -> None:
    """The share of images certified at each radius, a panel for each network."""
    plt.rcParams.update({"svg.fonttype": "none", "font.size": 9, "svg.hashsalt": "gloro"})
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True, layout="constrained")
    titles = {"gloro": "GloRo net (MinMax, EMMA)", "plain": "plain MLP, 2 x 24 ReLUs"}
    for axis, (name, one) in zip(axes, told.items(), strict=True):
        for number, (word, row) in enumerate(one["methods"].items()):
            radii = np.sort(np.array(row["radii"]))
            shares = 1 - np.arange(len(radii)) / len(radii)
            style = "--" if "Smoothing" in word else (":" if word in ("Dual",) else "-")
            color = plt.get_cmap("tab10")(number % 10)
            axis.step(radii, shares, style, where="pre", label=word, color=color, linewidth=1.4)
        axis.set(title=titles[name], xlabel="l2 radius", xlim=(0, None), ylim=(0, 1))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share of 100 images certified")
    axes[1].legend(frameon=False, fontsize=8)
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--plot-only", action="store_true", help="draw what was measured")
    parser.add_argument("--only", nargs="+", choices=list(METHODS), metavar="METHOD")
    options = parser.parse_args()
    if not options.plot_only:
        data = gj.data.digits()
        images = np.asarray(data.test.images[:COUNT])
        images = images.astype(np.float32) / (255 if images.dtype == np.uint8 else 1)
        nets = {"gloro": gj.load(ROOT / "experiments" / "zoo" / "digits"), "plain": plain(data)}
        before: dict[str, Any] = {name: {} for name in nets}
        if options.only:
            stored = json.loads(RADII.read_text())["networks"]
            before = {name: stored[name]["methods"] for name in nets}
        only = options.only or list(METHODS)
        told = {
            name: measured(name, frozen, images, only=only, before=before[name])
            for name, frozen in nets.items()
        }
        save("verifiers_radii", {"networks": told}, command="python -m experiments.rows.verifiers")
    draw(json.loads(RADII.read_text())["networks"], ROOT / "docs" / "verifiers.svg")


if __name__ == "__main__":
    main()
