"""Multiple-choice questions of one's own: a CSV file, a `datasets.Dataset`, a list of dicts.

questions = questions_from("my_questions.csv")
train, test = questions[:40], questions[40:]
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dynagent.artefacts.sources import Source, combined_sha256
from dynagent.tasks.multiple_choice import LETTERS, Question, Questions, _question, _text


def questions_from(rows: str | Path | Iterable[Mapping[str, Any]], name: str = "own") -> Questions:
    """Questions from a CSV file in UTF-8 with a header, or from rows: anything that gives one mapping a question.

    Columns: `question`; four options, as `A`, `B`, `C` and `D` or as one list `choices`; `answer`, the letter of the
    right one or, as a number, its index from 0; and if they are there, `subject` (one that MMLU or CMMLU has, or an
    area: stem, humanities, social_sciences, other, which is the default) and `language` (en, the default, or zh).

    A question that occurs twice counts once. The order is by id, a hash of the content: slices are random subsets
    that stay the same, so that `[:40]` and `[40:]` can train and evaluate.

    Raises:
        ValueError: naming the row, for a missing column, an empty option, an answer that is none, or a question with
            two different answers.

    >>> row = {"question": "1 + 1 = ?", "choices": ["1", "2", "3", "4"], "answer": 1}
    >>> questions_from([row])[0].render().splitlines()[2]
    'Option B: 2'
    """
    location = str(rows) if isinstance(rows, str | Path) else type(rows).__name__
    if isinstance(rows, str | Path):
        rows = csv.DictReader(io.StringIO(_text(Path(rows).read_bytes(), location), newline=""))
    found: dict[str, Question] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{location}, row {number},"
        listed = "choices" in row
        if missing := {"question", *(("choices",) if listed else LETTERS), "answer"} - row.keys():
            raise ValueError(f"{where} has no {', '.join(sorted(missing))}: give question, A to D or choices, answer.")
        options, answer = row["choices"] if listed else [row[letter] for letter in LETTERS], row["answer"]
        cells = [row["question"], *options, LETTERS[answer] if answer in range(len(LETTERS)) else answer]
        texts = [cell if cell is None else str(cell) for cell in cells]
        question = _question(where, texts, row.get("subject") or "other", row.get("language") or "en")
        if found.setdefault(question.id, question).answer != question.answer:
            raise ValueError(f"{where} answers a question in another way than an earlier row: keep one of them.")
    items = tuple(found[key] for key in sorted(found))
    sha256 = combined_sha256({question.id: f"{question.answer} {question.subject}" for question in items})
    return Questions(name, "all", (Source(name, "own", location, None, sha256, "unknown"),), items)
