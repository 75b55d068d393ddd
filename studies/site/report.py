"""All notebooks, the ledger of claims and the figures as pages to browse: `make report` writes build/report/index.html.

Nothing is executed: the pages show what the committed notebooks hold. They need no server and no network: pictures and
equations are inside the pages. What could run (scripts, handlers of events, addresses like javascript:) or be fetched
is taken out as far as a parser of HTML finds it; each page also tells the browser to run no script and to load no
picture, font or frame from elsewhere. What stays are links, which a reader may follow, and a page's own inline styles.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
from bs4 import BeautifulSoup, Tag
from matplotlib import mathtext
from matplotlib.font_manager import FontProperties
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from pygments.formatters import HtmlFormatter

from dynagent.artefacts.downloads import write_file
from dynagent.runs.paths import project_root, resolve_path
from studies.common.program import program

OUTPUT = "build/report"
# Page -> the Markdown that it shows, from the project's root.
TEXTS = {"index.html": "notebooks/README.md", "claims.html": "results/claims.md"}
NAVIGATION = {"index.html": "Reading order", "claims.html": "The paper's claims", "gallery.html": "Gallery"}
# What the renderer of equations knows by another name.
SYNONYMS = {r"\lVert": r"\Vert", r"\rVert": r"\Vert", r"\sqrt H": r"\sqrt{H}", r"\bigl": "", r"\bigr": ""}
MATHS = re.compile(r"(?P<code>```.*?```|`[^`\n]*`)|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+?)\$", re.DOTALL)
# Attributes that hold an address, and values of any attribute that load one.
ADDRESSES = ("href", "xlink:href", "src", "srcset", "action", "formaction", "poster", "data", "background", "ping")
LOADS = re.compile(r"\\|image-set|url\((?!\s*['\"]?#)", re.IGNORECASE)  # a backslash may spell "url" otherwise
REMOVED = (
    "script, style, iframe, object, embed, form, link, meta, base, noscript, template, animate, set, a.anchor-link"
)
POLICY = "; ".join(
    [f"{kind}-src 'none'" for kind in ("script", "object", "frame", "media", "font", "connect")]
    + ["img-src data:", "form-action 'none'", "base-uri 'none'"]
)
WIDGET = "application/vnd.jupyter.widget-view+json"
PANEL = {"text/html": "<p>A panel: it needs a running kernel.</p>"}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 0 1rem 4rem; color: #222; }
nav { padding: 0.8rem 0; border-bottom: 1px solid #ccc; } nav a { margin-right: 1.5rem; }
pre, code { font: 13px/1.45 ui-monospace, monospace; } pre { overflow-x: auto; margin: 0.3rem 0; }
.input_area { background: #f6f6f6; border-left: 3px solid #ccc; padding: 0.2rem 0.8rem; }
.prompt { display: none; } .output_area { overflow-x: auto; margin: 0.5rem 0; }
.output_area pre { white-space: pre-wrap; }
table { border: 0; border-collapse: collapse; font-size: 14px; margin: 0.8rem 0; display: block; overflow-x: auto; }
th, td { border: 0; padding: 0.25rem 0.7rem; text-align: left; vertical-align: top; }
tr { border-bottom: 1px solid #e2e2e2; }
img { max-width: 100%; } img.block { display: block; margin: 0.8rem auto; }
"""


def equation(tex: str) -> str:
    """An equation as a picture inside the page, its TeX as the text for who cannot see it; as TeX where it cannot be.

    >>> equation(r"\\notknown{x}")
    '<code>\\\\notknown{x}</code>'
    """
    known = tex.strip()
    for other, ours in SYNONYMS.items():
        known = known.replace(other, ours)
    picture = io.BytesIO()
    try:
        font = FontProperties(size=12)
        depth = mathtext.MathTextParser("path").parse(f"${known}$", 72, font).depth
        mathtext.math_to_image(f"${known}$", picture, prop=font, dpi=72, format="svg")
    except ValueError:
        return f"<code>{html.escape(tex.strip())}</code>"
    source = base64.b64encode(picture.getvalue()).decode()
    style = f"vertical-align: {-depth * 4 / 3:.1f}px"  # of points, 72 an inch, in pixels, 96 an inch
    return f'<img alt="{html.escape(tex.strip())}" style="{style}" src="data:image/svg+xml;base64,{source}">'


def without_equations(text: str, found: list[str]) -> str:
    """The Markdown with a word in the place of each equation, which goes to `found` as HTML; code stays as it is."""

    def replace(match: re.Match[str]) -> str:
        if match["code"]:
            return match[0]
        picture = equation(match["block"] or match["inline"])
        found.append(picture.replace("<img ", '<img class="block" ') if match["block"] else picture)
        return f"equation{len(found) - 1}here"

    return MATHS.sub(replace, text)


def with_equations(text: str, found: list[str]) -> str:
    """The HTML with each equation in its place."""
    return re.sub(r"equation(\d+)here", lambda match: found[int(match[1])], text)


def of_notebook(path: Path) -> str:
    """A notebook's cells and outputs as HTML."""
    notebook, found = nbformat.read(path, as_version=4), list[str]()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = without_equations(cell.source, found)
        for output in cell.get("outputs", []):
            if WIDGET in output.get("data", {}):
                output.data = nbformat.from_dict(PANEL)
    body, _ = HTMLExporter(template_name="basic", embed_images=True).from_notebook_node(notebook)
    return with_equations(body, found)


def of_markdown(path: Path) -> str:
    """A text as HTML."""
    found: list[str] = []
    return with_equations(markdown2html(without_equations(path.read_text(encoding="utf-8"), found)), found)


def page(body: str, source: PurePosixPath, pages: dict[str, str]) -> str:
    """A whole page: without what runs or is fetched, and with links to pages of the report in place of links to files.

    Args:
        source: the file that it shows, from the project's root.
        pages: file, from the project's root -> its page.
    """
    soup = BeautifulSoup(body, "html.parser")
    for element in soup.select(REMOVED):
        element.decompose()
    for element in soup.find_all(True):
        for name in [name for name in element.attrs if is_active(element, name)]:
            del element[name]
    for link in soup.select("a[href]"):
        target = place_of(str(link["href"]), source, pages)
        if target:
            link["href"] = target
        else:
            link.unwrap()  # a file that is no part of the report, or nothing that a browser should follow
    heading = soup.find("h1")
    title = html.escape(heading.get_text() if heading else source.name)
    links = "".join(f'<a href="{name}">{html.escape(text)}</a>' for name, text in NAVIGATION.items())
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{title}</title>\n'
        f'<link rel="stylesheet" href="style.css">\n</head>\n<body>\n<nav>{links}</nav>\n{soup}\n</body>\n</html>\n'
    )


def is_active(element: Tag, name: str) -> bool:
    """Whether an attribute runs something, or leads out of the page; links are left to `place_of`."""
    found = element[name]
    value = found if isinstance(found, str) else " ".join(found)  # classes are a list
    if name.lower().startswith("on"):
        return True
    if name.lower() not in ADDRESSES:
        return name not in ("alt", "title") and LOADS.search(value) is not None
    if (element.name, name) == ("a", "href"):
        return False
    inside = value.startswith("data:image/") and name != "srcset"  # which may list others
    return not (inside or (name in ("href", "xlink:href") and value.startswith("#")))


def place_of(href: str, source: PurePosixPath, pages: dict[str, str]) -> str:
    """Where a link leads from a page of the report; "" if it cannot be followed there."""
    parts = urlsplit(href)
    if parts.scheme or parts.netloc:
        return href if parts.scheme in ("http", "https", "mailto") else ""
    if not parts.path:
        return href
    steps: list[str] = []
    for step in (source.parent / unquote(parts.path)).parts:
        if step == ".." and steps:
            steps.pop()
        else:
            steps.append(step)
    found = pages.get("/".join(steps), "")
    return found and found + (f"#{parts.fragment}" if parts.fragment else "")


def build(folder: Path, root: Path) -> list[Path]:
    """Write the report of the project in `root`; returns its pages."""
    notebooks = sorted(root.glob("notebooks/*.ipynb"))
    pages = {text: name for name, text in TEXTS.items()}
    pages |= {f"notebooks/{path.name}": f"{path.stem}.html" for path in notebooks}
    missing = [text for text in pages if not (root / text).is_file()]
    if missing:
        raise ValueError(f"The report needs {', '.join(missing)}, which the project in {root} does not have.")
    folder.mkdir(parents=True, exist_ok=True)
    for text, name in pages.items():
        make: Any = of_notebook if text.endswith(".ipynb") else of_markdown
        write_file(folder / name, [page(make(root / text), PurePosixPath(text), pages).encode()])
    write_file(folder / "style.css", [(STYLE + HtmlFormatter(style="default").get_style_defs(".highlight")).encode()])
    return [folder / name for name in pages.values()]


@program
def main(arguments: list[str] | None = None) -> int:
    """Write the notebooks, the ledger and the gallery as HTML pages with an index."""
    parser = argparse.ArgumentParser(prog="python -m studies.site.report", description=main.__doc__)
    parser.add_argument("--output", default=OUTPUT, help="default: %(default)s")
    options = parser.parse_args(arguments)
    folder = resolve_path(options.output)
    pages = build(folder, project_root())
    print(f"{len(pages)} pages: open {folder / 'index.html'} in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
