"""What a benchmark's table is made of: measured rows, the goals they have to meet, and how time is taken."""

from __future__ import annotations

import operator
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from studies.common.tables import compact

# "cpu" is for a machine that is busy with other things: what this process computed, without its waiting for a core.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CLOCK = os.environ.get("BENCH_CLOCK", "wall")
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, ">": operator.gt,
}  # fmt: skip


def meets(value: float | None, goal: str) -> bool | None:
    """Whether a value meets a goal such as "<= 3" or ">= 0.95"; None where there is no goal or no value.

    >>> meets(2.9, "<= 3"), meets(0.9, ">= 0.95"), meets(7.0, "")
    (True, False, None)
    """
    if not goal or value is None:
        return None
    parsed = re.fullmatch(r"(<=|>=|==|>) (\d+(?:\.\d+)?)", goal)
    if parsed is None:
        raise ValueError(f"A goal is written like '<= 2', '>= 0.95' or '== 1', not {goal!r}.")
    return COMPARISONS[parsed[1]](value, float(parsed[2]))


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        value: median of `num_samples` measurements, None where nothing could be measured; low and high are their
            quartiles.
        goal: of the value, such as "<= 3", or empty.
        reference: the same quantity of what it is compared with, or None; `ratio` is value / reference.
        compared_with: what the reference is, in words.
        against, at, line: what the row is a point of: cost against "agents", "questions" or "processes" at that number
            of them, on the line of that name.
    """

    name: str
    value: float | None
    unit: str
    goal: str = ""
    reference: float | None = None
    compared_with: str = ""
    low: float | None = None
    high: float | None = None
    num_samples: int = 1
    against: str = ""
    at: int | None = None
    line: str = ""

    @property
    def ratio(self) -> float | None:
        return None if self.value is None or self.reference is None else self.value / self.reference

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, rounded to four digits; `met` is the verdict on the goal."""
        values = asdict(self) | {"ratio": self.ratio, "met": meets(self.value, self.goal)}
        return {name: rounded(value) if isinstance(value, float) else value for name, value in values.items()}


def rounded(value: float) -> float:
    """To four digits that count."""
    return float(f"{value:.4g}")


def row(name: str, samples: Sequence[float], unit: str, **options: Any) -> Row:
    """A row from measurements: their median and quartiles."""
    low, median, high = np.quantile(samples, (0.25, 0.5, 0.75)).tolist()
    return Row(name, median, unit, low=low, high=high, num_samples=len(samples), **options)


def now() -> float:
    """The time in seconds on the chosen clock."""
    return CLOCKS[CLOCK]()


def seconds(function: Callable[[], Any]) -> float:
    """How long one call takes."""
    start = now()
    function()
    return now() - start


def in_turn(functions: Sequence[Callable[[], Any]], repeats: int) -> np.ndarray:
    """Seconds of each function, [repeats, functions]; one after the other, so that a slow moment meets them all.

    Every function is called once more, before, to warm up.
    """
    for function in functions:
        function()
    return np.array([[seconds(function) for function in functions] for _ in range(repeats)])


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The b of cost = a size^b, by least squares on the logarithms.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text: value and unit, quartiles, goal and verdict, reference."""
    lines = []
    for one in rows:
        spread = "" if one["low"] is None else f"[{one['low']:.4g}, {one['high']:.4g}]"
        verdict = {True: "met", False: "MISSED", None: ""}[one["met"]]
        reference = "" if one["reference"] is None else f"{one['reference']:.4g} ({one['compared_with']})"
        value = f"{one['value']:.4g} {one['unit']}"
        lines.append(f"{one['name']:68} {value:>16} {spread:20} {one['goal']:>8} {verdict:6}  {reference}".rstrip())
    return "\n".join(lines)


MARKS = ("<!-- make bench -->\n", "<!-- /make bench -->")  # in docs/benchmarks.md, around the table


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows that have a goal, as a table for docs/benchmarks.md."""
    lines = ["| what | goal | measured | released code |", "|---|---|---|---|"]
    for one in rows:
        if one["met"] is None:
            continue
        released = compact(one["reference"]) if one["compared_with"].startswith("the released code") else ""
        measured = f"{compact(one['value'])} {one['unit']}".rstrip() + ("" if one["met"] else " (missed)")
        goal = one["goal"].replace("<=", "≤").replace(">=", "≥").replace("== ", "exactly ")
        lines.append(f"| {one['name']} | {goal} | {measured} | {released} |")
    return "\n".join(lines) + "\n"


def between_marks(text: str, new: str | None = None) -> str | None:
    """What stands between the marks, or with `new`, the text with that in its place; None without marks."""
    before, begin, rest = text.partition(MARKS[0])
    old, end, after = rest.partition(MARKS[1])
    if not end:
        return None
    return old if new is None else before + begin + new + end + after
