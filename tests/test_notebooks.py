"""The notebooks as files, and train.ipynb under papermill: right parameters, wrong parameters."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from safetensors.torch import load_file

from dynagent.parameters import Parameters
from dynagent.runs.config import RunConfig
from dynagent.runs.presets import PRESETS
from dynagent.runs.record import RunRecord, run_folder
from studies.crosswords.settings import CrosswordsConfig
from studies.table2.settings import notebook_config
from tests.support.toy import free_port

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TRAIN = ROOT / "notebooks" / "train.ipynb"


def faults(notebook) -> list[str]:
    """What is wrong with a committed notebook: not executed in order, errors, warnings."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    found = []
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        found.append("its cells were not executed from top to bottom")
    if not outputs:
        found.append("it has no outputs")
    found += [f"error: {output.evalue}" for output in outputs if output.output_type == "error"]
    found += [f"stderr: {output.text}" for output in outputs if output.get("name") == "stderr"]
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_committed_notebooks_are_executed_and_clean(path):
    assert faults(nbformat.read(path, 4)) == []


def test_a_notebook_without_outputs_is_found():
    notebook = nbformat.read(TRAIN, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    assert len(faults(notebook)) == 2


def test_a_warning_in_a_notebook_is_found():
    notebook = nbformat.read(TRAIN, 4)
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    cell.outputs.append(nbformat.v4.new_output("stream", name="stderr", text="UserWarning: careful"))
    assert faults(notebook) == ["stderr: UserWarning: careful"]


# --- their form


def shape_faults(notebook) -> list[str]:
    """What a reader would miss: heading, question, answer and cost at the start, what to try next at the end."""
    first, last = notebook.cells[0], notebook.cells[-1]
    heading, _, rest = first.source.partition("\n\n")
    paragraph = rest.partition("\n\n")[0]
    answer = paragraph.partition("**The answer**")[2].partition("**The cost**")[0]
    found = []
    if first.cell_type != "markdown" or not re.fullmatch(r"# [^\n]+", heading):
        found.append("it does not begin with a heading")
    if "?" not in heading + paragraph:
        found.append("its first paragraph asks no question")
    if not re.search(r"\d", answer):
        found.append("its first paragraph has no answer in a number (**The answer** ...)")
    if "**The cost**" not in paragraph:
        found.append("its first paragraph does not say what it costs (**The cost** ...)")
    if last.cell_type != "markdown" or not re.search(r"(^|\n\n)## What to try next\n\n- [^#]*\Z", last.source):
        found.append("it does not end with what to try next")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_notebook_begins_with_its_answer_and_ends_with_what_to_try_next(path):
    assert shape_faults(nbformat.read(path, 4)) == []


def test_a_notebook_without_beginning_and_end_is_found():
    notebook = nbformat.read(TRAIN, 4)
    notebook.cells = notebook.cells[1:-1]
    assert len(shape_faults(notebook)) == 5


LINK = re.compile(r"\]\(([^)#\s]+)")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_links_between_notebooks_lead_somewhere(path):
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown":
            targets = [target for target in LINK.findall(cell.source) if "://" not in target]
            assert [target for target in targets if not (path.parent / target).exists()] == [], cell.source


def test_the_reading_order_has_every_notebook_once_in_its_table():
    text = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+\.ipynb)\]\((\w+\.ipynb)\) \|([^|]+)\|([^|]+)\|([^|]+)\|$", text, re.MULTILINE)
    assert all(name == target for name, target, *_ in rows)
    names = [name for name, *_ in rows]
    assert len(names) == len(set(names))
    assert set(names) == {path.name for path in NOTEBOOKS}
    for _, _, question, time, needs in rows:
        assert question.strip().endswith("?")
        assert time.strip()
        assert needs.strip()


def parameters_of(notebook) -> dict:
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    assigned = [node for node in ast.parse(cell.source).body if isinstance(node, ast.Assign | ast.AnnAssign)]
    names = [node.target if isinstance(node, ast.AnnAssign) else node.targets[0] for node in assigned]
    return {name.id: ast.literal_eval(node.value) for name, node in zip(names, assigned, strict=True)}


def test_the_answer_of_train_is_what_its_cells_print():
    notebook = nbformat.read(TRAIN, 4)
    printed = "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    stated = intervals_in(notebook.cells[0].source)
    assert stated
    assert [pair for pair in stated if f"{pair[0] / 100:.3f} to {pair[1] / 100:.3f}" not in printed] == []


def test_the_parameters_cell_names_parameters_of_a_run_and_gives_a_valid_one():
    parameters = parameters_of(nbformat.read(TRAIN, 4))
    assert set(parameters) <= set(RunConfig.model_fields)
    needed = "dataset data_source team edge_llm agent_llm num_iterations batch_size graphs_per_question learning_rate"
    needed += " estimator sparsity initial_probability seed eval_limit preset output_dir num_truthful num_adversarial"
    assert set(needed.split()) <= set(parameters)
    assert RunConfig.from_parameters(parameters) == RunConfig.from_parameters({"preset": "replay"})


KINDS = {"RunConfig": RunConfig, "CrosswordsConfig": CrosswordsConfig, "Parameters": Parameters}
WITH_PARAMETERS = [path for path in NOTEBOOKS if '"parameters"' in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_PARAMETERS, ids=lambda path: path.name)
def test_a_parameter_that_a_notebook_does_not_have_is_refused(path):
    notebook = nbformat.read(path, 4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    if "notebook_config(" in code:  # of the paper's teams: one check for three notebooks
        team = re.search(r"notebook_config\((\".+?\"), globals\(\)\)", code)[1]
        check = f"notebook_config({team}, globals())"
    else:
        own = re.search(r"^own = .+$", code, re.MULTILINE)
        check = re.search(r"\w+\.from_notebook\(globals\(\).*?\)(?=\s|$)", code)[0]
        check = f"{own[0]}\n{check}" if own else check
    parameters = parameters_of(notebook)
    exec(check, {**KINDS, "notebook_config": notebook_config, "In": [], **parameters})
    injected = {"not_there": 1, "In": ["# Parameters\nnot_there = 1"]}
    with pytest.raises(ValueError, match=r"There is no parameter 'not_there'; .*Known: "):
        exec(check, {**KINDS, "notebook_config": notebook_config, **parameters, **injected})


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks" / "params").glob("*.yaml")), ids=lambda path: path.name)
def test_parameter_files_are_valid(path):
    RunConfig.from_parameters(yaml.safe_load(path.read_text()))


def test_every_preset_is_valid():
    assert {RunConfig.from_parameters({"preset": name}).preset for name in PRESETS} == set(PRESETS)


def papermill(tmp_path, *options, cwd=ROOT, notebook="notebooks/train.ipynb", **environment):
    command = [sys.executable, "-m", "papermill", notebook, str(tmp_path / "out.ipynb"), "--no-progress-bar", *options]
    return subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=900, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["mmlu", "sample"])
@pytest.mark.parametrize("folder", ["", "notebooks"])
def test_papermill_runs_train_from_the_root_and_from_notebooks(dataset, folder, tmp_path):
    notebook = "train.ipynb" if folder else "notebooks/train.ipynb"
    options = {"dataset": dataset, "preset": "smoke", "output_dir": str(tmp_path / "runs")}
    flags = [word for name, value in options.items() for word in ("-p", name, value)]
    done = papermill(tmp_path, *flags, cwd=ROOT / folder, notebook=notebook)
    assert done.returncode == 0, done.stderr[-2000:]
    assert faults(nbformat.read(tmp_path / "out.ipynb", 4)) == []
    config = RunConfig.from_parameters(options)
    record = RunRecord.load(run_folder(config) / "record.json")
    assert record.parameters == config.to_dict()
    assert record.questions["evaluation"].n == 64
    assert len(record.history) == config.steps(record.questions["training"].n)
    assert all(len(used.sha256) == 64 for used in record.inputs)
    assert {"training", "edge_probs", "by_area", "graphs"} == {
        p.stem for p in (run_folder(config) / "figures").iterdir()
    }
    summary = subprocess.run(
        [sys.executable, "-m", "dynagent", "summary", tmp_path / "out.ipynb"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(run_folder(config)) in summary.stdout
    assert "learned, sampled" in summary.stdout


@pytest.mark.slow
def test_two_processes_of_a_notebook_train_what_one_does(tmp_path):
    """The notebook launches two processes and then one; here with drawn graphs, in two micro-batches each."""
    options = {
        "estimator": "leave_one_out", "batch_size": 8, "gradient_accumulation_steps": 2, "eval_limit": 100,
        "output_dir": tmp_path / "runs", "port": free_port(), "num_processes": 2,
    }  # fmt: skip
    flags = [str(word) for name, value in options.items() for word in ("-p", name, value)]
    done = papermill(tmp_path, *flags, notebook="notebooks/many_processes.ipynb")
    assert done.returncode == 0, done.stderr[-2000:]
    assert faults(nbformat.read(tmp_path / "out.ipynb", 4)) == []
    together, alone = sorted((tmp_path / "runs").rglob("record.json"), key=lambda path: len(path.parts))
    records = [RunRecord.load(path) for path in (together, alone)]
    assert [record.parameters["gradient_accumulation_steps"] for record in records] == [2, 1]
    assert len(records[0].history) == len(records[1].history) == 285 // 8
    policies = [load_file(path.parent / "policy" / "model.safetensors") for path in (together, alone)]
    assert policies[0].keys() == policies[1].keys()
    for name, weights in policies[0].items():
        torch.testing.assert_close(weights, policies[1][name], rtol=1e-5, atol=1e-5)
    assert policies[0]["head.weight"].abs().max() > 0.1


NO_NETWORK = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
NO_NETWORK |= {"PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "", "HF_HUB_OFFLINE": "1"}
BAD = {
    "unknown parameter": (["-p", "num_iteration", "3"], {}, "did you mean 'num_iterations'?"),
    "unknown data set": (["-p", "dataset", "mmul"], {}, "did you mean 'mmlu'?"),
    "probability": (["-p", "initial_probability", "1.0"], {}, "strictly between 0 and 1"),
    "no agents": (
        [
            "-p",
            "preset",
            "laptop",
            "-p",
            "team",
            "adversarial",
            "-p",
            "num_truthful",
            "0",
            "-p",
            "num_adversarial",
            "0",
        ],
        {},
        "The team has no agents",
    ),
    "folder without data": (["-p", "data_source", "{tmp}"], {}, "{tmp}"),
    "no such model": (
        ["-p", "preset", "laptop", "-p", "dataset", "sample", "-p", "edge_llm", "smollm2-153m"],
        {},
        "smollm2-135m-instruct",
    ),
    "no network": (
        ["-p", "preset", "laptop", "-p", "dataset", "mmlu"],
        NO_NETWORK | {"DYNAGENT_CACHE": "{tmp}/cache"},
        "index",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", BAD)
def test_bad_input_stops_the_notebook_with_one_sentence(fault, tmp_path):
    flags, environment, sentence = BAD[fault]
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    environment = {name: value.format(tmp=tmp_path) for name, value in environment.items()}
    done = papermill(tmp_path, *flags, "-p", "output_dir", str(tmp_path / "runs"), **environment)
    assert done.returncode != 0
    error = [line for line in done.stderr.splitlines() if line.strip()][-1]
    assert sentence.format(tmp=tmp_path) in error, done.stderr[-2000:]
    assert error.rstrip().endswith((".", ".)")), error
    assert not (tmp_path / "runs").exists()
    executed = json.loads((tmp_path / "out.ipynb").read_text())
    reached = max(cell["execution_count"] or 0 for cell in executed["cells"] if cell["cell_type"] == "code")
    assert reached <= 7  # before anything is trained


# --- what the documentation says of them


PAIR = re.compile(r"\[([+-]?\d*\.?\d+),\s+([+-]?\d*\.?\d+)\]")


def intervals_in(text: str) -> set[tuple[float, float]]:
    return {(float(low), float(high)) for low, high in PAIR.findall(text.replace("−", "-"))}


@pytest.mark.parametrize(
    ("file", "heading", "num_items"),
    [
        ("README.md", "Three numbers", 2),
        ("docs/results.md", "What drives the results", 6),
    ],  # README's third: test_learner
)
def test_intervals_in_the_documentation_stand_in_the_notebook_that_it_names(file, heading, num_items):
    text = (ROOT / file).read_text(encoding="utf-8")
    section = text.partition(f"## {heading}")[2].partition("\n## ")[0]
    items = section.split("\n- **")[1 : num_items + 1]
    assert len(items) == num_items
    for item in items:
        name = re.search(r"notebooks/\w+\.ipynb", item)[0]
        shown = ""
        for cell in nbformat.read(ROOT / name, 4).cells:
            shown += cell.source + "".join(
                output.get("text", "") + output.get("data", {}).get("text/plain", "")
                for output in cell.get("outputs", [])
            )
        found = intervals_in(shown)
        in_points = {(round(100 * low, 6), round(100 * high, 6)) for low, high in found}
        assert intervals_in(item), name
        assert intervals_in(item) <= found | in_points, name
