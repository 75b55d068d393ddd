"""How Sphinx makes the site: `make site` writes build/site from README, docs, committed notebooks and docstrings.

The sources' root is the project's, so that a link between files is the same on the site and in the repository.
Notebooks are shown as they are committed and are not executed; nothing is fetched, neither when the site is built
nor when a page is opened.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "extensions")]

import dynagent  # noqa: E402

project = "dynagent"
author = "dynagent contributors"
project_copyright = author
release = dynagent.__version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "mathml",
    "modules",
    "pages",
]
root_doc = "README"
include_patterns = [
    "README.md", "CHANGELOG.md", "NOTICE.md", "docs/**.md", "notebooks/*.ipynb", "notebooks/README.md",
    "results/claims.md", "studies/*/README.md", "tests/FAULTS.md",
]  # fmt: skip
exclude_patterns = [".*", "build", "dist", "results/[!c]*", "**/.ipynb_checkpoints"]

# A page of the site -> the pages below it, in order. Notebooks come in the order of their table.
repository = f"https://github.com/{os.environ.get('GITHUB_REPOSITORY', 'dynagent/dynagent')}"
page_tree = {
    "README": [
        "First steps </docs/start>", "Notebooks </notebooks/README>", "User guide </docs/guide>",
        "Results </docs/results>", "API </docs/api/index>", "Glossary </docs/glossary>",
    ],
    "docs/start": ["/docs/try_it"],
    "docs/guide": [
        "/docs/commands", "/docs/your_own", "/docs/served", "/docs/gpus", "/docs/costs", "/docs/benchmarks",
        "/docs/faults", "List of faults </tests/FAULTS>", "/docs/studies", "/docs/development", "/CHANGELOG", "/NOTICE",
    ],
    "docs/results": ["The ledger of claims </results/claims>"],
    "docs/api/index": [
        f"/docs/api/{room}" for room in (
            "graph", "policies", "team", "execution", "learning", "llm", "tasks", "evaluation", "worlds", "runs",
            "artefacts", "viz",
        )
    ],
}  # fmt: skip

# --- notebooks and texts
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js: dict[str, str] = {}  # a panel needs a kernel; its scripts would come from another server
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

# --- docstrings
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "ignore-module-all": True}
autodoc_inherit_docstrings = False
viewcode_follow_imported_members = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

suppress_warnings: list[str] = []  # none: every warning is an error

# --- pages
html_theme = "pydata_sphinx_theme"
html_title = "dynagent"
html_extra_path = ["_extra"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = "mathml"
html_theme_options = {
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "icon_links": [{"name": "GitHub", "url": repository, "icon": "fa-brands fa-github"}],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"README": [], "docs/glossary": []}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"
