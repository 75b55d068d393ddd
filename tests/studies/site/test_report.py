"""The report: whole, browsable without a network, and with nothing in it that runs."""

import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from studies.site.report import build, equation, main
from studies.site.report import page as page_of

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Every page of the report on this project, parsed: name -> soup."""
    folder = tmp_path_factory.mktemp("report")
    return {path.name: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in build(folder, ROOT)}


def test_every_notebook_has_its_page_and_the_index_leads_to_all(pages):
    expected = {f"{path.stem}.html" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(pages) == expected | {"index.html", "claims.html"}
    assert {link["href"] for link in pages["index.html"].select("a[href]")} >= set(pages) - {"index.html"}
    for page in pages.values():
        assert [link["href"] for link in page.select("nav a")] == ["index.html", "claims.html", "gallery.html"]
        assert page.title.get_text()


def test_every_internal_link_and_picture_is_there(pages):
    anchors = {name: {element["id"] for element in page.select("[id]")} for name, page in pages.items()}
    for name, page in pages.items():
        for link in page.select("a[href]"):
            parts = urlsplit(link["href"])
            if parts.scheme:
                assert parts.scheme in ("http", "https", "mailto"), (name, link["href"])
                continue
            assert parts.path in (*pages, ""), (name, link["href"])
            if parts.fragment:
                assert unquote(parts.fragment) in anchors[parts.path or name], (name, link["href"])
        for picture in page.select("img"):
            assert re.match(r"data:image/(png|svg\+xml);base64,\S{100,}", picture["src"]), name


def test_nothing_is_fetched_and_nothing_runs(pages):
    for name, page in pages.items():
        assert not page.select("script, iframe, object, embed"), name
        assert [sheet["href"] for sheet in page.select("link")] == ["style.css"], name
        assert not [e for e in page.find_all(True) if any(a.lower().startswith("on") for a in e.attrs)], name
        policy = page.select_one("meta[http-equiv=Content-Security-Policy]")["content"]
        assert {"script-src 'none'", "img-src data:", "connect-src 'none'"} <= set(policy.split("; ")), name


def test_a_panel_is_a_sentence(pages):
    assert "A panel: it needs a running kernel." in pages["explore.html"].get_text()
    assert "widget-view" not in str(pages["explore.html"])


def test_all_figures_and_equations_are_shown(pages):
    gallery = pages["gallery.html"].select("img")
    assert len([picture for picture in gallery if picture["src"].startswith("data:image/png")]) >= 23
    for name, page in pages.items():
        assert not re.search(r"equation\d+here", page.get_text()), name
        assert "$" not in "".join(p.get_text() for p in page.select("p") if not p.select("code")), name
    assert [p["alt"] for p in pages["train.html"].select("img[alt]") if "softmax" in p["alt"]]


def test_no_path_of_the_machine_is_in_it(pages):
    for name, page in pages.items():
        text = re.sub(r"base64,\S+", "", str(page))
        for place in (str(ROOT), str(Path.home()), "/tmp/", "/home/", "site-packages"):
            assert place not in text, (name, place)


def project(folder: Path, *cells) -> Path:
    """A project with one notebook."""
    (folder / "notebooks").mkdir(parents=True)
    (folder / "results").mkdir()
    (folder / "results/claims.md").write_text("# Claims <b onclick='x()'>x</b>\n\n<script>bad()</script>\n")
    (folder / "notebooks/README.md").write_text(
        "# Index\n\n[a](a.ipynb#part) [up](../../secret.txt) [claims](../results/claims.md) [run](javascript:bad)\n"
    )
    nbformat.write(new_notebook(cells=list(cells)), folder / "notebooks/a.ipynb")
    return folder


def test_what_could_run_is_taken_out_and_what_was_printed_is_escaped(tmp_path):
    printed = new_output("stream", text="<script>alert(1)</script> & <b>bold</b>")
    shown = new_output(
        "execute_result", data={"text/html": "<img src=x onerror='bad()'><script>bad()</script><i>i</i>"}
    )
    cells = [
        new_markdown_cell("# <em onmouseover='bad()'>Title</em> & more\n\n<iframe src='http://x'></iframe>"),
        new_code_cell("print('<x>')", outputs=[printed, shown], execution_count=1),
    ]
    root = project(tmp_path / "project", *cells)
    build(tmp_path / "out", root)
    text = (tmp_path / "out/a.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &lt;b&gt;bold&lt;/b&gt;" in text
    assert "<title>Title &amp; more</title>" in text
    assert "<i>i</i>" in text
    for name in ("a", "claims", "index"):
        page = (tmp_path / f"out/{name}.html").read_text()
        assert not re.search(r"<script|<iframe|\son\w+=|javascript:", page), name


ACTIVE = (
    '<svg><a xlink:href="javascript:bad">s</a></svg>',
    '<svg><a><animate attributeName="href" values="javascript:bad"/></a></svg>',
    '<map><area href="javascript:bad"></map>',
    '<button formaction="javascript:bad">b</button>',
    '<img src="http://bad/a.png" srcset="data:image/png;base64,AA 1x, http://bad/b.png 2x">',
    '<video src="http://bad/a.mp4" poster="//bad/a.png"></video>',
    '<p style="background:url(http://bad)">p</p>',
    "<p style=\"background:image-set('http://bad' 1x)\">p</p>",
    '<p style="background:u\\72l(http://bad)">p</p>',
    '<svg><rect fill="url(http://bad#a)"></rect></svg>',
    "<noscript><p title='</noscript><img src=http://bad onerror=bad()>'></p></noscript>",
)
HARMLESS = (
    '<svg><use xlink:href="#mark"></use><rect fill="url(#shade)" style="clip-path: url(#clip)"></rect></svg>',
    '<img alt="f" src="data:image/png;base64,AAAA" style="width: 3em"/>',
    '<a href="https://arxiv.org">paper</a>',
)


@pytest.mark.parametrize("active", ACTIVE)
def test_an_attribute_that_runs_or_fetches_is_taken_out(active):
    assert "bad" not in page_of(active, PurePosixPath("notebooks/a.ipynb"), {})


@pytest.mark.parametrize("harmless", HARMLESS)
def test_what_stays_inside_the_page_stays(harmless):
    assert harmless in page_of(harmless, PurePosixPath("notebooks/a.ipynb"), {})


def test_links_lead_to_pages_and_nowhere_else(tmp_path):
    build(
        tmp_path / "out", project(tmp_path / "project", new_markdown_cell("# a\n\n[b](b.ipynb) [c](#part)\n\n## part"))
    )
    index = BeautifulSoup((tmp_path / "out/index.html").read_text(), "html.parser")
    links = [link["href"] for link in index.select("body > a, p a")]
    assert links == ["a.html#part", "claims.html"]  # no file outside the report, no javascript
    notebook = BeautifulSoup((tmp_path / "out/a.html").read_text(), "html.parser")
    assert [link["href"] for link in notebook.select("p a")] == ["#part"]


def test_equations_are_pictures_and_code_stays_code(tmp_path):
    cell = new_markdown_cell(
        "# a\n\n$x_1$ and `$HOME and $PATH`\n\n$$\\frac{a}{b}$$\n\n```\n$y$\n```\n\n| a |\n|---|\n| $p(G \\mid x)$ |"
    )
    build(tmp_path / "out", project(tmp_path / "project", cell))
    page = BeautifulSoup((tmp_path / "out/a.html").read_text(), "html.parser")
    assert [picture["alt"] for picture in page.select("img")] == ["x_1", "\\frac{a}{b}", "p(G \\mid x)"]
    assert [picture["alt"] for picture in page.select("img.block")] == ["\\frac{a}{b}"]
    assert page.select("td img")
    assert "$HOME and $PATH" in page.select_one("p code").get_text()
    assert "$y$" in page.select_one("pre").get_text()


def test_an_equation_that_cannot_be_drawn_is_shown_as_it_is_written():
    assert equation(r"\unknown{<x>}") == r"<code>\unknown{&lt;x&gt;}</code>"


def test_a_project_without_a_ledger_is_an_error(tmp_path):
    root = project(tmp_path / "project", new_markdown_cell("# a"))
    (root / "results/claims.md").unlink()
    with pytest.raises(ValueError, match=r"needs results/claims\.md"):
        build(tmp_path / "out", root)
    assert not (tmp_path / "out").exists()


def test_the_program_says_where_the_index_is(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--output", str(tmp_path / "file/report")]) == 2
    assert "dynagent: " in capsys.readouterr().err
