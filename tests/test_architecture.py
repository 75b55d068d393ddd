"""The library's build: imports run one way, and it stays small."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import networkx as nx
import pytest

import dynagent

LIBRARY = Path(dynagent.__file__).parent
ROOT = Path(__file__).resolve().parent.parent

# A new module is placed here before it is written.
LAYERS = (
    (
        "graph",
        "sampling",
        "estimators",
        "parameters",
        "train_config",
        "presets",
        "endpoints",
        "config",
        "downloads",
        "convert_gguf",
        "sources",
        "progress",
    ),
    ("policy", "llm", "llm.*", "tasks", "tasks.*"),
    ("agents", "decision", "agent_aware", "tuning", "execution"),
    (
        "train",
        "intervals",
        "evaluate",
        "baselines",
        "checkpoints",
        "results",
        "runs",
        "experiment",
        "preflight",
    ),
    ("plots", "explore"),
    ("dynagent",),  # `import dynagent` itself: short names for what a notebook needs
)
FROM_GRAPH_TO_TRAINING = ("graph", "sampling", "policy", "estimators", "agents", "decision", "execution", "train")

FILES = sorted(LIBRARY.rglob("*.py"))
NOTEBOOKS = [path for path in sorted(ROOT.glob("notebooks/**/*.ipynb")) if ".ipynb_checkpoints" not in path.parts]


def module_of(path: Path) -> str:
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "dynagent"


MODULES = {module_of(path): path for path in FILES}


def layer_of(module: str) -> int:
    found = [layer for layer, names in enumerate(LAYERS) if any(fnmatch(module, name) for name in names)]
    assert found, f"{module} has no layer: place it in the table of this test"
    return found[0]


def is_main_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def nodes_of(tree: ast.AST, *, program: bool) -> Iterator[ast.AST]:
    """All nodes, those in functions too; what stands under `if __name__ == "__main__"` only for a program."""
    for child in ast.iter_child_nodes(tree):
        if program or not is_main_guard(child):
            yield child
            yield from nodes_of(child, program=program)


def imports_of(source: str, module: str, *, program: bool = True) -> set[str]:
    """The library's modules that a module imports, wherever in it."""
    package = module if MODULES.get(module, Path()).name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in nodes_of(ast.parse(source), program=program):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = ["dynagent", *filter(None, package.replace("dynagent", "").split("."))]
                base = ".".join([*above[: len(above) - node.level + 1], *filter(None, [node.module])])
            # A name may itself be a module; the version is no arrow.
            names = [
                f"{base}.{alias.name}" for alias in node.names if (base, alias.name) != ("dynagent", "__version__")
            ]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "dynagent":
                inside = name.removeprefix("dynagent").lstrip(".")
                while inside and inside not in MODULES:
                    inside = inside.rpartition(".")[0]
                found.add(inside or "dynagent")
    return found - {module}


def source_of(module: str) -> str:
    return MODULES[module].read_text(encoding="utf-8")


def test_every_module_has_one_layer():
    for module in MODULES:
        places = [name for names in LAYERS for name in names if fnmatch(module, name)]
        assert len(places) == 1, f"{module} stands at {places} in the table of this test"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_import_runs_back(module):
    back = {name for name in imports_of(source_of(module), module) if layer_of(name) > layer_of(module)}
    assert back == set(), f"{module} (layer {layer_of(module)}) imports from above it"


def test_no_module_imports_itself_on_a_way_round():
    arrows = [(module, name) for module in MODULES for name in imports_of(source_of(module), module, program=False)]
    assert sorted(nx.simple_cycles(nx.DiGraph(arrows))) == []


def test_imports_are_found_wherever_they_stand():
    """The reading of imports itself, on all ways to write one."""
    source = """
import dynagent.graph, dynagent.llm.base as base
from dynagent import sources, __version__
from dynagent.evaluate import evaluate
from . import train
from .llm import features, load_llm
if TYPE_CHECKING:
    from dynagent.plots import heatmap
def function():
    from dynagent.config import TrainConfig
    import numpy
if __name__ == "__main__":
    from dynagent.experiment import main
"""
    known = {"graph", "llm.base", "sources", "evaluate", "train", "llm.features", "llm", "plots", "config"} & set(
        MODULES
    )
    assert imports_of(source, "policy", program=False) == known
    assert imports_of(source, "policy") == known | {"experiment"}
    assert imports_of("from . import base\nfrom ..sources import Source", "llm.recorded") == {"llm.base", "sources"}
    assert imports_of("from .base import Reply", "llm") == {"llm.base"}
    assert imports_of("from dynagent import load_llm", "llm.base") == {"dynagent"}


def test_nothing_imports_tests_or_notebooks():
    for module in MODULES:
        for node in nodes_of(ast.parse(source_of(module)), program=True):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"tests", "notebooks", "toy", "pytest"}, module


def prints_of(tree: ast.AST, inside_main: bool = False) -> list[int]:
    """Line numbers of `print` calls outside any function named main."""
    lines = []
    for node in ast.iter_child_nodes(tree):
        inside = inside_main or (isinstance(node, ast.FunctionDef) and node.name == "main")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print" and not inside:
            lines.append(node.lineno)
        lines += prints_of(node, inside)
    return lines


@pytest.mark.parametrize("module", sorted(MODULES))
def test_the_library_prints_nothing(module):
    assert prints_of(ast.parse(source_of(module))) == []


def test_prints_are_found():
    source = "def main():\n    print(1)\ndef other():\n    if x:\n        print(2)\nprint(3)\n"
    assert prints_of(ast.parse(source)) == [5, 6]


def num_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def lines_of_code(path: Path) -> int:
    """Lines that hold code: what documents it is not counted, so that nobody saves on that."""
    source = path.read_text(encoding="utf-8")
    documented = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in silent]
    return len({line for t in tokens for line in range(t.start[0], t.end[0] + 1)} - documented)


def test_lines_of_code_are_counted_without_what_documents_them(tmp_path):
    path = tmp_path / "counted.py"
    path.write_text('"""A module."""\n\n# a comment\ndef f():\n    """Two\n    lines."""\n    return """a\nb"""\n')
    assert lines_of_code(path) == 3


def test_the_library_is_thin():
    long = {module: num_lines(path) for module, path in MODULES.items() if num_lines(path) > 300}
    assert long == {}, "no file over 300 lines"
    assert sum(lines_of_code(MODULES[module]) for module in FROM_GRAPH_TO_TRAINING) <= 1200
    assert sum(map(lines_of_code, FILES)) <= 4000


def test_no_module_is_a_drawer_for_everything():
    assert not [module for module in MODULES if re.fullmatch(r"_?(utils?|helpers?|misc|common)", module.split(".")[-1])]


def plain(cell: str) -> str:
    """A cell's Python, without magics and shell lines."""
    if cell.lstrip().startswith("%%"):
        return ""
    return "\n".join("pass" if line.lstrip().startswith(("%", "!")) else line for line in cell.splitlines())


def faults_of(cell: str, max_lines: int = 18, classes: bool = False) -> list[str]:
    """What a notebook's cell does that belongs into the library; `classes` says whether it may define one."""
    faults = [f"{len(cell.splitlines())} lines"] if len(cell.splitlines()) > max_lines else []
    tree = ast.parse(plain(cell))
    own = [node for node in tree.body if classes and isinstance(node, ast.ClassDef)]
    allowed = {id(node) for one in own for node in (one, *one.body)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and id(node) not in allowed:
            faults.append(f"defines {node.name}")
    return faults


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_cells_are_short_and_define_nothing(path):
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert cells
    # A parameters cell has a line for each parameter.
    limits = [30 if "parameters" in cell["metadata"].get("tags", []) else 18 for cell in cells]
    classes = path.name == "your_own.ipynb"  # which shows what a user's own class looks like
    faults = {i: faults_of("".join(cell["source"]), limits[i], classes) for i, cell in enumerate(cells)}
    assert {i: found for i, found in faults.items() if found} == {}


def test_faults_of_a_cell_are_found():
    assert faults_of("%matplotlib inline\nx = 1\n!ls") == []
    assert faults_of("if x:\n    def f():\n        pass") == ["defines f"]
    assert faults_of("class A:\n    pass") == ["defines A"]
    assert faults_of("x = 1\n" * 19) == ["19 lines"]
    own = "class A:\n    def f(self):\n        pass\n"
    assert faults_of(own) == ["defines A", "defines f"]
    assert faults_of(own, classes=True) == []
    assert faults_of(own + "def g():\n    pass", classes=True) == ["defines g"]
