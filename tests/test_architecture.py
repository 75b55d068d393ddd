"""The house: files have one subject, and notebook cells are short and define nothing.

The rest is held by tools, set up in pyproject.toml: which way imports run by import-linter, that the library prints
nothing by ruff, that every name has one home by mypy.
"""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*(ROOT / "dynagent").rglob("*.py"), *(ROOT / "studies").rglob("*.py")])
NOTEBOOKS = [path for path in sorted(ROOT.glob("notebooks/**/*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
MOST_LINES = 330  # a file has one subject: about 300 lines


def test_no_file_is_long():
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {path: number for path, number in lines.items() if number > MOST_LINES} == {}


def test_no_module_is_a_drawer_for_everything():
    drawers = re.compile(r"_?(utils?|helpers?|misc)")
    assert [str(path) for path in FILES if drawers.fullmatch(path.stem)] == []


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
    allowed = {id(node) for defined in own for node in (defined, *defined.body)}
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
    assert {cell: texts for cell, texts in faults.items() if texts} == {}


def test_faults_of_a_cell_are_found():
    assert faults_of("%matplotlib inline\nx = 1\n!ls") == []
    assert faults_of("if x:\n    def f():\n        pass") == ["defines f"]
    assert faults_of("class A:\n    pass") == ["defines A"]
    assert faults_of("x = 1\n" * 19) == ["19 lines"]
    own = "class A:\n    def f(self):\n        pass\n"
    assert faults_of(own) == ["defines A", "defines f"]
    assert faults_of(own, classes=True) == []
    assert faults_of(own + "def g():\n    pass", classes=True) == ["defines g"]
