"""What the ablations share: many seeds of many settings, remembered as they come in, and one record of a study.

A setting is any frozen dataclass. What its seeds give is kept in results/runs/ablations until the code or the
recordings change, so that a study can be stopped and started at any time.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dynagent.artefacts.downloads import write_file
from dynagent.artefacts.sources import file_sha256
from dynagent.llm.replay import recorded_source
from dynagent.parameters import nearest
from dynagent.progress import progress
from dynagent.runs.paths import readable, resolve_path
from dynagent.runs.provenance import now
from dynagent.runs.record import Record
from dynagent.tasks.recorded import INDEX
from studies.common.numbers import plain
from studies.common.outcomes import Outcome
from studies.common.program import program
from studies.common.record import place_of, record_path

FOLDER = "results/ablations"
PARTIAL = "results/runs/ablations"
PRESETS = {"smoke": 2, "laptop": 20}  # seeds


def collect(
    study: str, settings: Sequence[Any], measure: Callable[[Any, int], Outcome], num_seeds: int
) -> dict[Any, Outcome]:
    """The outcomes of all settings; what is already known is read."""
    folder = resolve_path(PARTIAL) / study
    folder.mkdir(parents=True, exist_ok=True)
    places = {setting: folder / f"{_digest(measure, setting, num_seeds)}.npz" for setting in dict.fromkeys(settings)}
    missing = [setting for setting, path in places.items() if not path.exists()]
    for setting in progress(missing, desc=study, unit="setting", total=len(missing)):
        _write(places[setting], measure(setting, num_seeds))
    return {setting: _read(path) for setting, path in places.items()}


def _digest(measure: Callable[[Any, int], Outcome], setting: Any, num_seeds: int) -> str:
    """A hash of all that an outcome depends on: setting, seeds, code, recordings."""
    parts = [measure.__qualname__, repr(setting), str(num_seeds), _code(), *_recordings()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


@lru_cache
def _code() -> str:
    """A hash of the loaded modules of this project; the program that was started only reports."""
    names = sorted(name for name in sys.modules if name.split(".")[0] in ("dynagent", "studies"))
    files = [getattr(sys.modules[name], "__file__", None) for name in names]
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files if file)).hexdigest()


@lru_cache
def _recordings() -> tuple[str, ...]:
    folder = resolve_path("results/recordings")
    return tuple(file_sha256(file) for file in sorted(folder.iterdir()) if file.suffix in (".jsonl", ".safetensors"))


def _write(path: Path, outcome: Outcome) -> None:
    buffer = io.BytesIO()
    scores: dict[str, Any] = {f"scores|{name}": of for name, of in outcome.scores.items()}
    np.savez(buffer, values=json.dumps(outcome.values), **scores)
    write_file(path, [buffer.getvalue()])


def _read(path: Path) -> Outcome:
    with np.load(path) as found:
        scores = {name.removeprefix("scores|"): found[name] for name in found.files if name.startswith("scores|")}
        return Outcome(scores, json.loads(str(found["values"])))


def used_recordings(*files: Path) -> list[dict[str, Any]]:
    """The recordings that a study reads, as a record's inputs: with their hashes, and paths from the project's root."""
    index = resolve_path("results/recordings") / INDEX
    inputs: list[dict[str, Any]] = [
        {"name": "questions", "kind": "record", "location": str(index), "sha256": file_sha256(index)}
    ]
    inputs += [recorded_source(file).to_dict() for file in files]
    return [given | {"location": readable(Path(given["location"]))} for given in inputs]


def write_record(kind: str, options: argparse.Namespace, sections: Mapping[str, Any], began: float) -> Path:
    """Write a study's record.

    Args:
        sections: "questions", "inputs", and "parameters" where there are any; all others are numbers.
    """
    sections = dict(sections)
    questions, inputs, parameters = (sections.pop(name, {}) for name in ("questions", "inputs", "parameters"))
    record = Record.make(
        kind=kind,
        command=f"{place_of(kind).command} --preset {options.preset}",
        parameters={"preset": options.preset} | parameters,
        seeds=list(range(PRESETS[options.preset])),
        questions=questions,
        inputs=inputs,
        timing={"seconds": round(time.monotonic() - began), "saved_at": now()},
        numbers=plain(sections),
    )
    return record.save(record_path(kind, options.output))


@program
def run(kind: str, about: str, make: Callable[[argparse.Namespace], Mapping[str, Any]], arguments: Any = None) -> int:
    """The program of a study: its options, its sections, its record."""
    parser = argparse.ArgumentParser(prog=place_of(kind).command, description=about)
    parser.add_argument("--preset", default="laptop", help="smoke (2 seeds) or laptop (20); default: %(default)s")
    parser.add_argument("--output", default=FOLDER, help="default: %(default)s")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    if options.preset not in PRESETS:
        raise ValueError(f"There is no preset {options.preset!r}; {nearest(options.preset, PRESETS)}")
    print(write_record(kind, options, make(options), began))
    return 0
