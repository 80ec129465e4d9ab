"""Puts a finished run into experiments/zoo, stripped to what certifies, and lists the zoo.

What is kept of a run: config.json without paths, metrics.jsonl, summary.json, and the best weights
with their bounds (float32, at most 8 MB; 30 MB for the whole zoo). Each network is loaded again and
its digest compared before it counts as there; experiments/zoo/README.md is written anew from the
rows in experiments/results/recipes.json.

Command: python -m experiments.rows.zoo [--add RUN NAME]
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import gloro_jax as gj
from gloro_jax import runs
from gloro_jax.plain import in_words

ZOO = Path(__file__).parent.parent / "zoo"
RESULTS = Path(__file__).parent.parent / "results" / "recipes.json"
_LARGEST, _ALTOGETHER = 8e6, 30e6
_KEPT = ("metrics.jsonl", "summary.json", "weights/best.safetensors")
_TITLE = """# The zoo

Networks trained by this library, with guaranteed bounds. VRA is that of a
certificate file over the test split, proved again by the checker. CIFAR-10 has 9,966 images here:
34 of its 10,000 were at hand only as JPEG, and pixels that lost something are not certified.

| name | data | epsilon | clean | VRA | images | parameters | views | trained on |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
_END = """
```
gloro-jax certify experiments/zoo/digits       # at once; the others want their set: docs/data.md
```

`gj.load("experiments/zoo/digits")` is the network in Python. This page is written by
`python -m experiments.rows.zoo`.
"""


def add(run: Path, name: str) -> None:
    """Copies what certifies; raises a ValueError where it is too large, and leaves nothing then."""
    folder = ZOO / name
    if folder.exists():
        raise FileExistsError(f"{folder} exists: remove it first, if the new one is to replace it.")
    sizes = [path.stat().st_size for path in ZOO.glob("*/**/*") if path.is_file()]
    size = sum((run / part).stat().st_size for part in _KEPT)
    if size > _LARGEST or size + sum(sizes) > _ALTOGETHER:
        raise ValueError(f"{run} takes {size / 1e6:.1f} MB beside {sum(sizes) / 1e6:.1f} MB there.")
    digest = gj.load(run).digest
    for part in _KEPT:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(run / part, folder / part)
    config = without_paths(runs.read_config(run))
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    if gj.load(folder).digest != digest:
        shutil.rmtree(folder)
        raise ValueError(f"{run} is another network when it is loaded from the zoo.")


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """The config with data named as a prepared set, wherever its files were."""
    data = {**config["data"], "directory": None}
    if data.get("source") not in (None, "digits"):
        data["source"] = data["name"]
    return {**config, "data": data}


def listed() -> str:
    """The zoo's page."""
    rows = json.loads(RESULTS.read_text())
    lines = []
    for folder in sorted(path.parent for path in ZOO.glob("*/config.json")):
        config, row = runs.read_config(folder), rows.get(folder.name, {})
        if row.get("digest") != gj.load(folder).digest:
            raise ValueError(
                f"{folder.name} has no row of its own: python -m experiments.rows.recipes"
            )
        file = row["certificate"]  # None where it is still to be made: then VRA is that of certify
        vra = f"{100 * file['vra']:.2f}" if file else f"{100 * row['vra']:.2f} (certify)"
        cells = [
            folder.name,
            config["data"]["name"],
            in_words(row["epsilon"]),
            f"{100 * row['clean']:.2f}",
            vra,
            f"{row['count']:,}",
            f"{row['parameters']:,}",
            " ".join(row["views"]) or "-",
            "2 CPU cores" if (device := row.get("device", "cpu")) == "cpu" else device,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return _TITLE + "\n".join(lines) + "\n" + _END


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--add", nargs=2, metavar=("RUN", "NAME"), help="a finished run, its name")
    options = parser.parse_args()
    if options.add:
        add(Path(options.add[0]), options.add[1])
    (ZOO / "README.md").write_text(listed())


if __name__ == "__main__":
    main()
