"""The records of the studies: where each is, which command makes it, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dynagent.runs.paths import resolve_path
from dynagent.runs.record import Record


@dataclass(frozen=True)
class Place:
    """Where a study's record is, from the project's root, and the command that makes it."""

    path: str
    command: str


# By the kind that is written in the record.
PLACES = {
    "worlds": Place("results/learner.json", "make learner"),
    "crosswords": Place("results/crosswords.json", "make crosswords"),
    "crosswords/answers": Place("results/crosswords_answers.json", "make record-crosswords"),
    "communication": Place("results/communication.json", "make communication"),
    "frontier": Place("results/frontier.json", "make frontier"),
    "readings/embedding_ablation": Place(
        "results/ablations/embedding_ablation.json", "python -m studies.readings.embedding"
    ),
    "readings/model_size": Place("results/ablations/model_size.json", "python -m studies.readings.model_size"),
    "released/as_released": Place("results/ablations/as_released.json", "python -m studies.released.measure"),
    "released/no_effect": Place("results/ablations/no_effect.json", "python -m studies.released.no_effect"),
    "released/header": Place("results/ablations/header.json", "python -m studies.released.header"),
    "idea": Place("results/idea.json", "make idea"),
    "ledger": Place("results/claims.json", "make claims"),
    "benchmarks/costs": Place("results/bench.json", "make bench"),
    "benchmarks/gpu": Place("results/bench_gpu.json", "make bench-gpu"),
    "benchmarks/first_run": Place("results/first_run.json", "make bench-first-run"),
    "benchmarks/tuning": Place("results/tuning.json", "make bench-tuning"),
}


def place_of(kind: str) -> Place:
    """Where the record of this kind is; a cell of Table 2 is "table2/" and its name."""
    study, _, cell = kind.partition("/")
    if study == "table2":
        return Place(f"results/experiments/{cell}.json", f"make experiments ARGS='--cells {cell}'")
    return PLACES[kind]


def record_path(kind: str, place: str | Path = "") -> Path:
    """The file of a record.

    Args:
        place: a file, or a folder that holds one of the usual name; by default where the record is committed.
    """
    usual = Path(place_of(kind).path)
    path = resolve_path(place or usual)
    return path if path.suffix == ".json" else path / usual.name


def load_record(kind: str, place: str | Path = "") -> Record:
    """The record of this kind.

    Raises:
        ValueError: in one sentence that names the command which makes it, if it is missing, damaged, another study's,
            or of a version that cannot be read.
    """
    path, command = record_path(kind, place), place_of(kind).command
    record = Record.load(path, command)
    if record.kind != kind:
        raise ValueError(f"{path} is a record of {record.kind!r}, not of {kind!r}: `{command}` makes that.")
    return record
