"""How the ablations write their records: where the numbers are from, then a line for each row of each section."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynagent.artefacts.downloads import write_file
from dynagent.artefacts.sources import file_sha256
from dynagent.llm.replay import recorded_source
from dynagent.runs.paths import resolve_path
from dynagent.runs.record import environment
from dynagent.tasks.recorded import INDEX
from studies.common.numbers import plain
from studies.common.study import Measured


def used_recordings(*files: Path) -> list[dict[str, Any]]:
    """The recordings that a study reads, with their hashes; paths from the project's root."""
    index = resolve_path("results/recordings") / INDEX
    sources = [{"name": "questions", "location": str(index), "sha256": file_sha256(index)}]
    sources += [recorded_source(file).to_dict() for file in files]  # type: ignore[misc]
    root = str(resolve_path(".")) + os.sep
    return [source | {"location": source["location"].removeprefix(root)} for source in sources]


def write_sections(measured: Measured, sections: Mapping[str, Any]) -> None:
    """Write a record whose sections are values or lists of rows."""
    head: dict[str, Any] = {
        "study": measured.study.name,
        "command": measured.command,
        "seeds": measured.num_seeds,
        "code": measured.code,
        "environment": environment(),
        "timing": {"seconds": round(measured.seconds)},
    }
    lines = []
    for name, section in (head | dict(sections)).items():
        rows = isinstance(section, list)
        text = ",\n  ".join(_line(row) for row in section) if rows else _line(section)
        lines.append(f" {json.dumps(name)}: " + (f"[\n  {text}\n ]" if rows else text))
    write_file(measured.path, [("{\n" + ",\n".join(lines) + "\n}\n").encode()])


def _line(value: Any) -> str:
    return json.dumps(plain(value), ensure_ascii=False)
