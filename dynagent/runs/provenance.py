"""Where numbers are from: the commit, the packages, the machine, the questions, the clock."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from dynagent.runs.paths import project_root

PACKAGES = ("dynagent", "torch", "transformers", "accelerate", "numpy", "scipy", "networkx")
_STARTED = time.monotonic()


def code_version() -> dict[str, Any]:
    """Commit of the checkout, and whether code or notebooks differ from it; None outside a checkout."""
    status = _git(
        "status", "--porcelain", "--", "dynagent", "studies", "notebooks", "pyproject.toml", "requirements.lock"
    )
    return {"commit": _git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def environment() -> dict[str, Any]:
    """Python, package versions and the machine."""
    import torch  # here, so that records are read where there is no torch

    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "hardware": {
            "platform": platform.platform(terse=True),
            "processor": _processor(),
            "num_cpus": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def timing() -> dict[str, Any]:
    """The time now, seconds since this module was first imported, and the process's largest resident memory so far."""
    import resource  # not on Windows

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": time.monotonic() - _STARTED,
        "peak_memory_gb": kilobytes / (1e6 if sys.platform != "darwin" else 1e9),
        "saved_at": now(),
    }


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def questions_digest(questions: Iterable[Any]) -> dict[str, Any]:
    """Number of the questions and a hash of their ids in order."""
    ids = [question.id for question in questions]
    return {"n": len(ids), "sha256": hashlib.sha256(",".join(ids).encode()).hexdigest()[:16]}


def digest(value: Any) -> str:
    """16 hex digits of a hash of a JSON value, whatever the order of its names."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


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
