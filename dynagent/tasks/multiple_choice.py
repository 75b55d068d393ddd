"""Multiple-choice questions: MMLU, CMMLU and the sample that comes with the package.

    questions = load_questions("mmlu", split="train")
    questions[0].render(), questions[0].answer, questions.sources

Whatever the source, "train" and "test" are the same questions in the same order: both are cut from the
official test set by the questions' ids, which are hashes of their content.
"""

from __future__ import annotations

import hashlib
import json
import logging
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal, overload

from dynagent.artefacts.sources import Source, combined_sha256, fetch, file_sha256, hub_snapshot, pinned_source
from dynagent.parameters import nearest
from dynagent.tasks.subjects import AREAS
from dynagent.tasks.tables import csv_rows, read_text, table_rows

log = logging.getLogger(__name__)

DATASETS = ("mmlu", "cmmlu", "sample")
SPLITS = ("train", "test", "dev", "val", "official_test")
LETTERS = "ABCD"
NUM_TRAIN_PER_SUBJECT = 5
LICENCES = {"mmlu": "MIT", "cmmlu": "CC-BY-NC-SA-4.0"}


@dataclass(frozen=True)
class Question:
    """A question with four options, one of them right.

    `answer` is the index of the right option, `subject` is written like "abstract_algebra".

    >>> Question("1 + 1 = ?", ("1", "2", "3", "4"), 1, "mathematics", "en").render()
    '1 + 1 = ?\\nOption A: 1\\nOption B: 2\\nOption C: 3\\nOption D: 4'
    """

    text: str
    options: tuple[str, ...]
    answer: int
    subject: str
    language: Literal["en", "zh"]

    @cached_property
    def id(self) -> str:
        """16 hex digits of the sha256 of text and options, up to outer white space and Unicode form (NFC)."""
        content = [canonical(self.text), [canonical(option) for option in self.options]]
        encoded = json.dumps(content, separators=(",", ":")).encode()
        return hashlib.sha256(encoded).hexdigest()[:16]

    @property
    def area(self) -> str:
        """One of stem, humanities, social_sciences and other; ValueError if the subject is not in `AREAS`."""
        areas = AREAS[self.language]
        if self.subject not in areas:
            raise ValueError(f"Add the subject {self.subject!r} to dynagent/tasks/subjects.json: it has no area.")
        return areas[self.subject]

    def render(self) -> str:
        """The question as agents read it: its text, then a line "Option A: ..." for each option."""
        options = (f"Option {letter}: {option}" for letter, option in zip(LETTERS, self.options, strict=True))
        return "\n".join([self.text, *options])


@dataclass(frozen=True)
class Questions(Sequence[Question]):
    """Questions in a fixed order, with where they came from; a slice of it is one, too.

    Attributes:
        refused: questions that were left out of a training set, since they are evaluation questions.
    """

    dataset: str
    split: str
    sources: tuple[Source, ...]
    items: tuple[Question, ...] = field(repr=False)
    refused: int = 0

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Question: ...
    @overload
    def __getitem__(self, index: slice) -> Questions: ...
    def __getitem__(self, index: int | slice) -> Question | Questions:
        return replace(self, items=self.items[index]) if isinstance(index, slice) else self.items[index]


def load_questions(
    dataset: str, split: str = "train", source: str | Path = "package", limit: int | None = None
) -> Questions:
    """Load a split of "mmlu", "cmmlu" or "sample" (160 questions that come with dynagent).

    "train" and "test" are cut from the official test set, the same whatever the source: a question that
    occurs twice counts once, and in each subject the first 5 by id (of the sample, a third) are for training.
    They are disjoint and ordered by id, so that `limit` gives a fixed random subset, nested in that of a
    greater limit. "dev", "val" and "official_test" are the published splits, with their order and duplicates.

    `source` is "package" (pinned; MMLU's official test set only), "hub", or a folder in the official layout:
    dev, val and test with <subject>_<split>.csv (MMLU) or dev and test with <subject>.csv (CMMLU).

    Raises ValueError for an unknown data set or split, a split that the source lacks or a malformed file,
    FileNotFoundError for a missing folder, and what `dynagent.artefacts.sources.fetch` raises.
    """
    for what, given, known in (("data set", dataset, DATASETS), ("split", split, SPLITS)):
        if given not in known:
            raise ValueError(f"There is no {what} {given!r}; {nearest(str(given).lower(), known)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, or None for all questions, not {limit}.")
    official = {"train": "test", "test": "test", "official_test": "test"}.get(split, split)
    if dataset == "sample":
        questions, used = _read_sample(official, str(source))
    elif source == "package":
        questions, used = _read_package(dataset, official)
    elif source == "hub":
        questions, used = _read_hub_mmlu(official) if dataset == "mmlu" else _read_hub_cmmlu(official)
    else:
        questions, used = _read_folder(dataset, official, str(source))
    equal_options = sum(len(set(question.options)) < len(question.options) for question in questions)
    log.info("%s %s: %d questions read, %d of them with two equal options, as published",
             dataset, official, len(questions), equal_options)  # fmt: skip
    if split in ("train", "test"):
        train, test = _cut(questions, third=dataset == "sample")
        questions = train if split == "train" else test
    if not questions:
        raise ValueError(
            f"The split {split!r} of {dataset} in {used.location} has no questions (of each subject the first "
            f"{NUM_TRAIN_PER_SUBJECT} are for training): give more questions, or another split."
        )
    return Questions(dataset, split, (used,), tuple(questions[:limit]))


def canonical(text: str) -> str:
    """Text in Unicode form NFC without outer white space, so that one question is one prompt and one id."""
    return unicodedata.normalize("NFC", text).strip()


def _cut(questions: Iterable[Question], third: bool) -> tuple[list[Question], list[Question]]:
    """Split by ids alone, into train and test, both ordered by id."""
    unique: dict[str, Question] = {}
    groups: dict[tuple[str, str], list[Question]] = {}
    for question in sorted(questions, key=lambda q: (q.id, q.subject, q.answer)):
        if question.id not in unique:  # of a question in two subjects, the first subject has it
            unique[question.id] = question
            groups.setdefault((question.language, question.subject), []).append(question)
    train = {q for group in groups.values() for q in group[: round(len(group) / 3) if third else NUM_TRAIN_PER_SUBJECT]}
    return [q for q in unique.values() if q in train], [q for q in unique.values() if q not in train]


def checked_question(where: str, cells: Sequence[object], subject: object, language: object) -> Question:
    """Check and build a question from its text, four options and the letter of the right one.

    Raises:
        ValueError: beginning with `where`, for anything else.
    """
    if len(cells) != 6:
        raise ValueError(f"{where} has {len(cells)} values instead of a question, four options and a letter.")
    for cell in cells:
        if isinstance(cell, str) and not _is_text(cell):
            raise ValueError(f"{where} has half a character (a lone surrogate, {ascii(cell)[:40]}): save it in UTF-8.")
    text, *options, letter = (canonical(cell) if isinstance(cell, str) else "" for cell in cells)
    if not text or not all(options):
        raise ValueError(f"{where} has an empty question or option: fill it in or take the row out.")
    if len(letter) != 1 or letter not in LETTERS:
        raise ValueError(f"{where} gives {letter!r} as the right answer: it must be one of A, B, C and D.")
    if language not in ("en", "zh") or not isinstance(subject, str):
        raise ValueError(f"{where} has language {language!r} and subject {subject!r}: give en or zh and a name.")
    name = subject.strip().lower().replace(" ", "_")
    return Question(text, tuple(options), LETTERS.index(letter), name, language)


def _read_package(dataset: str, official: str) -> tuple[list[Question], Source]:
    if dataset != "mmlu":
        raise ValueError(f"No package holds {dataset}: give source='hub' or the path of a folder in its layout.")
    if official != "test":
        raise ValueError(f"The package has no split {official!r} of MMLU: give source='hub' or a folder.")
    keys = ("question", "answer_a", "answer_b", "answer_c", "answer_d", "correct_answer")
    questions = []
    for where, row in table_rows(fetch("mmlu")):
        cells = [row.get(key) for key in keys]
        if cells != [*keys[:-1], "answer"]:  # two of the rows are headers that were read as data
            questions.append(checked_question(where, cells, row.get("topic"), "en"))
    return questions, pinned_source("mmlu")


def _read_sample(official: str, source: str) -> tuple[list[Question], Source]:
    if source != "package" or official != "test":
        raise ValueError("The sample comes with dynagent: give no source, and the split 'train' or 'test'.")
    file = Path(__file__).parent / "sample" / "questions.jsonl"
    questions = []
    for where, row in table_rows(file):
        cells = [row.get("question"), *row.get("options", ()), row.get("answer")]
        questions.append(checked_question(where, cells, row.get("subject"), row.get("language")))
    location = f"dynagent.tasks/sample/{file.name}"
    return questions, Source("sample", "builtin", location, None, file_sha256(file), "MIT")


def _is_text(cell: str) -> bool:
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_folder(dataset: str, official: str, folder: str) -> tuple[list[Question], Source]:
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(
            f"There is no folder {folder}: as the source give 'package', 'hub' or an existing folder."
        )
    questions, sha256 = _read_layout(dataset, official, root)
    return questions, Source(dataset, "folder", folder, None, sha256, LICENCES[dataset])


def _read_layout(dataset: str, official: str, root: Traversable) -> tuple[list[Question], str]:
    """The questions in the CSV files of `root` or `root/data`, and a hash over the files."""
    folder = next((path for path in (root / official, root / "data" / official) if path.is_dir()), None)
    if folder is None:
        raise ValueError(f"{root} has no folder {official} with CSV files: take another split or source.")
    suffix = f"_{official}.csv" if dataset == "mmlu" else ".csv"
    # What begins with "." or "~$" is what a system or a spreadsheet leaves beside the files.
    names = [path for path in folder.iterdir() if path.name.endswith(suffix) and not path.name.startswith((".", "~$"))]
    files = {path.name: path.read_bytes() for path in names}
    if not files:
        raise ValueError(f"{folder} has no files <subject>{suffix}: the layout is another.")
    questions: list[Question] = []
    for name in sorted(files):
        questions += _read_csv(dataset, files[name], f"{folder}/{name}", name.removesuffix(suffix))
    digests = {f"{official}/{name}": hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return questions, combined_sha256(digests)


def _read_csv(dataset: str, content: bytes, where: str, subject: str) -> Iterator[Question]:
    header, chinese = ["Question", *LETTERS, "Answer"], dataset == "cmmlu"
    num_cells = len(header) + chinese
    rows = csv_rows(read_text(content, where), where, lambda cells: len(cells) == num_cells and cells[-1] in LETTERS)
    if chinese and next(rows, ("", [""]))[1][1:] != header:
        raise ValueError(f"{where}, row 1, is not CMMLU's header (an index, {', '.join(header)}).")
    for place, cells in rows:  # every cell stays text, so that the options "None" and "NA" are no missing values
        yield checked_question(place, cells[chinese:], subject, "zh" if chinese else "en")


def _read_hub_mmlu(official: str) -> tuple[list[Question], Source]:
    from datasets import Dataset

    repository, pattern = "cais/mmlu", f"all/{'validation' if official == 'val' else official}-*.parquet"
    folder = hub_snapshot(repository, [pattern], repo_type="dataset")
    questions: list[Question] = []
    files = sorted(folder.glob(pattern))
    for file in files:
        for number, row in enumerate(Dataset.from_parquet(str(file)), start=1):
            cells = [row["question"], *row["choices"], LETTERS[row["answer"]]]
            questions.append(checked_question(f"{file.name}, row {number},", cells, row["subject"], "en"))
    sha256 = combined_sha256({file.name: file_sha256(file) for file in files})
    return questions, Source("mmlu", "hub", repository, folder.name, sha256, LICENCES["mmlu"])


def _read_hub_cmmlu(official: str) -> tuple[list[Question], Source]:
    """Read the archive in the repository: its loading script is Python code, which is not run."""
    repository, archive = "haonan-li/cmmlu", "cmmlu_v1_0_1.zip"
    folder = hub_snapshot(repository, [archive], repo_type="dataset")
    with zipfile.ZipFile(folder / archive) as content:
        questions, sha256 = _read_layout("cmmlu", official, zipfile.Path(content))
    return questions, Source("cmmlu", "hub", repository, folder.name, sha256, LICENCES["cmmlu"])
