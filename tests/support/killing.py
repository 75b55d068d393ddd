"""Kills a training or a recording at random moments, starts it again, and compares with one that was left alone.

    python -m tests.support.killing training FOLDER 5 --seed 1

prints one JSON object. The packages are imported once: each run is a fork of this process, killed by SIGKILL.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ |= {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import torch

from dynagent.execution.runner import Runner
from dynagent.graph import AgentGraph
from dynagent.learning import checkpoint as checkpoints
from dynagent.learning.checkpoint import Checkpoint
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.llm.load import load_llm
from dynagent.llm.local import TransformersModel
from dynagent.policies.static import StaticEdgePolicy
from dynagent.runs import paths, run
from dynagent.runs.config import RunConfig
from dynagent.tasks.multiple_choice import load_questions
from dynagent.team.agents import Truthful
from dynagent.team.votes import MajorityVote
from studies.recordings import record
from tests.support.toy import save_tiny_backbone


def a_training(folder: Path, llm: str) -> None:
    """All of a run: reading, asking, two policies trained, evaluation, record."""
    paths.project_root = lambda: folder  # the same parameters everywhere
    config = RunConfig(
        dataset="sample", edge_llm=llm, agent_llm=llm, num_truthful=2, num_adversarial=2, num_iterations=40,
        estimator="moving_average", early_stopping=0.1, schedule="linear", train_limit=24, eval_limit=12,
        output_dir="runs",
    )  # fmt: skip
    # The pilot of the estimate asks what is not on record: after a kill the same replies would stand in another order.
    run.estimate = lambda experiment: ""
    with contextlib.redirect_stdout(sys.stderr):  # the report alone goes to standard output
        run.run_experiment(config, "a command")


def a_talking_team(folder: Path, llm: str) -> None:
    """A training whose agents read each other and write: each iteration asks what only its graphs make them hear."""
    team = [Truthful(load_llm(llm, dtype="float32"), mode="text", reads=True) for _ in range(3)]
    team = [replace(agent, llm=team[0].llm, temperature=1.0) for agent in team]
    graph = AgentGraph(team, MajorityVote())
    policy, runner = StaticEdgePolicy.for_graph(graph), Runner(graph, 3)
    config = TrainConfig(num_iterations=4, batch_size=2, graphs_per_question=2, estimator="leave_one_out")
    history = train(
        policy, graph, load_questions("sample", limit=8), config, runner=runner,
        checkpoint=Checkpoint(folder / "state.safetensors", {"run": "talking"}),
    )  # fmt: skip
    result = {"rows": history.rows, "logits": policy.edge_logits.tolist(), "usage": team[0].llm.usage_of_run()}
    (folder / "result.json").write_text(json.dumps(result))


def a_recording(folder: Path, llm: str) -> None:
    """`make record` on the sample questions."""
    record.MMLU = (("sample", "train", 30),)
    record.world_questions = lambda: replace(load_questions("sample", "test", limit=7), split="worlds")
    arguments = ["--output", str(folder / "out"), "--edge-llm", llm, "--agent-llm", llm, "--agent-mode", "options"]
    assert record.main(arguments) == 0


WORK: dict[str, Callable[[Path, str], None]] = {
    "training": a_training,
    "talking": a_talking_team,
    "recording": a_recording,
}


def note_calls(path: Path) -> None:
    """Write down what every batch asks of the model, before it is computed: one line a batch."""

    def noting(compute: Callable[..., Any], named: Callable[[Any, Any], list[str]]) -> Callable[..., Any]:
        def run(model: Any, batch: Any) -> Any:
            with path.open("a") as file:
                file.write(json.dumps(named(model, batch)) + "\n")
            return compute(model, batch)

        return run

    TransformersModel.reply = noting(TransformersModel.reply, lambda model, b: [r.key(model.identity) for r in b])
    TransformersModel.encode = noting(
        TransformersModel.encode, lambda _, texts: [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    )


def start(kind: str, folder: Path, llm: str) -> int:
    """Fork a process that does the work in the folder; returns its number."""
    child = os.fork()
    if child:
        return child
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it dies with this process
        # A fork has to make a thread pool of its own before threads that load weights do it at the same moment.
        torch.set_num_threads(1)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["DYNAGENT_CACHE"] = str(folder / "cache")
        checkpoints.EVERY, checkpoints.SHARE = 0.0, float("inf")  # after each step
        note_calls(folder / "calls")
        WORK[kind](folder, llm)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def finish(child: int) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the run ended with {status}"


def outcome(folder: Path) -> dict[str, str]:
    """Hashes of all that a run leaves, by name: of records without what depends on the clock."""
    found = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.is_dir() or hidden or path.suffix == ".lock" or inside.parts[0] == "calls":
            continue
        content = path.read_bytes()
        if path.name == "record.json":
            values = json.loads(content)
            assert values.pop("timing")
            content = json.dumps(values).encode()
        found[str(inside)] = hashlib.sha256(content).hexdigest()
    return found


def paid_twice(folder: Path) -> int:
    """In how many batches there is a call that was made before."""
    batches = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    seen: Counter[str] = Counter()
    repeated = 0
    for batch in batches:
        repeated += any(seen[call] for call in batch)
        seen.update(batch)
    return repeated


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=WORK)
    parser.add_argument("folder", type=Path)
    parser.add_argument("points", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    llm = save_tiny_backbone(options.folder / "llm")
    reference = options.folder / "reference"
    begun = time.monotonic()
    finish(start(options.kind, reference, llm))
    seconds = time.monotonic() - begun
    expected, draw = outcome(reference), random.Random(options.seed)
    report: dict[str, Any] = {"seconds": seconds, "files": sorted(expected), "points": []}
    report["paid_twice"] = paid_twice(reference)
    for number in range(options.points):
        folder, delay = options.folder / str(number), draw.uniform(0.02, 0.98) * seconds
        child = start(options.kind, folder, llm)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        finish(start(options.kind, folder, llm))
        left = outcome(folder)
        differing = sorted(name for name in expected | left if expected.get(name) != left.get(name))
        point = {"delay": delay, "killed": killed, "differing": differing, "paid_twice": paid_twice(folder)}
        report["points"].append(point)
    sys.stdout.write(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
