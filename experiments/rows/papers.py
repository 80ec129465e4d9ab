"""The papers' tables, row by row: paper | ours | not run.

    python -m experiments.rows.papers --paper neurips23 --runs RUNS
    python -m experiments.rows.papers --paper neurips23 --runs RUNS cifar10_liresnet_l12w512

With names of rows, each is trained, or resumed, by `gloro-jax train NAME --run RUNS/NAME --resume`;
what follows `--` goes to that command (`-- --microbatches 4`). Nothing is trained that was not
named. A row that several machines train takes the same command on each (docs/scaling.md), and this
one afterwards: whatever has ended in RUNS is certified on its whole test split, once, and
RUNS/papers.json keeps what was found.

A row is a recipe at the paper's settings, so far as this library has them: its docstring says what
differs. Ours are VRA with guaranteed bounds; the papers' come from power iteration.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import gloro_jax as gj
from gloro_jax.recipes import RECIPES
from gloro_jax.runs import read_config, unfinished


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a paper's table: figures in percent, None where the paper gives none.

    Attributes:
        vra: verified robust accuracy at the recipe's epsilon.
        clean: accuracy.
        remark: what the paper's run had beside the recipe.
    """

    vra: float
    clean: float | None = None
    remark: str = ""


_GENERATED = "with generated images"
PAPERS: dict[str, dict[str, Row]] = {
    "icml21": {  # Leino, Wang, Fredrikson, Globally-Robust Neural Networks
        "mnist_2c2f": Row(95.7),
        "mnist_4c3f": Row(62.8),
        "cifar10_6c2f": Row(58.4, 77.0),
        "tiny_imagenet_8c2f": Row(22.4),
    },
    "neurips23": {  # Hu, Zou, Wang, Leino, Fredrikson, LiResNet and EMMA
        "cifar10_liresnet_l12w512": Row(66.9, 81.3),
        "cifar100_liresnet_l12w512": Row(41.5, None, _GENERATED),
        "tiny_imagenet_liresnet": Row(33.6, None, _GENERATED),
        "imagenet_liresnet_l12w588": Row(35.0, 45.6),
        "imagenet_liresnet_l18w588": Row(14.2, None, "epsilon 1"),
    },
    "iclr24": {  # Hu, Leino, Wang, Fredrikson, CHORD layers
        "cifar10_chord_l12w512": Row(69.8, 81.0, "BRONet's rebuttal"),
        "cifar100_chord_l12w512": Row(40.2, 53.0, "BRONet's rebuttal"),
        "tiny_imagenet_chord": Row(37.0, 48.4, _GENERATED),
        "imagenet_chord_l12w588": Row(38.3, 49.0, _GENERATED),
    },
}


def train(name: str, run: Path, options: list[str]) -> None:
    """Trains or resumes one row; raises CalledProcessError where that fails."""
    words = [sys.executable, "-m", "gloro_jax", "train", name, "--run", str(run), "--resume"]
    subprocess.run([*words, *options], check=True)


def certified(name: str, run: Path) -> dict[str, Any]:
    """What a finished run reaches on its whole test split."""
    frozen, data = gj.load(run), gj.data.open_data(RECIPES[name]().data)
    epsilon = read_config(run)["training"]["epsilon"]
    report = gj.evaluation.verified_robust_accuracy(
        frozen, [(data.test.images, data.test.labels)], epsilon=epsilon
    )
    return {
        "digest": frozen.digest,
        "clean": 100 * report.clean_accuracy,
        "vra": 100 * report.vra,
        "count": report.count,
        "epochs": read_config(run)["training"]["epochs"],
    }


def digest(found: dict[str, Any], name: str) -> str:
    """Of the network that was certified for a row; empty for none."""
    return found.get(name, {}).get("digest", "")


def table(paper: str, runs: Path, found: dict[str, Any]) -> Table:
    """Paper | ours, and what was not run, or has not ended."""
    out = Table(title=f"{paper}: VRA (clean), percent; ours with guaranteed bounds")
    for column in ("row", "paper", "ours", "epochs", "remark"):
        out.add_column(column)
    for name, row in PAPERS[paper].items():
        clean = "" if row.clean is None else f" ({row.clean:.1f})"
        ours, epochs = "not run", ""
        if name in found:
            ours = f"{found[name]['vra']:.1f} ({found[name]['clean']:.1f})"
            epochs = f"{found[name]['epochs']} of {RECIPES[name]().training.epochs}"
        elif (runs / name / "config.json").is_file() and unfinished(runs / name):
            ours = "has not ended"
        out.add_row(name, f"{row.vra:.1f}{clean}", ours, epochs, row.remark)
    return out


def main(words: list[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    ours, theirs = (words, []) if "--" not in words else _split(words)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--paper", required=True, choices=sorted(PAPERS))
    parser.add_argument("--runs", type=Path, required=True, help="folder of run folders")
    parser.add_argument("rows", nargs="*", help="rows to train or to resume; none for the table")
    options = parser.parse_args(ours)
    rows = PAPERS[options.paper]
    if unknown := [name for name in options.rows if name not in rows]:
        parser.error(f"{options.paper} has no row {unknown[0]!r}; its rows are {', '.join(rows)}.")
    file = options.runs / "papers.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    for name in options.rows:
        train(name, options.runs / name, theirs)
    for name in rows:
        run = options.runs / name
        is_new = (run / "summary.json").is_file() and gj.load(run).digest != digest(found, name)
        if is_new:
            found[name] = certified(name, run)
            file.write_text(json.dumps(found, indent=1) + "\n")
    Console(highlight=False).print(table(options.paper, options.runs, found))


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    place = words.index("--")
    return words[:place], words[place + 1 :]


if __name__ == "__main__":
    main()
