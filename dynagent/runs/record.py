"""The record of a run: what was run, on what, and what came out.

`python -m dynagent summary out.ipynb` prints where an executed notebook left its record, figures and policy.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from dynagent.artefacts.downloads import write_file
from dynagent.evaluation.evaluate import Evaluation
from dynagent.evaluation.statistics import Estimate
from dynagent.runs.config import RunConfig
from dynagent.runs.paths import project_root, resolve_path

PACKAGES = ("dynagent", "torch", "transformers", "accelerate", "numpy", "scipy", "networkx")
SAVED = {"record": "record.json", "figures": "figures", "policy": "policy"}
_STARTED = time.monotonic()


@dataclass
class RunRecord:
    """Everything needed to trace a number to its origin.

    Attributes:
        parameters: of the run, `RunConfig.to_dict()`.
        command: what makes this record again.
        code: git commit, and whether library or notebooks differ from it.
        environment: Python, packages, machine.
        sources: data and weights, each with kind, location and hash.
        questions: number and hash of the training and of the evaluation questions.
        metrics: accuracies and differences as {mean, ci_low, ci_high, n}, and plain numbers.
        usage: calls and tokens of the agents' language model, questions that the edge LLM read.
        decoding: how the agents' language models draw the replies that they write; empty where they write none.
        history: one row a training iteration.
        fingerprint: hashes of all that these numbers depend on, by name, see `dynagent.runs.experiment.fingerprint`.
        timing: everything that depends on the clock or on what a cache held.
    """

    parameters: dict[str, Any]
    command: str
    sources: list[dict[str, Any]]
    questions: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    decoding: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    code: dict[str, Any] = field(default_factory=lambda: code_version())
    environment: dict[str, Any] = field(default_factory=lambda: environment())
    fingerprint: dict[str, str] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> Path:
        """Write `record.json` into the folder, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "record.json"
        write_file(path, [json.dumps(asdict(self), indent=1, ensure_ascii=False).encode()])
        return path

    @classmethod
    def load(cls, path: Path) -> RunRecord:
        """Read a `record.json`."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


def run_folder(config: RunConfig) -> Path:
    """Where a run is saved: a name that a person can read, and a hash of all parameters that are not the default.

    So a parameter that a later version adds does not change the names of the runs before it.
    """
    defaults = RunConfig().identity()
    parameters = {key: value for key, value in config.identity().items() if value != defaults[key]}
    name = f"{config.dataset}-{config.team}-{config.edge_policy}-{config.preset}-seed{config.seed}"
    return resolve_path(config.output_dir) / f"{name}-{digest(parameters)[:8]}"


def digest(value: Any) -> str:
    """16 hex digits of a hash of a JSON value, whatever the order of its names."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def describe(value: Any) -> Any:
    """Estimates and evaluations as plain JSON values, also inside dictionaries."""
    if isinstance(value, Estimate):
        return describe(asdict(value))
    if isinstance(value, Evaluation):
        names = ("accuracy", "num_edges", "num_agents_asked", "no_answer")
        return {name: describe(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {key: describe(entry) for key, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no other word for it
    return value


def questions_digest(questions: Any) -> dict[str, Any]:
    """Number of the questions and a hash of their ids in order."""
    ids = ",".join(question.id for question in questions)
    return {"n": len(questions), "sha256": hashlib.sha256(ids.encode()).hexdigest()[:16]}


def code_version() -> dict[str, Any]:
    """Commit of the checkout, and whether code or notebooks differ from it; None outside a checkout."""
    status = _git(
        "status", "--porcelain", "--", "dynagent", "studies", "notebooks", "pyproject.toml", "requirements.lock"
    )
    return {"commit": _git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def environment() -> dict[str, Any]:
    """Python, package versions and the machine."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(terse=True),
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def timing() -> dict[str, Any]:
    """The time now, seconds since this module was first imported, and the process's largest resident memory so far."""
    import resource  # not on Windows

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": time.monotonic() - _STARTED,
        "peak_memory_gb": kilobytes / (1e6 if sys.platform != "darwin" else 1e9),
        "saved_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(project_root()), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def readable(path: Path) -> str:
    """A path as a person would write it: from the project's root where it lies inside."""
    root = project_root()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def summary(folder: Path) -> str:
    """Where a run was saved and how accurate its wirings are, as lines of text."""
    record = RunRecord.load(folder / "record.json")
    lines = [f"{name:9} {readable(folder / place)}" for name, place in SAVED.items() if (folder / place).exists()]
    lines += ["", f"accuracy on {record.questions['evaluation']['n']} held-out questions (95 % interval):"]
    for name, result in record.metrics["wirings"].items():
        accuracy = result["accuracy"]
        interval = f"{accuracy['ci_low']:.3f} to {accuracy['ci_high']:.3f}"
        lines.append(f"  {name:42} {accuracy['mean']:.3f}  [{interval}]")
    if answers := record.metrics.get("answers"):
        lines += ["", "answers of the agents: " + ", ".join(f"{count:,} {kind}" for kind, count in answers.items())]
    return "\n".join(lines) + "\n"
