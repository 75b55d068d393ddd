"""The environment files agree with each other, and the package installs and imports as they say."""

import ast
import fnmatch
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import dynagent

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()
LOCK_LINES = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
PINS = {canonicalize_name(name): version for name, version in (line.split()[0].split("==") for line in LOCK_LINES)}
REQUIREMENTS = [
    Requirement(text)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for text in group
    if not text.startswith("dynagent[")
]

TOP_LEVEL = {
    *("CITATION.cff", ".zenodo.json", "Dockerfile", ".dockerignore", ".binder"),
    *("dynagent", "studies", "notebooks", "results", "docs", "tests", ".ci", ".github", ".git"),
    *("README.md", "CHANGELOG.md", "LICENSE", "NOTICE.md"),
    *("pyproject.toml", "requirements.lock", "pytask.lock", "environment.yml", "Makefile"),
    *(".gitignore", ".gitattributes", ".pre-commit-config.yaml"),
}


def pip_part() -> list[str]:
    return next(item["pip"] for item in ENVIRONMENT["dependencies"] if isinstance(item, dict))


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_requirement_is_pinned_inside_its_range(requirement):
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_lock_lines_are_plain_pins():
    # No URL, path, option, hash or local version.
    pin = re.compile(r"[a-z0-9-]+==[0-9][0-9a-z.]*  # via [a-z0-9-]+(, [a-z0-9-]+)*")
    assert [line for line in LOCK_LINES if not pin.fullmatch(line)] == []
    assert len(PINS) == len(LOCK_LINES)


def test_lock_names_no_build_of_torch():
    assert PINS["torch"] == "2.13.0"
    assert not [name for name in PINS if name.startswith(("nvidia-", "cuda-", "triton"))]


def test_lock_says_how_it_is_remade():
    comment = LOCK.split("\n\n")[0]
    assert "make lock" in comment
    assert "No hashes" in comment


def test_environment_installs_the_lock_and_the_project():
    assert ENVIRONMENT["name"] == PROJECT["name"]
    assert ENVIRONMENT["channels"] == ["conda-forge"]
    assert pip_part() == ["-r requirements.lock", "-e ."]


def test_python_versions_agree():
    conda_python = next(item for item in ENVIRONMENT["dependencies"] if str(item).startswith("python"))
    allowed = SpecifierSet(conda_python.removeprefix("python"))
    required = SpecifierSet(PROJECT["requires-python"])
    named = [c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", c)]
    minors = [f"3.{minor}" for minor in range(8, 20)]
    assert named == [minor for minor in minors if allowed.contains(minor)]
    assert min(named, key=minors.index) == next(minor for minor in minors if required.contains(minor))


def test_top_level_holds_only_what_belongs_there():
    lines = (ROOT / ".gitignore").read_text().splitlines()
    ignored = [line.rstrip("/") for line in lines if line and not line.startswith("#")]
    found = {path.name for path in ROOT.iterdir()}
    found = {name for name in found if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)}
    assert found - TOP_LEVEL == set()
    assert TOP_LEVEL - found <= {".git"}  # a source archive has no .git


def test_ci_runs_the_make_targets():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert "set -euo pipefail" in lines
    assert [line for line in lines if line.startswith("make")] == ["make test", "make test-slow"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["test"]["steps"][-1] == {"run": ".ci/run"}


def test_every_notebook_uses_the_kernel_python3():
    notebooks = [p for p in ROOT.glob("notebooks/**/*.ipynb") if ".ipynb_checkpoints" not in p.parts]
    assert notebooks
    kernels = {p.name: json.loads(p.read_text())["metadata"]["kernelspec"]["name"] for p in notebooks}
    assert set(kernels.values()) == {"python3"}, kernels


def test_make_help_lists_every_target():
    targets = re.findall(r"^\.PHONY: ([a-z-]+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.check_output(["make", "help"], cwd=ROOT, env=env, text=True)
    assert re.findall(r"^  make ([a-z-]+) +\S", shown, re.MULTILINE) == targets
    assert {"install", "train", "test", "test-slow", "lab", "lock", "lint", "format", "clean"} <= set(targets)


def test_import_is_cheap():
    code = "import sys, dynagent; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "dynagent" in loaded
    assert {"torch", "transformers", "datasets", "matplotlib"} & set(loaded) == set()


STUB = Path(dynagent.__file__).with_suffix(".pyi")
LAZY_NAMES = {
    alias.name: node.module
    for node in ast.walk(ast.parse(STUB.read_text()))
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}


def test_names_that_editors_see_are_there():
    assert set(LAZY_NAMES) == set(dynagent.__all__) == set(dir(dynagent))
    assert "EdgePolicy" in LAZY_NAMES


@pytest.mark.parametrize("name", sorted(LAZY_NAMES))
def test_lazy_name_is_the_modules_own(name):
    module = importlib.import_module(f"dynagent.{LAZY_NAMES[name]}")
    assert getattr(dynagent, name) is getattr(module, name)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="attribute nonsense"):
        _ = dynagent.nonsense


@pytest.mark.slow
def test_environment_installs_from_nothing(tmp_path):
    """What `conda env create` does with the pip part: one requirements file beside environment.yml."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("pyproject.toml", "requirements.lock", "README.md", "LICENSE", "NOTICE.md"):
        shutil.copy(ROOT / name, project)
    for name in ("dynagent", "studies"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    (project / "pip.txt").write_text("\n".join(pip_part()))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*arguments: str) -> str:
        done = subprocess.run([python, *arguments], cwd=project, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    run("-m", "pip", "install", "-q", "-U", "-r", "pip.txt", "--exists-action=b")
    run("-m", "pip", "check")
    modules = ("torch", "transformers", "dynagent")
    code = f"import {', '.join(modules)}; print({', '.join(f'{module}.__version__' for module in modules)})"
    versions = [version.split("+")[0] for version in run("-I", "-c", code).split()]
    assert versions == [PINS["torch"], PINS["transformers"], dynagent.__version__]
    run("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", ".")
    with zipfile.ZipFile(next(project.glob("dist/*.whl"))) as wheel:
        samples = {f"dynagent/tasks/sample/{name}" for name in ("questions.jsonl", "crosswords.json")}
        tables = ("tasks/subjects.json", "artefacts/pinned.json", "policies/model_card.md", "__init__.pyi")
        expected = samples | {f"dynagent/{name}" for name in tables} | {"studies/common/__init__.py"}
        assert expected <= set(wheel.namelist())
