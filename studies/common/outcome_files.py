"""Outcomes in files, so that a study that is stopped goes on where it was.

A file is an archive of arrays with the rest as JSON; nothing in it can run. Values come back as they were, to the bit,
but for tuples, which come back as lists.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from dynagent.artefacts.downloads import write_file

REST = "rest"  # the archive's entry that holds what is no array


def write_outcome(path: Path, outcome: Any) -> None:
    """Write numbers, texts and arrays in lists and dictionaries, or a dataclass of such; whole or not at all."""
    arrays: dict[str, np.ndarray] = {}

    def without_arrays(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays[f"array {len(arrays)}"] = value
            return {"array": f"array {len(arrays) - 1}"}
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, dict):
            return {"dict": [[key, without_arrays(entry)] for key, entry in value.items()]}
        return [without_arrays(entry) for entry in value] if isinstance(value, list | tuple) else value

    if is_dataclass(outcome):
        outcome = {field.name: getattr(outcome, field.name) for field in fields(outcome)}
    rest = json.dumps(without_arrays(outcome))
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{REST: np.array(rest)}, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, [buffer.getvalue()])


def read_outcome(path: Path, measure: Callable[..., Any]) -> Any:
    """What `write_outcome` wrote of what `measure` gave; a dataclass is named by that function's annotation."""
    with np.load(path) as archive:

        def with_arrays(value: Any) -> Any:
            if isinstance(value, dict):
                return archive[value["array"]] if "array" in value else {k: with_arrays(v) for k, v in value["dict"]}
            return [with_arrays(entry) for entry in value] if isinstance(value, list) else value

        outcome = with_arrays(json.loads(str(archive[REST])))
    kind = get_type_hints(measure).get("return")
    return kind(**outcome) if is_dataclass(kind) and isinstance(kind, type) else outcome
