"""What a number depends on: the code that is imported on the way to it, and the files that it reads.

The code of a measurement is its module and all modules of this project that are imported from there, at any depth, so
that a constant beside a function counts as much as the function. Modules are found by reading the source, not by
importing it. A module counts by its syntax: comments, docstrings and layout change no number.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import grimp

PACKAGES = ("dynagent", "studies")
# Modules that cannot change a number, each with everything inside it. What they import does not count through them.
NEUTRAL = (
    "dynagent.__init__",  # the version and the names that `import dynagent` offers
    "dynagent.__main__",
    "dynagent.artefacts.downloads",  # what arrives is held to its hash
    "dynagent.llm.endpoints",  # studies replay recordings: no server is asked
    "dynagent.llm.served",
    "dynagent.progress",
    "dynagent.runs.preflight",
    "dynagent.runs.provenance",
    "dynagent.runs.record",  # how a record is written and read
    "dynagent.runs.saving",
    "dynagent.runs.values",
    "dynagent.viz",
    "studies.__init__",
    "studies.common.accept",
    "studies.common.stale",
    "studies.common.dependencies",  # this, and what calls a measurement: declared seeds and settings count by value
    "studies.common.outcome_files",
    "studies.common.plots",
    "studies.common.program",
    "studies.common.record",
    "studies.common.sections",
    "studies.common.study",
    "studies.common.tables",
    "studies.common.workflow",
)
# Modules that measure. A report reads records: what measured them reaches it through the records, which then are stale
# themselves, so that these do not count for it a second time.
MEASURING = (
    "dynagent.artefacts", "dynagent.execution", "dynagent.learning", "dynagent.llm", "dynagent.policies",
    "dynagent.runs", "dynagent.tasks", "dynagent.team", "dynagent.worlds",
    "studies.benchmarks.bare", "studies.benchmarks.bench", "studies.benchmarks.cases", "studies.communication.measure",
    "studies.crosswords.answers", "studies.crosswords.measure", "studies.frontier.measure", "studies.idea.measure",
    "studies.readings.edge_llms", "studies.readings.embedding", "studies.readings.measure",
    "studies.readings.model_size", "studies.released.header", "studies.released.measure", "studies.released.no_effect",
    "studies.released.training", "studies.table2.measure", "studies.worlds.measure",
)  # fmt: skip
DRAWING = ("dynagent.viz", "studies.common.plots", "studies.common.tables")  # count for a figure
NEUTRAL_FILES = ("model_card.md",)  # a template of the text beside a saved policy


@lru_cache
def measuring_code(*modules: str) -> tuple[Path, ...]:
    """Files whose change can change what these modules measure: sources, and the data of packages that they read."""
    return _files(_closure(modules, NEUTRAL))


@lru_cache
def reporting_code(*modules: str) -> tuple[Path, ...]:
    """Files whose change can change what these modules say of what is on record."""
    return _files(_closure(modules, {*NEUTRAL, *MEASURING} - {"studies.common.tables"}))


@lru_cache
def drawing_code(*modules: str) -> tuple[Path, ...]:
    """Files whose change can change what these modules draw of what is on record."""
    return _files(_closure(modules, {*NEUTRAL, *MEASURING} - {*DRAWING}))


@lru_cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, cache_dir=None, exclude_type_checking_imports=True)


def _closure(modules: Iterable[str], left_out: Iterable[str]) -> set[str]:
    """The modules, all that they import, and the packages around them, without those that are left out."""
    graph, left_out = _graph(), tuple(left_out)
    found: set[str] = set()
    waiting = list(modules)
    for module in waiting:
        if module not in graph.modules:
            raise ValueError(f"There is no module {module!r} in {' or '.join(PACKAGES)}: correct the study's entry.")
    while waiting:
        module = waiting.pop()
        name = f"{module}.__init__" if module in PACKAGES else module
        if module in found or any(name == other or name.startswith(f"{other}.") for other in left_out):
            continue
        found.add(module)
        waiting += graph.find_modules_directly_imported_by(module)
        if "." in module:
            waiting.append(module.rpartition(".")[0])  # its __init__ runs, too
    return found


def _files(modules: Iterable[str]) -> tuple[Path, ...]:
    sources = [_source_of(module) for module in sorted(modules)]
    return tuple(dict.fromkeys(path for source in sources for path in (source, *_data_of(source))))


@cache
def _source_of(module: str) -> Path:
    package, *parts = module.split(".")
    path = _root_of(package).joinpath(*parts)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@lru_cache
def _root_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@cache
def _data_of(source: Path) -> tuple[Path, ...]:
    """Data files below a module's folder that it names."""
    text = source.read_text(encoding="utf-8")
    data = (path for path in sorted(source.parent.rglob("*")) if path.suffix in (".json", ".jsonl", ".md"))
    return tuple(path for path in data if path.name in text and path.name not in NEUTRAL_FILES)


def file_digest(path: Path) -> str:
    """A hash of what a file holds; of Python's source, of its syntax without docstrings."""
    content = path.read_bytes()
    if path.suffix == ".py":
        content = repr(_plain(_without_docstrings(ast.parse(content)))).encode()
    return hashlib.sha256(content).hexdigest()


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                node.body = node.body[1:]
    return tree


def _plain(node: Any) -> Any:
    """The syntax as lists and texts. Empty fields are left out: a newer Python has more of them."""
    if isinstance(node, ast.AST):
        fields = [(name, _plain(value)) for name, value in ast.iter_fields(node) if value is not None and value != []]
        return [type(node).__name__, *fields]
    return [_plain(entry) for entry in node] if isinstance(node, list) else repr(node)


def digest_of(files: Iterable[Path]) -> str:
    """A hash of the contents of several files."""
    return hashlib.sha256("\n".join(file_digest(path) for path in files).encode()).hexdigest()
