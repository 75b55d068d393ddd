"""How much a run's caches hold: answers of 64 agents to 1,000 questions, and the questions' features.

A program of its own, so that nothing else is measured; `studies.benchmarks.bench` runs it. The language model is
simulated and holds nothing. Prints the resident memory, in MB, that is there more than before, and its peak. On Linux.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from dynagent.tasks.multiple_choice import load_questions
from studies.benchmarks.cases import Case, InstantModel

NUM_AGENTS, NUM_QUESTIONS = 64, 1000


def resident() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def forget_peak() -> None:
    """Let the process's peak, as Linux counts it, begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """The largest resident memory since then, in MB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def main() -> None:
    mode = sys.argv[1]  # "options": agents of one kind share a call; "text": every agent makes its own
    questions = load_questions("mmlu", "test", limit=NUM_QUESTIONS)
    model = InstantModel()
    model.asked, model.read = Nothing(), Nothing()
    with tempfile.TemporaryDirectory() as folder:
        case = Case(model, questions, NUM_AGENTS, Path(folder), mode=mode)
        Case(model, questions[:64], NUM_AGENTS, Path(folder, "warm"), mode=mode).prepare()
        gc.collect()
        before = resident()
        forget_peak()
        case.prepare()
        highest = peak()
        gc.collect()
        sys.stdout.write(json.dumps({"cached": resident() - before, "peak": highest - before}) + "\n")


class Nothing(list[Any]):
    """A list that stays empty: what the model was given is not counted here."""

    def __iadd__(self, given: object) -> Self:  # type: ignore[misc]  # takes anything, and keeps nothing
        return self


if __name__ == "__main__":
    main()
