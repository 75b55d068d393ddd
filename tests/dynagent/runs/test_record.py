"""Records: saved whole, found again by their parameters, and the committed ones say what docs/start.md prints."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dynagent.__main__ import main
from dynagent.evaluation.statistics import Estimate
from dynagent.runs import paths, provenance
from dynagent.runs.config import RunConfig
from dynagent.runs.paths import readable
from dynagent.runs.provenance import code_version, environment, questions_digest
from dynagent.runs.record import VERSION, Record, RunRecord, run_folder

ROOT = Path(__file__).resolve().parents[3]
ACCEPTANCE = sorted((ROOT / "results" / "acceptance").glob("*/record.json"))
# As runs were written before the schema had a version.
UNVERSIONED = {
    "parameters": {"seed": 3, "team": "specialists"},
    "command": "make this",
    "sources": [{"name": "mmlu", "kind": "package", "location": "a==1", "revision": None, "sha256": "0" * 64,
                 "licence": "MIT"}],
    "questions": {"training": {"n": 3, "sha256": "ab", "refused": 1}, "evaluation": {"n": 5, "sha256": "cd"}},
    "metrics": {"differences": {"a - b": {"mean": 0.1, "ci_low": -0.1, "ci_high": 0.3, "n": 5}}},
    "usage": {"agents, a": {"calls": 7}},
    "history": [{"iteration": 0, "utility": 0.5}],
    "code": {"commit": "1" * 40, "dirty": False},
    "environment": {"python": "3.11.7", "packages": {"torch": "2"}, "processor": "AMD", "num_cpus": 2},
    "timing": {"seconds": 1.5},
}  # fmt: skip


def record_of(**changes) -> RunRecord:
    values = {
        "command": "make this",
        "parameters": RunConfig().to_dict(),
        "seeds": [0],
        "inputs": [{"name": "题目", "sha256": "0" * 64}],
        "questions": {"training": {"n": 3, "sha256": "ab"}, "evaluation": {"n": 5, "sha256": "cd"}},
        "code": {"commit": "1" * 40, "dirty": False},
        "environment": {"python": "3.11"},
        "numbers": {
            "metrics": {
                "wirings": {
                    "learned, sampled": {"accuracy": Estimate(0.1 + 0.2, 0.25, 0.35, 5)},
                    "full graph": {"accuracy": Estimate(0.5, 0.4996, 0.5004, 5)},
                }
            },
            "history": [{"iteration": 0, "utility": 1 / 3}],
        },
    }
    return RunRecord(**(values | changes))


# --- saving and loading


def test_a_record_comes_back_as_it_was(tmp_path):
    record = record_of()
    path = record.save(tmp_path / "new" / "folder" / "record.json")
    found = RunRecord.load(path)
    assert found == record
    assert found.metrics["wirings"]["learned, sampled"]["accuracy"] == Estimate(0.1 + 0.2, 0.25, 0.35, 5)
    assert [entry.name for entry in path.parent.iterdir()] == ["record.json"]
    assert "题目" in path.read_text(encoding="utf-8")
    assert Record.load(path).kind == "run"  # read as any other


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path, old = tmp_path / "record.json", record_of()
    old.save(path, {"a": np.arange(3)})
    new = record_of(command="another", timing={"seconds": object()})
    with pytest.raises(TypeError):
        new.save(path, {"a": np.arange(4)})
    assert RunRecord.load(path) == old
    assert RunRecord.load(path).read_arrays(tmp_path)["a"].tolist() == [0, 1, 2]


def test_arrays_are_those_that_were_saved_with_the_record(tmp_path):
    path = tmp_path / "record.json"
    arrays = {"scores|a": np.array([[0.5, 1.0]], np.float16), "subjects": np.array(["en/physics"])}
    Record(kind="study", command="make study").save(path, arrays)
    found = Record.load(path).read_arrays(tmp_path)
    assert all(np.array_equal(found[name], arrays[name]) and found[name].dtype == arrays[name].dtype for name in arrays)
    content = path.with_suffix(".npz").read_bytes()
    path.with_suffix(".npz").write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"record\.npz is not of one run .*: `make study` makes both anew\.$"):
        Record.load(path).read_arrays(tmp_path)
    path.with_suffix(".npz").unlink()
    with pytest.raises(ValueError, match=r"record\.npz are missing: `make study` makes them\.$"):
        Record.load(path).read_arrays(tmp_path)


def test_what_this_process_measures_has_its_code_and_environment():
    record = Record.make(kind="study", command="make this")
    assert record.code.model_dump() == code_version()
    assert record.environment is not None
    assert record.environment.model_dump() == environment()
    assert record.environment.packages["torch"] == torch.__version__
    assert re.match(r"\d{4}-\d\d-\d\dT", record.timing["saved_at"])


def test_what_is_not_known_of_a_record_is_not_made_up():
    record = Record(kind="study", command="make this")
    assert (record.seeds, record.environment, record.code.commit, record.code.dirty) == (None, None, None, None)
    assert record.num_seeds == 0


def bad(changes: dict) -> str:
    return json.dumps(Record(kind="study", command="make study").to_dict() | changes)


ESTIMATE_WITHOUT_N = {"numbers": {"deep": [{"mean": 1.0, "ci_low": 0.5, "ci_high": 2.0}]}}
UPSIDE_DOWN = {"numbers": {"a": {"mean": 1.0, "ci_low": 2.0, "ci_high": 0.5, "n": 3}}}
FAULTS = {
    "cut off": (bad({})[:-9], r"is missing or damaged: `make study` makes it anew\.$"),
    "not a record": ("[1, 2]", r"is none of this version of dynagent\.$"),
    "newer": (bad({"version": VERSION + 1}), rf"has version {VERSION + 1}, .* up to {VERSION}: install a newer one"),
    "older study": ('{"command": "make study", "rows": []}', r"is older than .* reads: `make study` makes it anew\.$"),
    "unknown field": (bad({"comand": "x"}), r"is damaged \(comand: Extra inputs .*: `make study` makes it anew\.$"),
    "no command": (bad({"command": None}), r"is damaged \(command: "),
    "no interval": (bad(ESTIMATE_WITHOUT_N), r"is damaged \(numbers: .*an estimate has mean, ci_low, ci_high, n"),
    "upside down": (bad(UPSIDE_DOWN), r"is damaged \(numbers: .*the interval \[2, 0\.5\] is none"),
    "questions": (bad({"questions": {"training": {"n": "x"}}}), r"is damaged \(questions\.training\.n: "),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_record_is_one_sentence(fault, tmp_path):
    text, sentence = FAULTS[fault]
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ValueError, match=sentence) as error:
        Record.load(tmp_path / "record.json")
    assert "\n" not in str(error.value)


def test_a_missing_record_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(ValueError, match=r"^There is no record .*none\.json: `make study` makes it\.$"):
        Record.load(tmp_path / "none.json", "make study")
    with pytest.raises(ValueError, match=r"^There is no record .*none\.json\.$"):
        Record.load(tmp_path / "none.json")


def test_a_run_from_before_the_schema_had_a_version_is_read(tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(UNVERSIONED))
    record = RunRecord.load(path)
    assert (record.version, record.kind, record.seeds) == (VERSION, "run", [3])
    assert record.inputs[0].model_dump() == UNVERSIONED["sources"][0]
    assert record.metrics["differences"]["a - b"] == Estimate(0.1, -0.1, 0.3, 5)
    assert (record.usage, record.history) == (UNVERSIONED["usage"], UNVERSIONED["history"])
    assert (record.decoding, record.fingerprint) == ({}, {})
    assert record.questions["training"].refused == 1
    assert record.environment.model_dump() == {
        "python": "3.11.7", "packages": {"torch": "2"}, "hardware": {"processor": "AMD", "num_cpus": 2},
    }  # fmt: skip
    record.save(path)
    assert RunRecord.load(path) == record


def test_another_kind_is_no_run(tmp_path):
    Record(kind="frontier", command="make frontier").save(tmp_path / "record.json")
    with pytest.raises(ValueError, match=r"is damaged \(kind: Input should be 'run'\): `make frontier`"):
        RunRecord.load(tmp_path / "record.json")


def test_records_are_read_without_torch():
    heavy = "torch transformers scipy.stats accelerate datasets pandas matplotlib".split()  # noqa: SIM905
    code = (
        "import sys; from pathlib import Path; from dynagent.runs.record import Record\n"
        f"Record.load(Path({str(ROOT / 'results/frontier.json')!r})).numbers['languages']\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# --- the folder's name


def test_equal_parameters_have_one_folder():
    config = RunConfig(team="specialists", seed=7)
    assert run_folder(config) == run_folder(RunConfig.from_parameters(config.to_dict()))
    digest = hashlib.sha256(b'{"seed": 7, "team": "specialists"}').hexdigest()[:8]  # what is not the default
    assert run_folder(config).name == f"mmlu-specialists-dynamic-laptop-seed7-{digest}"


def test_where_runs_are_saved_is_no_part_of_the_name(tmp_path):
    here, there = (run_folder(RunConfig(output_dir=str(tmp_path / name))) for name in ("here", "there"))
    assert here.name == there.name
    assert [here.parent, there.parent] == [tmp_path / "here", tmp_path / "there"]


def test_going_on_is_no_part_of_the_name():
    assert run_folder(RunConfig(resume=False)) == run_folder(RunConfig())
    assert RunConfig(resume=False).identity() == RunConfig(output_dir="elsewhere").identity()


def test_a_whole_number_and_its_float_are_the_same_run():
    for name in ("learning_rate", "sparsity", "temperature"):
        assert run_folder(RunConfig(**{name: 1})) == run_folder(RunConfig(**{name: 1.0}))


def test_every_other_parameter_is_part_of_the_name():
    changed = {
        "num_iterations": 201, "batch_size": 5, "graphs_per_question": 17, "learning_rate": 0.2,
        "estimator": "reinforce", "optimizer": "sgd", "schedule": "linear", "early_stopping": 0.25, "bias_speed": 2.0,
        "head": "agent_aware", "backbone_learning_rate": 1e-3, "tune": "lora", "cmmlu_source": "a", "recordings": "a",
        "gradient_accumulation_steps": 2,
            "sparsity": 0.1, "penalise": "all", "order": "fixed", "decide": "all", "mixed_precision": "bf16", "seed": 1,
            "preset": "smoke",
        "dataset": "sample", "data_source": "hub", "train_split": "dev", "eval_split": "val", "train_limit": 10,
        "eval_limit": 10, "team": "languages", "num_truthful": 5, "num_adversarial": 5, "num_per_domain": 3,
        "adversary": "constant", "edge_llm": "a/b", "agent_llm": "a/b", "agent_mode": "letter", "temperature": 0.3,
        "edge_policy": "static", "readout": "last_hidden", "standardize": False, "head_init": "default",
        "initial_probability": 0.6, "trust_remote_code": True, "cost_weight": 0.1,
    }  # fmt: skip
    base = RunConfig()
    without_effect = base.to_dict().keys() - base.identity().keys()
    unset = {"max_new_tokens", "request_options"}  # part of a run where they are set
    assert without_effect == {"output_dir", "resume", "concurrency", "token_budget", "log_with", "ask_again"} | unset
    assert changed.keys() | without_effect | {"second_agent_llm", "communicate"} == base.to_dict().keys()
    runs = [base.replace(**{name: value}) for name, value in changed.items()]
    runs += [base.replace(team="two_models", second_agent_llm=name) for name in ("a/b", "c/d")]
    talking = {"agent_mode": "text", "estimator": "leave_one_out"}
    runs += [base.replace(communicate=communicate, **talking) for communicate in (False, True)]
    assert len({run_folder(run).name for run in (base, *runs)}) == len(runs) + 1
    same = base.replace(output_dir="elsewhere", concurrency=2, token_budget=1000, log_with="tensorboard")
    assert run_folder(same).name == run_folder(base).name


# --- values


def test_the_digest_of_questions_is_of_their_ids_in_order():
    questions = [SimpleNamespace(id=name) for name in ("aa", "bb", "cc")]
    expected = hashlib.sha256(b"aa,bb,cc").hexdigest()[:16]
    assert questions_digest(questions) == {"n": 3, "sha256": expected}
    assert questions_digest(questions[::-1])["sha256"] != expected


def test_a_path_inside_the_project_is_written_from_its_root(monkeypatch, tmp_path):
    root = tmp_path / "project"
    monkeypatch.setattr(paths, "project_root", lambda: root)
    assert readable(root / "results" / "runs") == "results/runs"
    assert readable(tmp_path / "elsewhere") == str(tmp_path / "elsewhere")
    assert readable(tmp_path / "project-2") == str(tmp_path / "project-2")


# --- the version of the code


@pytest.fixture
def checkout(monkeypatch, tmp_path):
    """`git` in a small repository that is taken for the project's root."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    root = tmp_path / "project"
    for file in ("dynagent/code.py", "notebooks/train.ipynb", "pyproject.toml", "requirements.lock", "README.md"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("as committed")
    monkeypatch.setattr(provenance, "project_root", lambda: root)

    def git(*arguments):
        identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(root), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    return SimpleNamespace(git=git, root=root)


def test_the_code_is_known_by_its_commit(checkout):
    checkout.git("init")
    checkout.git("add", ".")
    checkout.git("commit", "-m", "all")
    commit = checkout.git("rev-parse", "HEAD")
    assert code_version() == {"commit": commit, "dirty": False}
    (checkout.root / "README.md").write_text("changed")
    (checkout.root / "results").mkdir()
    (checkout.root / "results" / "record.json").write_text("new")
    assert code_version() == {"commit": commit, "dirty": False}  # neither changes what runs


@pytest.mark.parametrize(
    "file", ["dynagent/code.py", "dynagent/new.py", "notebooks/train.ipynb", "pyproject.toml", "requirements.lock"]
)
def test_a_change_to_what_runs_is_dirty(checkout, file):
    checkout.git("init")
    checkout.git("add", ".")
    checkout.git("commit", "-m", "all")
    (checkout.root / file).write_text("changed")
    assert code_version() == {"commit": checkout.git("rev-parse", "HEAD"), "dirty": True}


def test_outside_a_checkout_the_code_is_unknown(checkout):
    assert code_version() == {"commit": None, "dirty": None}


def test_without_git_the_code_is_unknown(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert code_version() == {"commit": None, "dirty": None}


# --- where an executed notebook left its results


def test_the_program_prints_places_and_accuracies(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    parameters = {"team": "specialists", "eval_limit": 5, "num_iterations": None, "output_dir": "runs"}
    config = RunConfig.from_parameters(parameters)
    folder = tmp_path / "runs" / run_folder(config).name
    record_of().save(folder / "record.json")
    (folder / "figures").mkdir()
    notebook = tmp_path / "out.ipynb"
    notebook.write_text(json.dumps({"cells": [], "metadata": {"papermill": {"parameters": parameters}}}))
    monkeypatch.chdir(folder)
    assert main(["summary", str(notebook)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "notebook  out.ipynb",
        f"record    runs/{folder.name}/record.json",
        f"figures   runs/{folder.name}/figures",  # and no policy, since there is none
        "",
        "accuracy on 5 held-out questions (95 % interval):",
        f"  {'learned, sampled':42} 0.300  [0.250 to 0.350]",
        f"  {'full graph':42} 0.500  [0.500 to 0.500]",
    ]


# --- committed records


@pytest.fixture(params=ACCEPTANCE, ids=lambda path: path.parent.name)
def committed(request) -> RunRecord:
    return RunRecord.load(request.param)


def team_of(path: Path) -> str:
    return RunRecord.load(path).parameters["team"]


def estimates(value) -> list[Estimate]:
    """Every estimate inside nested dictionaries."""
    if isinstance(value, Estimate):
        return [value]
    inner = value.values() if isinstance(value, dict) else ()
    return [found for entry in inner for found in estimates(entry)]


@pytest.mark.parametrize("path", ACCEPTANCE, ids=lambda path: path.parent.name)
def test_a_committed_run_is_found_by_its_parameters(path):
    config = RunConfig.from_parameters(RunRecord.load(path).parameters)
    assert run_folder(config).name == path.parent.name


def test_a_committed_run_is_on_questions_enough(committed):
    assert committed.questions["training"].n == 285
    assert committed.questions["evaluation"].n >= 1000
    found = estimates(committed.metrics["wirings"])
    assert len(found) == len(committed.metrics["wirings"]) >= 8
    assert {estimate.n for estimate in found} == {committed.questions["evaluation"].n}
    for estimate in (*found, *estimates(committed.metrics["differences"])):
        assert estimate.ci_low <= estimate.mean <= estimate.ci_high


def test_a_committed_run_says_where_all_came_from(committed):
    assert committed.inputs
    assert all(re.fullmatch(r"[0-9a-f]{64}", used.sha256) for used in committed.inputs)
    assert re.fullmatch(r"[0-9a-f]{40}", committed.code.commit)
    assert committed.code.dirty is False
    config = RunConfig.from_parameters(committed.parameters)
    assert len(committed.history) == config.steps(committed.questions["training"].n)


def test_committed_differences_are_those_of_the_wirings(committed):
    wirings = committed.metrics["wirings"]
    for name, effect in committed.metrics["differences"].items():
        one, other = (wirings[part]["accuracy"].mean for part in name.split(" - "))
        assert effect.mean == pytest.approx(one - other, abs=1e-6), name


NUMBER = r"[+−]?\d?\.\d{3}"
ESTIMATE = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]")


def printed(text: str) -> list[tuple[float, ...]]:
    """Every "mean [low, high]" of a text."""
    return [tuple(float(part.replace("−", "-")) for part in found) for found in ESTIMATE.findall(text)]


def rounded(found: dict) -> list[tuple[float, ...]]:
    """Every estimate inside, as it is printed; + 0 makes -0 a 0."""
    return [
        tuple(round(getattr(estimate, key), 3) + 0 for key in ("mean", "ci_low", "ci_high"))
        for estimate in estimates(found)
    ]


@pytest.mark.skipif(not ACCEPTANCE, reason="no committed records")
def test_the_documentation_prints_what_the_records_hold():
    records = {team_of(path): RunRecord.load(path) for path in ACCEPTANCE if "-seed0-" in path.parent.name}
    page = (ROOT / "docs/start.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|") and ESTIMATE.search(line)]
    assert {row.strip("| ").split(":")[0] for row in rows} == records.keys()
    for row in rows:
        team = row.strip("| ").split(":")[0]
        assert len(printed(row)) == row.count("|") - 2  # every cell but the first
        assert [found for found in printed(row) if found not in rounded(records[team].metrics["wirings"])] == [], team


@pytest.mark.skipif(not ACCEPTANCE, reason="no committed records")
def test_the_documentation_prints_the_ratio_of_every_seed():
    paths = [path for path in ACCEPTANCE if team_of(path) == "adversarial"]
    records = sorted((RunRecord.load(path) for path in paths), key=lambda record: record.parameters["seed"])
    *first, last = (f"{record.metrics['truthful_ratio']:.1f}" for record in records)
    page = " ".join((ROOT / "docs/start.md").read_text(encoding="utf-8").split())
    assert f"{', '.join(first)} and {last}" in page


@pytest.mark.skipif(not ACCEPTANCE, reason="no committed records")
def test_the_differences_in_the_documentation_are_on_record():
    differences = [found for path in ACCEPTANCE for found in rounded(RunRecord.load(path).metrics["differences"])]
    page = (ROOT / "docs/start.md").read_text(encoding="utf-8").replace("\n", " ")
    signed = [found for found in ESTIMATE.finditer(re.sub(r" +", " ", page)) if found[1][0] in "+−"]
    assert signed
    for found in signed:
        (numbers,) = printed(found[0])
        assert numbers in differences, found[0]
