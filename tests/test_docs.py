"""Every Python block of the README and the docs runs, in order, page by page."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "docs/certify-from-jax.md",
    "docs/adding-a-layer.md",
    "docs/guarantees.md",
    "docs/ensembles.md",
]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, monkeypatch):
    import jax

    jax.config.update("jax_numpy_rank_promotion", "allow")  # as a reader's JAX is set
    try:
        blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
        assert blocks
        names = {"__name__": "page"}
        for block in blocks:
            exec(compile(block, page, "exec"), names)
        if page == "README.md":
            assert names["is_verified"].mean() > 0.5
    finally:
        jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.mark.slow
def test_the_page_about_photographs_leads_to_a_certificate(tmp_path, monkeypatch, capsys, untyped):
    """Its Python blocks on photographs of several sizes, prepared as it says; then `check`."""
    pytest.importorskip("array_record", reason="array_record exists for Linux only")
    from gloro_jax.cli import main

    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for bright, name in ((60, "daisy"), (180, "tulip")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (20 + i, 30, 3)) + bright
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02}.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    page = (ROOT / "docs" / "your-own-data.md").read_text()
    [line] = [line for line in page.splitlines() if line.startswith("gloro-jax data prepare")]
    with pytest.raises(SystemExit, match="0"):
        main(line.split()[1:])
    names = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "page", "exec"), names)
    assert names["data"].class_names == ("daisy", "tulip")
    with pytest.raises(SystemExit, match="0"):
        main(["check", "own.cert", "--data", "flowers"])
    assert "CONFIRMED" in capsys.readouterr().out


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", page.read_text()):
            assert (page.parent / next(filter(None, target))).exists(), (page.name, target)
