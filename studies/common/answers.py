"""The answers at the top of the studies' READMEs, made from their records: `python -m studies.common.answers`.

An answer stands between <!-- answer --> and <!-- /answer --> in studies/<folder>/README.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dynagent.evaluation.statistics import Estimate
from dynagent.runs.paths import resolve_path
from studies.common.program import choose, program
from studies.common.record import load_record
from studies.common.study import Study
from studies.common.workflow import STUDIES

BLOCK = re.compile(r"(?<=<!-- answer -->\n).*?(?=<!-- /answer -->)", re.DOTALL)


def value_at(numbers: Any, key: Sequence[Any]) -> Any:
    """What a record has at a key: names of entries, and for a list of rows what the one row has.

    >>> value_at({"rows": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]}, ("rows", {"a": 3}, "b"))
    4
    """
    for part in key:
        if isinstance(part, Mapping):
            (numbers,) = [row for row in numbers if all(row[name] == value for name, value in part.items())]
        else:
            numbers = numbers[part]
    return numbers


def shown(estimate: Estimate | float, scale: float, digits: int) -> str:
    """A number; an estimate with its interval."""
    if not isinstance(estimate, Estimate):
        return f"{scale * estimate:.4g}"
    mean, low, high = (f"{scale * value:.{digits}f}" for value in (estimate.mean, estimate.ci_low, estimate.ci_high))
    return f"{mean} [{low}, {high}]"


def answer_of(study: Study) -> str:
    """The answer of a study, and where its numbers stand."""
    numbers, paragraphs = load_record(study.kind).numbers, []
    for answer in study.answers:
        values = [shown(value_at(numbers, key), answer.scale, answer.digits) for key in answer.keys]
        keys = ", ".join(f"`{' / '.join(map(_readable, key))}`" for key in answer.keys)
        paragraphs.append(f"{answer.text.format(*values)}\n\nFrom [{study.record}](../../{study.record}): {keys}.\n")
    return "\n".join(paragraphs)


def _readable(part: Any) -> str:
    return ", ".join(map(str, part.values())) if isinstance(part, Mapping) else str(part)


def write_answers(folder: str) -> Path:
    """Put the answers of a folder's studies into its README.

    Raises:
        ValueError: if the README has no place for them.
    """
    path = resolve_path(f"studies/{folder}/README.md")
    text = path.read_text(encoding="utf-8")
    if len(BLOCK.findall(text)) != 1:
        raise ValueError(f"{path} needs one block <!-- answer --> ... <!-- /answer -->, each mark on a line: add it.")
    answers = "\n".join(answer_of(study) for study in STUDIES if study.folder == folder and study.answers)
    path.write_text(BLOCK.sub(lambda _: answers, text), encoding="utf-8")
    return path


@program
def main(folders: Annotated[list[str] | None, typer.Argument(help="of studies; by default all")] = None) -> None:
    """Write the answers into the studies' READMEs, from the records."""
    for folder in choose(folders or (), list(dict.fromkeys(study.folder for study in STUDIES)), "folder of studies"):
        typer.echo(write_answers(folder))


if __name__ == "__main__":
    sys.exit(main())
