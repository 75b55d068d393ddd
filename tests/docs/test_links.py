"""Links in Markdown files and in Colab's notebook lead to files and headings that are there."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("studies/**/*.md"), ROOT / "notebooks/README.md"]
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def headings(path: Path) -> set[str]:
    """The anchors of a Markdown file or a notebook, as GitHub and MyST make them."""
    if path.suffix == ".ipynb":
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
        text = "\n\n".join(cell.source for cell in cells)
    else:
        text = path.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(page: Path, text: str) -> list[str]:
    """The relative links of a text that lead nowhere."""
    lost = []
    for link in LINK.findall(CODE.sub("", text)):
        place, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = page.parent / place if place else page
        if not target.exists() or (anchor and anchor not in headings(target)):
            lost.append(link)
    return lost


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert broken(page, page.read_text(encoding="utf-8")) == []


def test_a_broken_link_is_found():
    page = ROOT / "docs/start.md"
    text = "[a](start.md#what-to-expect) [b](nothing.md) [c](start.md#nothing) [d](https://x.org) `[e](nothing.md)`"
    assert broken(page, text) == ["nothing.md", "start.md#nothing"]


def test_there_is_one_address_of_the_repository():
    files = [*PAGES, ROOT / "CITATION.cff", ROOT / "docs/colab.ipynb", ROOT / "docs/conf.py"]
    found = {
        address
        for path in files
        for address in re.findall(r"github\.com/([\w-]+/dynagent)\b", path.read_text(encoding="utf-8"))
    }
    assert found == {"dynagent/dynagent"}


def test_every_page_has_its_place_in_the_tree():
    """Sphinx warns of a page without one; this takes less time."""
    tree = (ROOT / "docs/conf.py").read_text(encoding="utf-8")
    names = {page.relative_to(ROOT).with_suffix("").as_posix() for page in PAGES if page.parent.name == "docs"}
    assert {name for name in names if f"/{name}" not in tree} == set()
