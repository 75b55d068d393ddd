"""How tables and captions write numbers, and how rows of a record are chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dynagent.evaluation.statistics import Estimate
from dynagent.runs.record import Record

Row = Mapping[str, Any]
WORDS = [
    "none",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]


def shown(estimate: Estimate, scale: float = 1.0, digits: int = 2, sign: str = "") -> str:
    """A number with its interval: "0.94 [0.93, 0.95]"."""
    numbers = (estimate.mean, estimate.ci_low, estimate.ci_high)
    mean, low, high = (f"{scale * number:{sign}.{digits}f}" for number in numbers)
    return f"{mean} [{low}, {high}]"


def percent(estimate: Estimate) -> str:
    """An accuracy in %, or a difference in points, with its interval: "41.9 [38.1, 45.8]"."""
    return shown(estimate, 100, 1)


def gained(estimate: Estimate) -> str:
    """A difference of accuracies in points, with its sign: "+2.5 [+0.8, +4.5]"."""
    return shown(estimate, 100, 1, "+")


def short(estimate: Estimate) -> str:
    """A share with its interval, to three digits: "0.419 [0.381, 0.458]"."""
    return shown(estimate, digits=3)


def significant(estimate: Estimate) -> str:
    """Three digits that count, whatever the size: "7.97 [7.42, 8.55]"."""
    return f"{estimate.mean:.3g} [{estimate.ci_low:.3g}, {estimate.ci_high:.3g}]"


def compact(value: float) -> str:
    """Three digits that count, and no powers of ten.

    >>> compact(0.8963), compact(15500.0)
    ('0.896', '15,500')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def in_words(number: int) -> str:
    """A small number as a word: "two", and 21 as it is."""
    return WORDS[number] if number < len(WORDS) else f"{number:,}"


def listed(numbers: Iterable[int]) -> str:
    """Different numbers, in words.

    >>> listed([1000, 570, 1000])
    '570 or 1,000'
    """
    return " or ".join(f"{number:,}" for number in sorted(set(numbers)))


def chosen(rows: Sequence[Row], **values: Any) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row.get(name, "") == value for name, value in values.items())]


def only(rows: Sequence[Row], **values: Any) -> Row:
    """The one row that has these values."""
    (row,) = chosen(rows, **values)
    return row


def origin(record: Record) -> str:
    """Where a record's numbers are from, as one line of text."""
    return f"{record.num_seeds} seeds, commit {(record.code.commit or 'unknown')[:12]}, `{record.command}`"
