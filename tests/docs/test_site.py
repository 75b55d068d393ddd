"""The site: builds without a warning, is whole, and fetches nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

import dynagent

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
SOURCE = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}
LOADED_LINKS = ("stylesheet", "icon", "preload", "prefetch", "preconnect")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of a site that `make site` builds, without a network."""
    folder = tmp_path_factory.mktemp("site")
    nowhere = "http://127.0.0.1:9"  # where no proxy listens
    environment = os.environ | {"PYTHONPATH": str(ROOT), "http_proxy": nowhere, "https_proxy": nowhere}
    options = ["-q", "-W", "--keep-going", "-c", "docs", "-b", "html", "-d", str(folder / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, ".", str(folder / "html")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site):
    """Every page, parsed: path from the site's root -> soup."""
    return {
        path.relative_to(site).as_posix(): BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.parts  # a theme's templates
    }


def test_everything_has_its_page(pages):
    notebooks = {f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.ipynb")}
    texts = {path.relative_to(ROOT).with_suffix(".html").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    others = {"README.html", "index.html", "search.html", "results/claims.html", "CHANGELOG.html", "NOTICE.html"}
    assert notebooks | texts | others <= set(pages)


def test_every_internal_link_leads_somewhere(site, pages):
    anchors = {name: {element["id"] for element in page.select("[id]")} for name, page in pages.items()}
    broken = []
    for name, page in pages.items():
        for element in page.select("a[href], img[src], link[href], script[src]"):
            address = urlsplit(element.get("href") or element["src"])
            if address.scheme or address.netloc:
                continue
            target = (site / name).parent / unquote(address.path) if address.path else site / name
            place = os.path.relpath(target, site)
            anchor = unquote(address.fragment)
            if not target.is_file() or (anchor and place in anchors and anchor not in anchors[place]):
                broken.append((name, address.geturl()))
    assert broken == []


def test_nothing_is_fetched_from_elsewhere(site, pages):
    for name, page in pages.items():
        sources = [element.get(attribute, "") for tag, attribute in SOURCE.items() for element in page.select(tag)]
        sources += [link["href"] for link in page.select("link") if set(link.get("rel", ())) & set(LOADED_LINKS)]
        assert [source for source in sources if re.match(r"(https?:)?//", source)] == [], name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_every_name_of_the_package_is_documented(pages):
    linked = {link["title"].rpartition(".")[2] for link in pages["docs/api/index.html"].select("a[title^='dynagent.']")}
    assert set(dynagent.__all__) <= linked


def test_equations_are_shown(pages):
    assert pages["notebooks/train.html"].select("math")
    for name, page in pages.items():
        if name.startswith("notebooks/"):
            assert "$$" not in "".join(text.get_text() for text in page.select("p")), name


def test_the_search_finds_words_of_notebooks_and_docstrings(site):
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert '"notebooks/train"' in index
    assert "most_probable_dags" in index


def test_no_path_of_the_machine_is_on_a_page(pages):
    for name, page in pages.items():
        text = str(page)
        for place in (str(ROOT), str(Path.home()) + "/", "site-packages"):
            assert place not in text, (name, place)
