"""The values of a record: estimates in memory, plain JSON in the file, one line a row."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dynagent.evaluation.statistics import Estimate

ESTIMATE = ("mean", "ci_low", "ci_high", "n")
MOST_CHARACTERS = 250  # of a line that holds dictionaries in a dictionary: one row


def with_estimates(value: Any) -> Any:
    """Every {mean, ci_low, ci_high, n} inside as an `Estimate`; numbers that are not known are NaN there.

    Raises:
        ValueError: for one that lacks a number, or whose interval ends before it begins.
    """
    if isinstance(value, Mapping):
        if {"mean", "ci_low", "ci_high"} <= value.keys() and not isinstance(value["mean"], list):
            return _estimate(value)
        return {name: with_estimates(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [with_estimates(entry) for entry in value]
    return value


def _estimate(value: Mapping[str, Any]) -> Estimate:
    if value.keys() != set(ESTIMATE):
        raise ValueError(f"an estimate has {', '.join(ESTIMATE)}, and here are {', '.join(value)}")
    mean, low, high = (math.nan if value[name] is None else float(value[name]) for name in ESTIMATE[:3])
    if low > high or not isinstance(value["n"], int):
        raise ValueError(f"an estimate over {value['n']!r} with the interval [{low:g}, {high:g}] is none")
    return Estimate(mean, low, high, value["n"])


def plain_values(value: Any) -> Any:
    """As JSON has it, inside lists and dictionaries as well: estimates by their names, null for what is no number."""
    if isinstance(value, Estimate):
        return plain_values(asdict(value))
    if isinstance(value, Mapping):
        return {name: plain_values(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no other word for it
    return value


def rows_as_lines(value: Any) -> str:
    """JSON text in which every row is a line, so that a difference between two records can be read.

    An entry of a list that holds more than numbers is a row, and so is whatever is short; a longer dictionary has a
    line for each of its names.

    >>> print(rows_as_lines({"command": "make it", "rows": [{"a": 1}, {"a": 2, "b": [1, 2]}]}), end="")
    {
     "command": "make it",
     "rows": [
      {"a": 1},
      {"a": 2, "b": [1, 2]}
     ]
    }
    """
    (*lines, last) = _lines(value, 0, top=True)
    return "\n".join([*lines, last]) + "\n"


def _lines(value: Any, depth: int, *, top: bool = False) -> list[str]:
    flat = json.dumps(value, ensure_ascii=False, allow_nan=False)
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    nested = any(isinstance(entry, dict | list) and entry for entry in inner)
    if not top and (not nested or (depth + len(flat) <= MOST_CHARACTERS and isinstance(value, dict))):
        return [flat]
    indent = " " * (depth + 1)
    if isinstance(value, list):
        rows = [f"{indent}{json.dumps(row, ensure_ascii=False, allow_nan=False)}" for row in inner]
        return ["[", *_separated([[row] for row in rows]), f"{' ' * depth}]"]
    entries = []
    for name, entry in value.items():
        first, *rest = _lines(entry, depth + 1)
        entries.append([f"{indent}{json.dumps(name, ensure_ascii=False)}: {first}", *rest])
    return ["{", *_separated(entries), f"{' ' * depth}}}"]


def _separated(entries: list[list[str]]) -> list[str]:
    """The lines of all entries, with a comma after each entry but the last."""
    ended = [[*entry[:-1], f"{entry[-1]},"] for entry in entries[:-1]] + entries[-1:]
    return [line for entry in ended for line in entry]
