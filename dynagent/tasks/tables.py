"""Rows of a table, each with the place where it stands: a CSV, TSV or JSONL file, a data frame, a list of dicts.

A row is read whole or refused with its file and number: none is shortened, filled up or left out without a word.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

MOST_CHARACTERS = 10_000_000  # of a cell; Python's own limit, 131,072, is less than some questions have
Place = str  # such as "my.csv, row 3,": the beginning of a sentence


def read_text(content: bytes, where: str) -> str:
    """The text of a file in UTF-8.

    Raises:
        ValueError: for another encoding.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 (byte {error.start}): save it in UTF-8.") from error


def csv_rows(
    text: str, where: str, is_row: Callable[[list[str]], bool], delimiter: str = ","
) -> Iterator[tuple[Place, list[str]]]:
    """The records of a CSV text that hold anything, as a strict parser sees them, numbered from 1.

    Args:
        is_row: whether cells could be a row of this table. A quote that is closed some rows too late makes one cell of
            all between; such a cell has a line that is a row by itself.

    Raises:
        ValueError: for a stray or unclosed quote, and for a cell that holds further rows.
    """
    previous_limit = csv.field_size_limit(MOST_CHARACTERS)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        last_line = 0
        for number, cells in enumerate(reader, start=1):
            first_line, last_line = last_line + 1, reader.line_num
            if not cells:
                continue  # an empty line
            inner_lines = [line for cell in cells for line in cell.splitlines()[:-1]]
            if any(is_row(line.split(delimiter)) for line in inner_lines):
                raise ValueError(
                    f"{where}, lines {first_line} to {last_line}: a cell holds whole rows; close its quote."
                )
            yield f"{where}, row {number},", cells
    except csv.Error as error:
        raise ValueError(
            f"{where}, line {reader.line_num}, is not CSV ({error}): look for a quote that is not closed, and write a "
            'quote inside a cell twice ("").'
        ) from error
    finally:
        csv.field_size_limit(previous_limit)


def table_rows(rows: str | Path | Iterable[Mapping[str, Any]]) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """The rows of a table as mappings from the names of its columns.

    Args:
        rows: a file (.jsonl or .json: one object a line, or one list of objects; .tsv; any other: CSV with a header),
            a pandas data frame, or anything that gives one mapping a row.

    Raises:
        ValueError: with file and row, for a row that has more or fewer cells than the header, that is no object, or
            that cannot be read.
    """
    if isinstance(rows, str | Path):
        path = Path(rows)
        text = read_text(path.read_bytes(), str(rows))
        if path.suffix.lower() in (".jsonl", ".json"):
            yield from _json_rows(text, str(rows))
        else:
            yield from _named_csv_rows(text, str(rows), "\t" if path.suffix.lower() == ".tsv" else ",")
        return
    kind = type(rows).__name__
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # a pandas data frame iterates over its columns
        rows = rows.to_dict("records")
    items: Any = rows
    for number, row in enumerate(items, start=1):
        where = f"{kind}, row {number},"
        if not isinstance(row, Mapping):
            raise ValueError(f"{where} is of type {type(row).__name__}: give one mapping a row.")
        yield where, row


def _named_csv_rows(text: str, where: str, delimiter: str) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Data rows by the names in the header, numbered from 1 after it."""
    names: list[str] = []

    def is_row(cells: list[str]) -> bool:
        row = dict(zip(names, cells, strict=False))
        return len(cells) == len(names) > 2 and row.get("answer", "A").strip(" .0123456789ABCDabcd") == ""

    rows = csv_rows(text, where, is_row, delimiter)
    _, header = next(rows, ("", []))
    names += [name.strip() for name in header]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"The header of {where} has {', '.join(map(repr, repeated))} twice: rename one column.")
    for number, (_, cells) in enumerate(rows, start=1):
        place = f"{where}, row {number},"
        if len(cells) != len(names):
            raise ValueError(
                f"{place} has {len(cells)} cells and the header {len(names)}: a comma inside a cell needs quotes "
                "around the cell."
            )
        yield place, dict(zip(names, cells, strict=True))


def _json_rows(text: str, where: str) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    if text.lstrip().startswith("["):
        try:
            objects = list(enumerate(json.loads(text), start=1))
        except ValueError as error:
            raise ValueError(f"{where} is not valid JSON ({error}).") from error
    else:
        objects = []
        # Not splitlines(), which also splits at the rarer line separators inside a text.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    objects.append((number, json.loads(line)))
                except ValueError as error:
                    raise ValueError(f"{where}, line {number}, is not JSON ({error}): one object a line.") from error
    for number, value in objects:
        place = f"{where}, line {number},"
        if not isinstance(value, Mapping):
            raise ValueError(f"{place} is no JSON object: write one object with the columns' names a line.")
        yield place, value
