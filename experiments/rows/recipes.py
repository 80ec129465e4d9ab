"""Every recipe, trained and certified: VRA with guaranteed bounds beside the paper's figure.

Trains each recipe into --runs (finished runs are not repeated, interrupted ones resumed),
certifies its best epoch once on the whole test split, attacks inside certified radii, searches for
a slope above the Lipschitz bound, and writes a certificate file and checks it. The VRA of the file
is the figure that counts: real arithmetic, every rounding counted. A row has one seed; --seeds adds
the files of others to a row that is there.

Command: python -m experiments.rows.recipes --runs RUNS NAME... [--seeds 1 2]
(on 2 CPU cores 3 minutes for mnist_2c2f and fashion_2c2f, 30 for mnist_4c3f, 60 for cifar10_6c2f,
80 for cifar10_liresnet_small; the sets must have been prepared: docs/data.md).
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import gloro_jax as gj
from experiments.rows import RESULTS, head
from gloro_jax.data import Split
from gloro_jax.models import from_plain_model
from gloro_jax.plain import from_plain
from gloro_jax.recipes import RECIPES, Recipe
from gloro_jax.runs import read_config, read_summary

# VRA and clean accuracy of Leino et al. 2021, power iteration instead of guaranteed bounds; at 1.58
# also the best published figure, 4C3F with the bounds of Fazlyab et al. 2023.
PAPER = {
    "mnist_2c2f": (95.7, None),
    "mnist_4c3f": (62.8, None),
    "mnist_chord_mlp": (63.4, 96.3),
    "cifar10_6c2f": (58.4, 77.0),
}


def trained(recipe: Recipe, run: Path) -> tuple[gj.FrozenNet, Split]:
    """The frozen network of a run, trained or resumed where it must be, and the test split."""
    data = gj.data.open_data(recipe.data)
    if not (run / "summary.json").is_file():
        session = gj.training.Session(is_resuming=True)
        gj.training.fit(recipe.model, data, recipe.training, run=run, session=session)
    config = read_config(run)
    if config["data"]["fingerprint"] != data.fingerprint:
        raise ValueError(f"{run} was trained on other data: use a fresh --runs folder.")
    training = from_plain(gj.training.TrainConfig, config["training"], where="training")
    if training != recipe.training or from_plain_model(config["model"]) != recipe.model:
        raise ValueError(f"{run} was trained by another recipe: use a fresh --runs folder.")
    return gj.load(run), data.test


def seed_row(name: str, run: Path, *, seed: int) -> dict[str, Any]:
    """Accuracy, and what a file proves, of a recipe trained from another seed."""
    recipe = RECIPES[name]()
    other = dataclasses.replace(recipe.training, seed=seed)
    frozen, test = trained(dataclasses.replace(recipe, training=other), run)
    report = gj.evaluation.verified_robust_accuracy(
        frozen, [(test.images, test.labels)], epsilon=other.epsilon
    )
    return {
        "clean": report.clean_accuracy,
        "digest": frozen.digest,
        **in_a_file(frozen, test, epsilon=other.epsilon),
        "commit": head(),
    }


def look_at(
    name: str, run: Path, *, attacked: int, steps: int, has_file: bool = True
) -> dict[str, Any]:
    recipe = RECIPES[name]()
    frozen, test = trained(recipe, run)
    epsilon = recipe.training.epsilon
    report = gj.evaluation.verified_robust_accuracy(
        frozen, [(test.images, test.labels)], epsilon=epsilon
    )
    chosen = np.random.default_rng(0).permutation(len(test))[:attacked]
    images, effort = test.images[chosen], {"steps": steps, "restarts": 1}
    inside = gj.evaluation.attack(frozen, images, radii=report.radii[chosen], **effort)
    at = gj.evaluation.attack(frozen, images, radii=epsilon, **effort)
    tight = gj.evaluation.tightness(frozen, test.images)
    summary = read_summary(run)
    params = gj.runs.load_variables(run)["params"]
    ratios = [pair["estimate"] / pair["guaranteed"] for pair in summary["norms"].values()]
    return {
        "epsilon": epsilon,
        "epochs": read_config(run)["training"]["epochs"],
        "certified_accuracy": {
            f"{k}/255": report.certified_accuracy([k / 255])[0] for k in (36, 72, 108)
        },
        "minutes": summary["seconds"] / 60,
        "device": ", ".join(sorted(set(summary["devices"]))),
        "jax": summary["jax"],
        "count": report.count,
        "clean": report.clean_accuracy,
        "vra": report.vra,
        "attacked": len(chosen),
        "attack_steps": steps,
        "refuted": inside.successes,
        "left_by_attack": float((report.is_correct[chosen] & ~at.is_success).mean()),
        "tightness": tight.ratio,
        "lowest_estimate_over_guaranteed": min(ratios),
        "digest": frozen.digest,
        "parameters": sum(np.size(leaf) for leaf in jax.tree.leaves(params)),
        "stored_numbers": sum(array.size for array in frozen.arrays().values()),
        "views": list(frozen.net.views),
        "certify_ms_per_image": certify_ms(frozen, test.images, epsilon=epsilon),
        "certificate": in_a_file(frozen, test, epsilon=epsilon) if has_file else None,
    }


def certify_ms(frozen: gj.FrozenNet, images: np.ndarray, *, epsilon: float) -> float:
    """Milliseconds an image of a warm, jitted certify: the median of eleven batches of 250."""
    x = np.asarray(images[:250])
    x = x.astype(np.float32) / 255 if x.dtype == np.uint8 else x
    run, times = jax.jit(gj.certify, static_argnames="epsilon"), []
    for _ in range(12):
        start = time.perf_counter()
        jax.block_until_ready(run(frozen, x, epsilon=epsilon))
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times[1:])) / len(x)


def in_a_file(frozen: gj.FrozenNet, test: Any, *, epsilon: float) -> dict[str, Any]:
    """What a certificate file over the whole test split proves, by the checker."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "all.certificate"
        exact = gj.certificates.as_fraction(epsilon)
        gj.certificates.write(frozen, np.asarray(test.images), test.labels, epsilon=exact, out=path)
        found = gj.certificates.check(path)
    summary = found["header"]["summary"]
    return {
        "lipschitz": found["lipschitz"],
        "points": summary["points"],
        "vra": summary["verified"] / summary["points"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=list(RECIPES))
    parser.add_argument("--runs", type=Path, required=True, help="folder of run folders")
    parser.add_argument("--attacked", type=int, default=1000, help="test images to attack")
    parser.add_argument("--steps", type=int, default=50, help="attack steps per target class")
    parser.add_argument(
        "--no-file", dest="file", action="store_false", help="without a certificate file, for now"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[], help="seeds to add to rows that are there"
    )
    options = parser.parse_args()
    path = RESULTS / "recipes.json"
    effort = {"attacked": options.attacked, "steps": options.steps, "has_file": options.file}
    for name in options.names:
        if options.seeds:
            for seed in options.seeds:
                row = seed_row(name, options.runs / f"{name}-seed{seed}", seed=seed)
                rows = json.loads(path.read_text())
                rows[name].setdefault("seeds", {})[str(seed)] = row
                save_rows(path, rows)
                print(name, seed, json.dumps(row), flush=True)
            continue
        row = look_at(name, options.runs / name, **effort)
        rows = json.loads(path.read_text()) if path.is_file() else {}  # others may write it, too
        earlier = rows.get(name, {})
        is_same = earlier.get("digest") == row["digest"]  # then other seeds and steps stand, too
        kept = {key: earlier[key] for key in ("step", "seeds") if is_same and key in earlier}
        rows[name] = {"commit": head(), "paper": PAPER.get(name), **row, **kept}
        save_rows(path, rows)
        print(name, json.dumps(row, indent=1), flush=True)


def save_rows(path: Path, rows: dict[str, Any]) -> None:
    path.write_text(json.dumps(rows, indent=1, default=np.ndarray.tolist) + "\n")


if __name__ == "__main__":
    main()
