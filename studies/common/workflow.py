"""The workflow: which step makes which file from which code and which files.

Recordings are given; a study makes a record from them; figures, the ledger and tables are made from records. pytask
runs the steps (`studies/tasks/task_steps.py`) and keeps in `pytask.lock` the contents that each product was made from.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from dynagent.runs.paths import resolve_path
from studies.common.dependencies import drawing_code, file_digest, measuring_code, reporting_code
from studies.common.study import Study, function_of, run
from studies.communication.study import STUDIES as COMMUNICATION
from studies.crosswords import study as crosswords
from studies.frontier.study import STUDIES as FRONTIER
from studies.gallery.records import FIGURE_RECORDS
from studies.idea.study import STUDIES as IDEA
from studies.ledger.records import LEDGER, LEDGER_RECORDS
from studies.readings.study import STUDIES as READINGS
from studies.released.study import STUDIES as RELEASED
from studies.table2.study import STUDIES as TABLE_2
from studies.worlds.study import STUDIES as WORLDS

TASK = "studies/tasks/task_steps.py"
DECLARATION = "declaration"
STUDIES: tuple[Study, ...] = (
    *WORLDS, *TABLE_2, *READINGS, *RELEASED, *FRONTIER, *COMMUNICATION, *crosswords.STUDIES, *IDEA,
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One step of the workflow.

    Attributes:
        name: unique.
        groups: names under which it is called, too: `pytask -m <group>`.
        make: leaves the products.
        code: files of source that the products follow from.
        inputs, products: paths from the project's root, or "path#NAME" for a block in a file.
        declaration: what else the products follow from, as a text.
    """

    name: str
    groups: tuple[str, ...]
    make: Callable[[], Any]
    code: tuple[Path, ...]
    inputs: tuple[str, ...]
    products: tuple[str, ...]
    declaration: str = ""

    @property
    def dependencies(self) -> list[File | Block | Declaration]:
        """What the products follow from, as nodes."""
        paths: tuple[str | Path, ...] = (*self.code, *self.inputs)
        files = [node_at(path) for path in paths]
        return [*files, Declaration(self.declaration, f"declaration of {self.name}")]


@lru_cache
def steps() -> dict[str, Step]:
    """All steps by name."""
    folders = dict.fromkeys(study.folder for study in STUDIES if study.answers)
    found = [*map(_record_step, STUDIES), _crosswords_answers(), _ledger()]
    found += [*map(_figure_step, FIGURE_RECORDS), *map(_readme_step, folders)]
    return {step.name: step for step in found}


def _record_step(study: Study) -> Step:
    return Step(
        study.name, (study.folder, "record"), partial(run, study), study.code(), study.inputs, study.products,
        study.declaration(),
    )  # fmt: skip


def _crosswords_answers() -> Step:
    """What the recorded replies say about the graphs that the world's first seed has learned."""
    return Step(
        "crosswords_answers",
        ("crosswords", "record"),
        partial(_call, "studies.crosswords.answers:main", ["--replay"]),
        measuring_code("studies.crosswords.answers"),
        (crosswords.CROSSWORDS.record, crosswords.REPLIES),
        (crosswords.ANSWERS,),
    )


def _ledger() -> Step:
    return Step(
        "claims", ("ledger",), partial(_call, "studies.ledger.claims:main", []),
        reporting_code("studies.ledger.claims"), LEDGER_RECORDS, LEDGER,
    )  # fmt: skip


def _figure_step(name: str) -> Step:
    folders = {product: study.folder for study in STUDIES for product in study.products}
    groups = {folders[record] for record in FIGURE_RECORDS[name] if record in folders}
    return Step(
        f"figure {name}",
        ("figure", *sorted(groups)),
        partial(_call, "studies.gallery.figures:main", [name]),
        drawing_code("studies.gallery.figures"),
        FIGURE_RECORDS[name],
        tuple(f"results/figures/{name}{suffix}" for suffix in (".svg", ".png")),
    )


def _readme_step(folder: str) -> Step:
    """The answers in the README of a folder of studies."""
    answering = [study for study in STUDIES if study.folder == folder and study.answers]
    return Step(
        f"answers of {folder}",
        ("readme", folder),
        partial(_call, "studies.common.answers:main", [folder]),
        reporting_code("studies.common.answers"),
        tuple(study.record for study in answering),
        (f"studies/{folder}/README.md#answer",),
        repr([study.answers for study in answering]),
    )


def _call(function: str, arguments: list[str]) -> None:
    """Run a program of a study.

    Raises:
        RuntimeError: if it ends with an error, which it has written.
    """
    if status := function_of(function)(arguments):
        raise RuntimeError(f"{function} ended with status {status}: see what it wrote.")


@dataclass
class File:
    """A file of the project, as a node of pytask whose state is its contents; of Python's source, its syntax."""

    name: str
    path: Path
    attributes: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def at(cls, path: str | Path) -> File:
        """The file at a path from the project's root."""
        place = resolve_path(path)
        return cls(place.as_posix(), place)

    @property
    def signature(self) -> str:
        return self.name

    def state(self) -> str | None:
        """16 hex digits; None where there is no such file."""
        if not self.path.is_file():
            return None
        stat = self.path.stat()
        return _digest(self.path, stat.st_mtime_ns, stat.st_size)

    def load(self, is_product: bool = False) -> Path:
        return self.path

    def save(self, value: Any) -> None:
        raise NotImplementedError(f"{self.name} is written by its step.")


@dataclass
class Block:
    """What stands between <!-- NAME --> and <!-- /NAME --> in a file, as a node of pytask; the rest does not count."""

    name: str  # "path#NAME"
    attributes: dict[Any, Any] = field(default_factory=dict)

    @property
    def signature(self) -> str:
        return self.name

    def state(self) -> str | None:
        """16 hex digits; None where there is no such block."""
        path, _, mark = self.name.partition("#")
        place = resolve_path(path)
        text = place.read_text(encoding="utf-8") if place.is_file() else ""
        found = re.search(f"<!-- {mark} -->(.*?)<!-- /{mark} -->", text, re.DOTALL)
        return hashlib.sha256(found[1].encode()).hexdigest()[:16] if found else None

    def load(self, is_product: bool = False) -> str:
        return self.name

    def save(self, value: Any) -> None:
        raise NotImplementedError(f"{self.name} is written by its step.")


def node_at(path: str | Path) -> File | Block:
    """The node of a path from the project's root, or of a block in a file, "path#NAME"."""
    return Block(path) if isinstance(path, str) and "#" in path else File.at(path)


@dataclass
class Declaration:
    """What a step's declaration says, as a node of pytask."""

    text: str
    signature: str
    name: str = DECLARATION
    attributes: dict[Any, Any] = field(default_factory=dict)

    def state(self) -> str:
        """16 hex digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def load(self, is_product: bool = False) -> str:
        return self.text

    def save(self, value: Any) -> None:
        raise NotImplementedError("A declaration is no product.")


@cache
def _digest(path: Path, _time: int, _size: int) -> str:
    return file_digest(path)[:16]


def make(name: str) -> None:
    """Make the products of a step."""
    steps()[name].make()
