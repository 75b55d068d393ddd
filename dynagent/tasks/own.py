"""Multiple-choice questions of one's own: a CSV, TSV or JSONL file, a data frame, a data set, a list of dicts.

questions = questions_from("my_questions.csv")
train, test = questions[:40], questions[40:]
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from dynagent.artefacts.sources import Source, combined_sha256
from dynagent.tasks.multiple_choice import LETTERS, Question, Questions, checked_question
from dynagent.tasks.tables import table_rows

log = logging.getLogger(__name__)

FURTHER_LETTERS = "EFGHIJ"
FEWEST_TO_JUDGE = 20  # numbered answers: so many without a single 0 were counted from 1


def questions_from(rows: str | Path | Iterable[Mapping[str, Any]], name: str = "own") -> Questions:
    """Questions from a file in UTF-8 (see `dynagent.tasks.tables.table_rows`), or from rows, one mapping a question.

    Columns: `question`; four options, as `A`, `B`, `C` and `D` or as one list `choices`; `answer`, the letter of the
    right one or its index from 0 (1, 1.0 and "1" are the second option); and if they are there, `subject` (one that
    MMLU or CMMLU has, or an area: stem, humanities, social_sciences, other, which is the default) and `language` (en,
    the default, or zh).

    A question that occurs twice counts once; how many were read, and how many twice, is logged. The order is by id, a
    hash of the content: slices are random subsets that stay the same, so that `[:40]` and `[40:]` can train and
    evaluate.

    Raises:
        ValueError: naming file and row, for a missing column, a row with more or fewer cells than the header, an empty
            option, an answer that is none, a question with two different answers; for a table without questions; and
            where 20 or more answers are numbers and none is 0, so that they were counted from 1.

    >>> row = {"question": "1 + 1 = ?", "choices": ["1", "2", "3", "4"], "answer": 1}
    >>> questions_from([row])[0].render().splitlines()[2]
    'Option B: 2'
    """
    location = str(rows) if isinstance(rows, str | Path) else type(rows).__name__
    distinct: dict[str, Question] = {}
    num_rows, indices = 0, []
    for where, row in table_rows(rows):
        num_rows += 1
        listed = "choices" in row
        if missing := {"question", *(("choices",) if listed else LETTERS), "answer"} - row.keys():
            raise ValueError(f"{where} has no {', '.join(sorted(missing))}: give question, A to D or choices, answer.")
        if further := [name for name in row if name in FURTHER_LETTERS and _text_of(row[name])]:
            raise ValueError(f"{where} has an option {further[0]}: questions have the four options A to D.")
        options = row["choices"] if listed else [row[letter] for letter in LETTERS]
        if isinstance(options, str) or not isinstance(options, Iterable):
            raise ValueError(f"{where} has {options!r} as choices: give a list of four options.")
        answer, index = _letter_of(row["answer"])
        if index is not None:
            indices.append(index)
        texts = [_text_of(cell) for cell in (row["question"], *options, answer)]
        subject, language = _text_of(row.get("subject")) or "other", _text_of(row.get("language")) or "en"
        question = checked_question(where, texts, subject, language)
        if distinct.setdefault(question.id, question).answer != question.answer:
            raise ValueError(f"{where} answers a question in another way than an earlier row: keep one of them.")
    if not distinct:
        raise ValueError(f"{location} has no questions: give at least one row with question, options and answer.")
    if len(indices) >= FEWEST_TO_JUDGE and 0 not in indices:
        raise ValueError(
            f"{location} has {len(indices)} numbered answers and none is 0: they seem to be counted from 1, and are "
            "read from 0. Write letters, or subtract 1."
        )
    log.info("%s: %d rows read, %d questions, %d rows repeat one", location, num_rows, len(distinct),
             num_rows - len(distinct))  # fmt: skip
    items = tuple(distinct[key] for key in sorted(distinct))
    sha256 = combined_sha256({question.id: f"{question.answer} {question.subject}" for question in items})
    return Questions(name, "all", (Source(name, "own", location, None, sha256, "unknown"),), items)


def _letter_of(answer: object) -> tuple[object, int | None]:
    """The letter of an answer that is an index from 0, and the index; any other answer as it is, and None."""
    number = answer
    if isinstance(answer, str):
        try:
            number = float(answer)
        except ValueError:
            return answer.strip().upper() if len(answer.strip()) == 1 else answer, None
    if isinstance(number, bool) or not isinstance(number, Real) or not float(number).is_integer():
        return answer, None
    index = round(float(number))
    return (LETTERS[index], index) if 0 <= index < len(LETTERS) else (answer, index)


def _text_of(cell: object) -> str | None:
    """A cell as text; None for one that is not there (pandas has NaN for that). A whole number has no ".0"."""
    if cell is None or (isinstance(cell, Real) and not isinstance(cell, Integral) and math.isnan(cell)):
        return None
    return cell if isinstance(cell, str) else str(cell)
