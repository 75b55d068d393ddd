"""How the ablations write their records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynagent.artefacts.sources import file_sha256
from dynagent.llm.replay import recorded_source
from dynagent.runs.paths import readable, resolve_path
from dynagent.runs.record import Record
from dynagent.tasks.recorded import INDEX
from studies.common.numbers import plain
from studies.common.study import Measured


def used_recordings(*files: Path) -> list[dict[str, Any]]:
    """The recordings that a study reads, as a record's inputs: with their hashes, and paths from the project's root."""
    index = resolve_path("results/recordings") / INDEX
    inputs: list[dict[str, Any]] = [
        {"name": "questions", "kind": "record", "location": str(index), "sha256": file_sha256(index)}
    ]
    inputs += [recorded_source(file).to_dict() for file in files]
    return [given | {"location": readable(Path(given["location"]))} for given in inputs]


def write_sections(measured: Measured, sections: Mapping[str, Any]) -> None:
    """Write a study's record.

    Args:
        sections: "questions", "inputs", and "parameters" where there are any; all others are numbers.
    """
    sections = dict(sections)
    questions, inputs, parameters = (sections.pop(name, {}) for name in ("questions", "inputs", "parameters"))
    parameters = {"preset": measured.preset} | parameters
    record = Record.make(
        **measured.origin(), parameters=parameters, questions=questions, inputs=inputs, numbers=plain(sections)
    )
    record.save(measured.path)
