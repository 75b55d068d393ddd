"""Processes that are killed, run eight at a time, or run for long. `make soak` kills twenty times, not five."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import nbformat
import pytest

from dynagent.runs.config import RunConfig
from dynagent.runs.record import RunRecord, run_folder
from tests.support.packages import pin
from tests.support.toy import save_tiny_backbone

ROOT = Path(__file__).resolve().parents[1]
POINTS = int(os.environ.get("DYNAGENT_KILLS", "5"))
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["training", "talking", "recording"])
def test_killed_at_random_points_it_ends_with_the_same_bytes(kind, tmp_path):
    """Weights, metrics, records and recordings, but for the block `timing`; and no call is paid twice but the batch
    that was being computed."""
    command = [sys.executable, "-m", "tests.support.killing", kind, str(tmp_path), str(POINTS), "--seed", "7"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=100 + 60 * POINTS)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert len(report["files"]) >= 3
    assert report["paid_twice"] == 0
    assert len(report["points"]) == POINTS
    # The others had finished before their moment came: a machine is not always as fast as when it was measured.
    assert sum(point["killed"] for point in report["points"]) >= POINTS * 0.4
    for point in report["points"]:
        assert point["differing"] == [], point
        assert point["paid_twice"] <= 1, point


EIGHT = """
import json, sys
from dynagent.artefacts import sources
from dynagent.runs.config import RunConfig
from dynagent.runs.run import run_experiment
from dynagent.llm.store import Recorded
from dynagent.llm.base import Request
from dynagent.llm.load import load_llm
from pathlib import Path

folder, number, artefact = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
sources.PINNED["tiny"] = sources.Artefact(**artefact)
assert sources.fetch("tiny").read_bytes() == b"the content"
shared = Recorded(load_llm(str(folder / "llm")).model, folder / "recordings" / "shared.jsonl")
for turn in range(20):
    shared.reply([Request(f"{who} {turn}", ("A", "B")) for who in (number, "all")])
llm = str(folder / "llm")
for seed in (0, number):  # one run is everybody's, one is its own
    config = RunConfig(
        dataset="sample", edge_llm=llm, agent_llm=llm, train_limit=12, eval_limit=8, num_iterations=10,
        num_truthful=2, num_adversarial=1, output_dir=str(folder / "runs"), seed=seed,
    )
    run_experiment(config, "a command")
"""


@pytest.mark.slow
def test_eight_processes_on_one_cache_one_recording_and_one_results_folder(index, monkeypatch, tmp_path):
    artefact = index.artefact(b"the content")
    pin(monkeypatch, artefact)
    llm = save_tiny_backbone(tmp_path / "llm")
    command = [sys.executable, "-c", EIGHT, str(tmp_path)]
    processes = [
        subprocess.Popen(
            [*command, str(number), json.dumps(asdict(artefact))], env=ENVIRONMENT | os.environ,
            stderr=subprocess.PIPE, text=True,
        )
        for number in range(1, 9)
    ]  # fmt: skip
    try:
        errors = [process.communicate(timeout=500)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * 8, "".join(errors)[-3000:]
    assert list(index.served.values()) == [1], "downloaded once"
    lines = (tmp_path / "recordings" / "shared.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    keys = {json.loads(line)["key"] for line in lines}  # no torn line
    assert len(keys) == 8 * 20 + 20
    folders = sorted(path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert len(folders) == 9
    parameters = {"dataset": "sample", "edge_llm": llm, "agent_llm": llm}
    for folder in folders:
        record = RunRecord.load(folder / "record.json")
        assert record.parameters | parameters == record.parameters
        assert run_folder(RunConfig.from_parameters(record.parameters)) == folder
        assert (folder / "policy" / "model.safetensors").stat().st_size > 100
        assert {path.name for path in folder.iterdir()} == {"checkpoints", "policy", "record.json"}
    for path in (tmp_path / "cache").rglob("*.jsonl"):  # what all of them were asked
        assert all(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


LONG = """
import ctypes, gc, json, os, resource, sys
from pathlib import Path
import torch
from accelerate import Accelerator
from tests.support.toy import ToyPolicy, toy_questions, Lucky
from dynagent.learning import checkpoint as checkpoints
from dynagent.learning.checkpoint import Checkpoint
from dynagent.learning.config import TrainConfig
from dynagent.team.votes import MajorityVote
from dynagent.execution.runner import Runner
from dynagent.graph import AgentGraph
from dynagent.learning.loop import train

torch.set_num_threads(1)
checkpoints.EVERY, checkpoints.SHARE = 0.2, 1.0

class Measured(Runner):
    steps = 0
    def run(self, *arguments):
        self.steps += 1
        if self.steps in (200, 2000):
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)  # what is freed is given back before it is measured
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            found.append([pages * resource.getpagesize() / 1e6, len(os.listdir("/proc/self/fd"))])
        return super().run(*arguments)

found = []
graph = AgentGraph([Lucky(0.6), Lucky(0.4, reads=True), Lucky(0.5, reads=True)] * 3, MajorityVote())
config = TrainConfig(num_iterations=2000, batch_size=4, graphs_per_question=8, estimator="leave_one_out")
checkpoint = Checkpoint(Path(sys.argv[1]) / "state", {})
train(ToyPolicy.for_graph(graph), graph, toy_questions(100), config, runner=Measured(graph),
      accelerator=Accelerator(cpu=True), checkpoint=checkpoint)
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.soak
def test_memory_and_open_files_of_two_thousand_iterations_stay_flat(tmp_path):
    done = subprocess.run([sys.executable, "-c", LONG, tmp_path], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (memory, files), (memory_later, files_later) = json.loads(done.stdout)
    assert memory_later - memory <= 50, "megabytes"
    assert files_later <= files


# --- notebooks


def papermill(out: Path, runs: Path, **parameters):
    given = {"preset": "smoke", "data_source": "recordings", "output_dir": str(runs)} | parameters
    flags = [word for name, value in given.items() for word in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", "notebooks/train.ipynb", str(out), "--no-progress-bar", *flags]
    # A process in the background of a shell would have inherited that interrupts are ignored.
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, preexec_fn=listens)


def texts_of(path: Path) -> str:
    notebook = nbformat.read(path, 4)
    return "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))


@pytest.mark.slow
def test_a_finished_notebook_run_again_changes_nothing_and_says_so(tmp_path):
    runs, held = tmp_path / "runs", None
    for number in range(2):
        process = papermill(tmp_path / f"{number}.ipynb", runs, trust_remote_code=True)
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors[-3000:]
        now = {str(path): path.read_bytes() for path in runs.rglob("*") if path.is_file()}
        assert held is None or now == held
        held = now
    sentence = "This run was finished before: nothing is trained again, and nothing on record changes."
    assert [sentence in texts_of(tmp_path / f"{number}.ipynb") for number in range(2)] == [False, True]
    assert "Code that the models bring along is run" in texts_of(tmp_path / "0.ipynb")


@pytest.mark.slow
def test_ctrl_c_in_a_notebook_leaves_a_run_that_goes_on(tmp_path):
    """An interrupt of the process, as the stop button sends one, in the middle of a training of minutes."""
    runs = tmp_path / "runs"
    process = papermill(tmp_path / "stopped.ipynb", runs, num_iterations=3000)
    deadline = time.monotonic() + 300
    while not list(runs.glob("*/checkpoints/learned.safetensors")):
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=100)
    assert process.returncode != 0
    assert not list(runs.glob("*/record.json"))
    again = papermill(tmp_path / "again.ipynb", runs, num_iterations=3000)
    _, errors = again.communicate(timeout=600)
    assert again.returncode == 0, errors[-3000:]
    (path,) = runs.glob("*/record.json")
    assert [row["iteration"] for row in RunRecord.load(path).history] == list(range(3000))
