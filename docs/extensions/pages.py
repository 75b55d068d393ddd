"""What the site adds to the repository's files: which page is below which, and links to files that are no pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

BADGES = re.compile(r"<!-- badges -->.*?<!-- /badges -->\n", re.DOTALL)
NOTEBOOK = re.compile(r"^\| \[\w+\.ipynb\]\((\w+)\.ipynb\)", re.MULTILINE)


def add_toctree(app: Sphinx, docname: str, source: list[str]) -> None:
    """List the pages below a page, and leave out badges, which are pictures of other servers."""
    below = list(app.config.page_tree.get(docname, []))
    if docname == "notebooks/README":
        below += [f"/notebooks/{name}" for name in dict.fromkeys(NOTEBOOK.findall(source[0]))]
    if docname == "docs/studies":
        below += sorted(f"/{page}" for page in app.env.found_docs if page.startswith("studies/"))
    if below:
        pages = "\n".join(below)
        source[0] = f"{BADGES.sub('', source[0])}\n\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"


def link_to_repository(app: Sphinx, doctree: nodes.document) -> None:
    """Let a link to a file or folder that is no page of the site lead to the repository."""
    root = Path(app.srcdir)
    for node in [*doctree.findall(addnodes.download_reference), *doctree.findall(addnodes.pending_xref)]:
        if node.get("reftype") != "myst":
            continue
        target = node["reftarget"].partition("#")[0]
        path = (root / app.env.docname).parent / target
        if node.get("refdomain") == "doc":  # a text, from the project's root and without its suffix
            path = root / f"{target}.md"
            target = "" if target in app.env.found_docs else target
        path = path.resolve()
        if not target or not path.exists() or not path.is_relative_to(root):
            continue  # a page, a place in this page, or a broken link, of which Sphinx warns
        kind = "tree" if path.is_dir() else "blob"
        link = nodes.reference(refuri=f"{app.config.repository}/{kind}/main/{path.relative_to(root)}")
        link += node.children
        node.replace_self(link)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("page_tree", {}, "env")
    app.add_config_value("repository", "", "env")
    app.connect("source-read", add_toctree)
    app.connect("doctree-read", link_to_repository)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
