"""Directives for the API: docstrings of packages and their modules, so that no list of modules has to be kept."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Rooms(SphinxDirective):
    """`{rooms} dynagent.graph dynagent.team`: a section for each module, and for each module of a package."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        lines: list[str] = []
        for name in self.arguments[0].split():
            for module in modules_of(name):
                lines += [f"## {module}", "", "```{eval-rst}", f".. automodule:: {module}", "```", ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class Names(SphinxDirective):
    """`{names}`: a table of what `import dynagent` gives, each with a link to where it is defined."""

    def run(self) -> list[nodes.Node]:
        lines = ["| name | what it is |", "|---|---|"]
        for name, module in exported("dynagent").items():
            summary = str(getattr(importlib.import_module(module), name).__doc__).partition("\n")[0]
            lines.append(f"| {{py:obj}}`dynagent.{name} <{module}.{name}>` | {summary} |")
        return self.parse_text_to_nodes("\n".join(lines))


def modules_of(name: str) -> list[str]:
    """The public modules of a package, in alphabetical order; of a module its own name."""
    module = importlib.import_module(name)
    if not hasattr(module, "__path__"):
        return [name]
    inside = (found.name for found in pkgutil.iter_modules(module.__path__, f"{name}."))
    return [found for found in inside if "._" not in found]


def exported(package: str) -> dict[str, str]:
    """Name -> module, from the package's stub."""
    stub = Path(str(importlib.import_module(package).__file__)).with_suffix(".pyi")
    imports = [node for node in ast.parse(stub.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    return {str(alias.asname): f"{package}.{node.module}" for node in imports for alias in node.names}


def show_code(app: Sphinx, what: str, name: str, documented: Any, options: Any, lines: list[str]) -> None:
    """Mark an indented block below a paragraph as code; docstrings are written to be read as they stand."""
    shown: list[str] = []
    for line in lines:
        begins = line.startswith("    ") and len(shown) > 1 and not shown[-1]
        before = next((earlier for earlier in reversed(shown) if earlier), "")
        if begins and before and not before.startswith(" ") and not line.lstrip().startswith(">>>"):
            shown += [".. code-block:: python", ""]
        shown.append(line)
    lines[:] = shown


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", show_code, priority=400)  # before napoleon
    app.add_directive("rooms", Rooms)
    app.add_directive("names", Names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
