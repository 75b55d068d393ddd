"""Trackers: every iteration's metrics arrive there, and one that is not installed is found before a run begins."""

import json
import subprocess
import sys

import pytest
from accelerate import Accelerator
from accelerate.utils import LoggerType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dynagent.__main__ import main
from dynagent.learning.watch import METRICS
from dynagent.runs.build import prepare
from dynagent.runs.config import RunConfig
from dynagent.runs.record import RunRecord, run_folder
from dynagent.runs.run import run_experiment, train_all
from dynagent.runs.tracking import INSTALLED_AS, logs_folder
from tests.support.toy import save_tiny_backbone


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Parameters of a run of the sample on a tiny model."""
    folder = tmp_path_factory.mktemp("tracked")
    save_tiny_backbone(folder / "tiny")
    tiny = str(folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAGENT_CACHE", str(folder / "cache"))
        yield {
            "dataset": "sample", "train_limit": 12, "eval_limit": 5, "num_iterations": 7, "batch_size": 4,
            "edge_llm": tiny, "agent_llm": tiny, "num_truthful": 1, "num_adversarial": 1,
            "output_dir": str(folder / "runs"),
        }  # fmt: skip


def written(folder):
    """The scalars that TensorBoard reads in a folder, as {name: [(step, value)]}."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_metrics_of_every_iteration_reach_tensorboard(small):
    config = RunConfig(**small, log_with="tensorboard")
    folder = run_experiment(config, "make this")
    rows = RunRecord.load(folder / "record.json").history
    assert len(rows) == 7
    learned, static = (written(logs_folder(config) / name / "dynagent") for name in ("learned", "static"))
    assert set(METRICS) <= learned.keys() == static.keys()
    for name in METRICS:
        assert learned[name] == [(row["iteration"], pytest.approx(row[name], rel=1e-6)) for row in rows]
        assert [step for step, _ in static[name]] == list(range(7))
    assert learned["gradient_norm"] != static["gradient_norm"]


def test_a_tracker_changes_no_number_and_not_what_the_run_is(small):
    tracked, plain = (RunConfig(**small, seed=5, log_with=tracker) for tracker in ("tensorboard", None))
    assert tracked.identity() == plain.identity()
    assert run_folder(tracked) == run_folder(plain)
    (_, with_tracker), (_, without) = (train_all(prepare(config)) for config in (tracked, plain))
    assert with_tracker.rows == without.rows
    assert logs_folder(tracked).is_dir()


def test_a_run_without_a_tracker_writes_no_logs_and_leaves_a_caller_s_own_alone(small, tmp_path):
    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=tmp_path)
    accelerator.init_trackers("own")
    config = RunConfig(**small, seed=6, edge_policy="static")
    _, history = train_all(prepare(config), accelerator)
    assert not logs_folder(config).exists()
    (tracker,) = accelerator.trackers
    tracker.finish()
    assert written(tmp_path / "own")["utility"] == [
        (row["iteration"], pytest.approx(row["utility"], rel=1e-6)) for row in history.rows
    ]


@pytest.mark.parametrize("name", ["wandb", "trackio", "comet_ml"])
@pytest.mark.parametrize("command", ["train", "preflight"])
def test_a_tracker_that_is_not_installed_is_one_sentence_before_anything_is_loaded(
    small, tmp_path, monkeypatch, capsys, name, command
):
    monkeypatch.setattr("dynagent.runs.tracking.get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    monkeypatch.setattr("dynagent.runs.build.load_questions", lambda *_: pytest.fail("questions were loaded"))
    (tmp_path / "run.json").write_text(json.dumps(small | {"log_with": name, "output_dir": str(tmp_path / "runs")}))
    assert main([command, str(tmp_path / "run.json")]) == 2
    package = INSTALLED_AS.get(name, name)
    assert capsys.readouterr().err == (
        f"dynagent: log_with {name!r} needs a package that is not installed: pip install {package}, or leave log_with "
        "out.\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_without_tensorboard_the_sentence_names_the_extra():
    """In a Python that does not find the package, which the machine has."""
    code = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if "tensorboard" in name else find(name, *rest)
from dynagent.runs.config import RunConfig
from dynagent.runs.tracking import check_tracker
check_tracker(RunConfig(log_with="tensorboard"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ValueError: log_with 'tensorboard' needs a package that is not installed: pip install "
        "'dynagent[tensorboard]', or leave log_with out."
    )
