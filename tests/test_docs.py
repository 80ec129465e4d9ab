"""Every Python block of the README and the docs runs, in order, page by page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/certify-from-jax.md", "docs/adding-a-layer.md"]


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


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", page.read_text()):
            assert (page.parent / next(filter(None, target))).exists(), (page.name, target)
