"""Questions of which a record holds all but the text: enough to replay an experiment on recorded answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynagent.artefacts.sources import Source, file_sha256
from dynagent.tasks.multiple_choice import LETTERS, LICENCES, Question, Questions

INDEX = "index.jsonl"


@dataclass(frozen=True)
class RecordedQuestion(Question):
    """A question known by its hash: subject, language and answer are there; asking for its text is a ValueError."""

    text: str = field(init=False, repr=False, compare=False)  # never set, so that reading it ends in __getattr__
    options: tuple[str, ...] = field(kw_only=True, default=tuple(LETTERS))  # as many as there are, by their letters
    id: str = field(kw_only=True)  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        if name == "text":
            raise ValueError(
                f"The text of question {self.id} is not on record, only its hash: load the data set itself to ask anew."
            )
        raise AttributeError(name)


def shown(question: Question) -> str:
    """The question as a person reads it; of a recorded one, what is known of it."""
    if isinstance(question, RecordedQuestion):
        return f"Question {question.id} on {question.subject} ({question.language}); its text is not on record."
    return question.render()


def load_recorded(folder: Path, dataset: str, split: str, limit: int | None = None) -> Questions:
    """The questions of a split in the order of the record.

    Args:
        folder: holds `index.jsonl`, as `make record` writes it.
        split: of CMMLU, "train" means the published dev split, which is what is on record to train on.

    Raises:
        ValueError: for a missing or malformed index, a split that it lacks, or a question that it has twice.
    """
    path = folder / INDEX
    if (dataset, split) == ("cmmlu", "train"):
        split = "dev"
    if not path.exists():
        raise ValueError(f"There is no record of questions {path}: `make record` makes it.")
    items: list[Question] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            known = {"id": row["question"]} | {name: row[name] for name in ("answer", "subject", "language")}
            if (row["dataset"], row["split"]) == (dataset, split):
                items.append(RecordedQuestion(**known))
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"Line {number} of {path} is not a question on record: `make record` mends it.") from None
    if not items:
        raise ValueError(f"{path} has no questions of {dataset} {split}: `make record` adds them.")
    if len({question.id for question in items}) < len(items):
        raise ValueError(f"{path} has a question of {dataset} {split} twice: `make record` mends it.")
    source = Source(f"{dataset} {split}", "record", str(path), None, file_sha256(path), LICENCES[dataset])
    return Questions(dataset, split, (source,), tuple(items[:limit]))
