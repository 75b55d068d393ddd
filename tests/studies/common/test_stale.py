"""`make stale` on a copy of the project: an edit makes exactly those products stale that follow from it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from dynagent.runs.paths import project_root
from studies.common.stale import TASK
from studies.table2.settings import cells

LEFT_OUT = {"dynagent": ("__pycache__",), "studies": ("__pycache__",), "results": ("acceptance", "explore", "runs")}
README = "studies/{}/README.md#answer"
FIRST = "from __future__ import annotations"  # line of code
LEARNER = {f"results/figures/learner_{what}.svg" for what in ("headroom", "sparsity")}
LEDGER = {"results/claims.json", "results/figures/claims.svg"}
PRETRAINING = {f"results/figures/pretraining_{task}.svg" for task in ("specialized", "mixture")}
RELEASED = {f"results/figures/released_{what}.svg" for what in ("effects", "heard")}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project whose products are accepted."""
    folder = tmp_path_factory.mktemp("project")
    for name, left_out in LEFT_OUT.items():
        shutil.copytree(project_root() / name, folder / name, ignore=shutil.ignore_patterns(*left_out))
    shutil.copy(project_root() / "pyproject.toml", folder)
    accepted = python(folder, "studies.common.accept")
    assert accepted.returncode == 0, accepted.stderr
    return folder


def python(folder, *module):
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", *module], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def stale(folder):
    """The first product of every stale step, with the reason."""
    found = python(folder, "studies.common.stale")
    lines = [line.split(": ", 1) for line in found.stdout.splitlines()[:-1]]
    assert found.returncode == bool(lines), found.stderr
    return {products.split(" and ")[0]: reason for products, reason in lines}


@pytest.fixture
def edit(copy):
    """Replace text in a file of the copy; afterwards everything is as it was."""
    before = {}

    def replace(path, old, new):
        content = before.setdefault(copy / path, (copy / path).read_bytes())
        assert old.encode() in content
        (copy / path).write_bytes(content.replace(old.encode(), new.encode(), 1))
        return stale(copy)

    yield replace
    for path, content in before.items():
        path.write_bytes(content)


def test_nothing_is_stale_in_a_copy_with_new_file_times(copy):
    for path in (copy / "results").rglob("*"):
        os.utime(path)
    assert stale(copy) == {}


def test_a_constant_beside_a_measure_function(edit):
    found = edit("studies/released/no_effect.py", "NUM_ITERATIONS = 50", "NUM_ITERATIONS = 51")
    assert found["results/ablations/no_effect.json"] == "studies/released/no_effect.py has changed"
    assert set(found) == {"results/ablations/no_effect.json", README.format("released")}


def test_a_measure_function(edit):
    found = edit("studies/worlds/measure.py", "float(votes.sum(1).mean())", "float(votes.sum(1).median())")
    assert found["results/learner.json"] == "studies/worlds/measure.py has changed"
    assert found["results/figures/learner_headroom.svg"] == "results/learner.json is stale"
    assert set(found) == {"results/learner.json", *LEARNER, README.format("worlds")}


def test_features_of_an_edge_llm(edit):
    found = edit("results/ablations/features/gemma-3-270m-a5fd3b62230a-bfloat16.npz", "PK", "KP")
    assert set(found) == {"results/ablations/model_size.json", *PRETRAINING, README.format("readings")}
    assert found["results/ablations/model_size.json"].endswith("gemma-3-270m-a5fd3b62230a-bfloat16.npz has changed")


def test_the_reading_of_a_header_row(edit):
    found = edit("results/ablations/header.json", "1", "2")
    assert set(found) == {"results/ablations/as_released.json", *RELEASED, *LEDGER, README.format("released")}
    assert found["results/ablations/as_released.json"] == "results/ablations/header.json has changed"


def test_a_module_that_draws_makes_figures_stale_and_no_outcome(edit, copy):
    found = edit("dynagent/viz/plots.py", FIRST, f"{FIRST}\n\nUNUSED = 1")
    assert set(found.values()) == {"dynagent/viz/plots.py has changed"}
    assert set(found) == {f"results/figures/{path.name}" for path in (copy / "results/figures").glob("*.svg")}


def test_a_comment_and_a_module_that_changes_no_number_change_nothing(edit):
    edit("dynagent/progress.py", FIRST, f"{FIRST}\n\nUNUSED = 1")
    assert edit("dynagent/learning/loop.py", FIRST, f"# Words.\n{FIRST}") == {}


def test_a_module_of_the_library_concerns_every_record_that_trains(edit):
    found = edit("dynagent/sampling.py", FIRST, f"{FIRST}\n\nUNUSED = 1")
    records = {f"results/experiments/{name}.json" for name in cells()}
    assert records | {"results/learner.json", "results/frontier.json", "results/crosswords.json", *LEDGER} <= set(found)
    assert "results/figures/cost.svg" not in found  # of a clock


def test_a_cell_follows_from_its_own_parameters(edit):
    found = edit("studies/table2/settings.py", "NUM_SEEDS_OF_CURVES = 10", "NUM_SEEDS_OF_CURVES = 11")
    assert found["results/experiments/adversaries-03.json"] == "its settings have changed"
    assert "results/experiments/specialized-paper.json" not in found


def test_a_product_that_somebody_edited_and_one_that_is_missing(edit, copy):
    (copy / "results/figures/cost.svg").rename(copy / "cost.svg")
    found = edit("results/claims.md", "# What", "# Whatever")
    (copy / "cost.svg").rename(copy / "results/figures/cost.svg")
    assert found["results/claims.json"] == "results/claims.md is not the one that was made"
    assert found["results/figures/cost.svg"] == "results/figures/cost.svg is missing"
    assert set(found) == {*LEDGER, "results/figures/cost.svg"}


def test_an_answer_in_a_readme_that_somebody_edited_and_the_text_beside_it(edit):
    assert edit("studies/worlds/README.md", "# Known-answer worlds", "# Worlds") == {}
    assert set(edit("studies/worlds/README.md", "<!-- answer -->", "<!-- answer -->\nYes.")) == {
        README.format("worlds")
    }


def test_without_a_lock_it_says_what_to_do(copy):
    (copy / "pytask.lock").rename(copy / "elsewhere")
    found = python(copy, "studies.common.stale")
    (copy / "elsewhere").rename(copy / "pytask.lock")
    assert found.returncode == 2
    assert re.fullmatch(r"dynagent: pytask\.lock is missing or damaged .*: restore it with git\.\n", found.stderr)


@pytest.mark.slow
def test_pytask_would_run_exactly_what_is_stale(edit, copy):
    found = edit("studies/frontier/measure.py", "COST_WEIGHTS = (0.0, 0.1, 0.3)", "COST_WEIGHTS = (0.0, 0.1, 0.4)")
    assert set(found) == {"results/frontier.json", "results/figures/frontier.svg", README.format("frontier")}
    planned = python(copy, "pytask", "build", "--dry-run", "--explain").stdout
    would_run = planned.split("Tasks that would be executed")[1].split("with no changes")[0]
    assert set(re.findall(rf"{re.escape(TASK.rpartition('/')[2])}::task_step\[(.+?)\]", would_run)) == {
        "frontier", "figure frontier", "answers of frontier",
    }  # fmt: skip
