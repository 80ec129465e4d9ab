"""The zoo: every network whole, small, free of paths, and described by its own row."""

import json
import re

import pytest

import gloro_jax as gj
from experiments.rows import zoo

NETWORKS = sorted(path.parent for path in zoo.ZOO.glob("*/config.json"))


def test_the_zoo_is_small_and_its_page_is_that_of_the_rows():
    files = [path for path in zoo.ZOO.glob("*/**/*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30e6
    assert (zoo.ZOO / "README.md").read_text() == zoo.listed()  # compares every digest


@pytest.mark.parametrize("folder", NETWORKS, ids=lambda folder: folder.name)
def test_a_network_holds_what_certifies_and_no_path_of_a_machine(folder):
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert kept == {"config.json", *zoo._KEPT}
    assert sum((folder / name).stat().st_size for name in kept) < 8.1e6
    for name in ("config.json", "summary.json", "metrics.jsonl"):
        assert not re.search(r'"/|"~|\\\\', (folder / name).read_text())


def test_digits_certifies_what_its_row_says():
    frozen, test = gj.load(zoo.ZOO / "digits"), gj.data.digits().test
    row = json.loads(zoo.RESULTS.read_text())["digits"]
    report = gj.evaluation.verified_robust_accuracy(
        frozen, [(test.images, test.labels)], epsilon=row["epsilon"]
    )
    assert report.vra == pytest.approx(row["vra"], abs=1 / len(test))
