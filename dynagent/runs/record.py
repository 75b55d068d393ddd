"""The record of a run or a study: what was measured, on what, by which command, and what came out.

One schema with a version, one writer and one loader, for files of all ages. A record is read without torch and without
a language model:

    record = Record.load(Path("results/frontier.json"))
    record.numbers["languages"]["wirings"]["full graph"]["accuracy"].mean
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from dynagent.artefacts.downloads import write_file
from dynagent.evaluation.statistics import Estimate
from dynagent.runs import provenance
from dynagent.runs.paths import readable, resolve_path
from dynagent.runs.values import plain_values, rows_as_lines, with_estimates
from dynagent.team.replies import CUT_OFF_ADVICE

if TYPE_CHECKING:
    from dynagent.runs.config import RunConfig

VERSION = 1  # of the schema
SAVED = {"record": "record.json", "figures": "figures", "policy": "policy"}  # in a run's folder
RUN_NUMBERS = ("metrics", "usage", "decoding", "history", "fingerprint")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Sparse(_Strict):
    """What is written without the fields that are empty and seldom needed."""

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        seldom: dict[str, Any] = {"files": {}, "refused": None}
        return {name: value for name, value in values.items() if name not in seldom or value != seldom[name]}


class Input(_Sparse):
    """Data, weights or a recording that the numbers depend on.

    Attributes:
        kind, location, revision, sha256, licence: see `dynagent.artefacts.sources.Source`; None where it is not known.
        files: hashes of the files in which it is on record, where those are others than the input itself.
    """

    name: str
    kind: str | None = None
    location: str | None = None
    revision: str | None = None
    sha256: str | None = None
    licence: str | None = None
    files: dict[str, str] = {}


class QuestionSet(_Sparse):
    """How many questions, a hash of their ids in order, and how many were refused, being among others as well."""

    n: int
    sha256: str | None = None
    refused: int | None = None


class Code(_Strict):
    """The git commit, and whether code or notebooks differed from it; None where that is not known."""

    commit: str | None = None
    dirty: bool | None = None


class Environment(_Strict):
    """Python, the versions of the packages, and the machine."""

    python: str | None = None
    packages: dict[str, str] = {}
    hardware: dict[str, Any] = {}


class Arrays(_Strict):
    """The file of arrays beside a record, and its hash."""

    file: str
    sha256: str


class Origin(_Strict):
    """Where numbers are from.

    Attributes:
        command: what measures them again.
        parameters: of the run or of the study.
        seeds: with which it was measured; None where there are none, or they are not known.
        inputs: data, weights and recordings, each with its hash.
        questions: by name, such as "training" and "evaluation".
        timing: everything that depends on the clock or on what a cache held.
    """

    command: str
    parameters: dict[str, Any] = {}
    seeds: list[int] | None = None
    inputs: list[Input] = []
    questions: dict[str, QuestionSet] = {}
    code: Code = Field(default_factory=Code)
    environment: Environment | None = None
    timing: dict[str, Any] = {}


class Record(Origin):
    """Everything needed to trace a number to its origin.

    Attributes:
        version: of the schema.
        kind: "run", or the study and the part of it, such as "table2/specialized-default".
        numbers: what came out, by name. Every {mean, ci_low, ci_high, n} is an `Estimate`.
        parts: origins of the parts of `numbers` that were measured apart from each other.
        arrays: of a record with arrays, where they are; see `read_arrays`.
    """

    version: int = VERSION
    kind: str
    numbers: Annotated[dict[str, Any], BeforeValidator(with_estimates)] = {}
    parts: dict[str, Origin] = {}
    arrays: Arrays | None = None

    @classmethod
    def make(cls, **fields: Any) -> Self:
        """A record of what this process has measured: code, environment and time are filled in."""
        here = {"code": provenance.code_version(), "environment": provenance.environment()}
        return cls(**here | {"timing": {"saved_at": provenance.now()}} | fields)

    @classmethod
    def load(cls, path: Path, command: str = "") -> Self:
        """Read a record.

        Args:
            command: what makes it, for the error's sentence; by default what the file itself says.

        Raises:
            ValueError: if it is missing, damaged, of another kind or of a version that cannot be read.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            makes = f": `{command}` makes it" if command else ""
            raise ValueError(f"There is no record {readable(path)}{makes}.") from None
        except (OSError, UnicodeDecodeError):
            text = ""
        said = re.search(r'"command": ("(?:[^"\\]|\\.)*")', text)
        command = command or (json.loads(said[1]) if said else "")
        again = f": `{command}` makes it anew." if command else "."
        try:
            return cls.model_validate(upgraded(json.loads(text)))
        except _OtherVersionError as error:
            raise ValueError(f"The record {readable(path)} {error}{again}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise ValueError(f"The record {readable(path)} is damaged ({where}: {first['msg']}){again}") from None
        except ValueError:
            raise ValueError(f"The record {readable(path)} is missing or damaged{again}") from None

    def save(self, path: Path, arrays: Mapping[str, np.ndarray] | None = None) -> Path:
        """Write the record, whole or not at all, and its arrays in an .npz file beside it.

        The record comes last and knows the arrays' hash, so that both are there, or neither.
        """
        buffer, place = io.BytesIO(), path.with_suffix(".npz")
        if arrays is not None:
            np.savez_compressed(buffer, allow_pickle=False, **dict(arrays))
            self.arrays = Arrays(file=place.name, sha256=hashlib.sha256(buffer.getvalue()).hexdigest())
        text = rows_as_lines(self.to_dict())  # what cannot be written is found before anything is
        path.parent.mkdir(parents=True, exist_ok=True)
        if arrays is not None:
            write_file(place, [buffer.getvalue()])
        write_file(path, [text.encode()])
        return path

    def read_arrays(self, folder: Path) -> dict[str, np.ndarray]:
        """The arrays beside the record, in the record's folder.

        Raises:
            ValueError: if they are missing, or not those that were saved with it.
        """
        if self.arrays is None:
            raise ValueError(f"The record {self.kind} has no arrays: `{self.command}` makes no file of them.")
        path = folder / self.arrays.file
        try:
            content = path.read_bytes()
        except OSError:
            raise ValueError(f"The arrays {readable(path)} are missing: `{self.command}` makes them.") from None
        if hashlib.sha256(content).hexdigest() != self.arrays.sha256:
            raise ValueError(f"{readable(path)} is not of one run with its record: `{self.command}` makes both anew.")
        with np.load(io.BytesIO(content)) as found:
            return {name: found[name] for name in found.files}

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, what it is and where it is from first."""
        values = self.model_dump() | {"numbers": self.numbers}
        order = ("version", "kind", *Origin.model_fields, "parts", "arrays", "numbers")
        return {name: plain_values(values[name]) for name in order if values[name] or name not in ("parts", "arrays")}

    @property
    def num_seeds(self) -> int:
        """Of the seeds; 0 where they are not known."""
        return len(self.seeds or ())


class RunRecord(Record):
    """The record of a run: `numbers` holds metrics, usage, decoding, history and fingerprint.

    Attributes:
        metrics: accuracies and differences, and plain numbers.
        usage: calls and tokens of the agents' language model, questions that the edge LLM read.
        decoding: how the agents' language models draw the replies that they write; empty where they write none.
        history: one row a training iteration.
        fingerprint: hashes of all that these numbers depend on, by name, see `dynagent.runs.experiment.fingerprint`.
    """

    kind: Literal["run"] = "run"

    @model_validator(mode="after")
    def _has_a_runs_numbers(self) -> Self:
        if unknown := self.numbers.keys() - set(RUN_NUMBERS):
            raise ValueError(f"a run has no numbers {min(unknown)!r}")
        return self

    @property
    def metrics(self) -> dict[str, Any]:
        return dict(self.numbers.get("metrics", {}))

    @property
    def usage(self) -> dict[str, Any]:
        return dict(self.numbers.get("usage", {}))

    @property
    def decoding(self) -> dict[str, Any]:
        return dict(self.numbers.get("decoding", {}))

    @property
    def history(self) -> list[dict[str, float]]:
        return list(self.numbers.get("history", []))

    @property
    def fingerprint(self) -> dict[str, str]:
        return dict(self.numbers.get("fingerprint", {}))

    def card(self) -> dict[str, Any]:
        """What a policy's card says of the run, and its `config.json` keeps."""
        values = self.model_dump(include={"parameters", "command", "code", "questions"})
        return plain_values(values | {"sources": self.model_dump()["inputs"], "metrics": self.metrics})


class _OtherVersionError(Exception):
    """A file that is no record of a version that can be read."""


def upgraded(data: Any) -> dict[str, Any]:
    """A record's values as of this version of the schema."""
    if not isinstance(data, dict):
        raise _OtherVersionError("is none of this version of dynagent")
    version = data.get("version", 0)
    if not isinstance(version, int) or version > VERSION:
        raise _OtherVersionError(
            f"has version {version!r}, and this dynagent reads those up to {VERSION}: install a newer one, or"
        )
    if version == 0:
        data = _from_unversioned_run(data)
    return dict(data)


def _from_unversioned_run(data: Mapping[str, Any]) -> dict[str, Any]:
    """Before the schema had a version, runs had their numbers beside all else, and studies had shapes of their own."""
    if not {"parameters", "metrics", "history"} <= data.keys():
        raise _OtherVersionError("is older than this version of dynagent reads")
    values = dict(data)
    numbers = {name: values.pop(name) for name in RUN_NUMBERS if name in values}
    machine = dict(values.pop("environment", {}))
    known = {name: machine.pop(name) for name in ("python", "packages") if name in machine}
    values |= {"inputs": values.pop("sources", []), "seeds": [values["parameters"]["seed"]]}
    return values | {"version": 1, "kind": "run", "numbers": numbers, "environment": known | {"hardware": machine}}


def run_folder(config: RunConfig) -> Path:
    """Where a run is saved: a name that a person can read, and a hash of all parameters that are not the default.

    So a parameter that a later version adds does not change the names of the runs before it.
    """
    defaults = type(config)().identity()
    parameters = {key: value for key, value in config.identity().items() if value != defaults[key]}
    name = f"{config.dataset}-{config.team}-{config.edge_policy}-{config.preset}-seed{config.seed}"
    return resolve_path(config.output_dir) / f"{name}-{provenance.digest(parameters)[:8]}"


def summary(folder: Path) -> str:
    """Where a run was saved and how accurate its wirings are, as lines of text."""
    record = RunRecord.load(folder / "record.json")
    lines = [f"{name:9} {readable(folder / place)}" for name, place in SAVED.items() if (folder / place).exists()]
    lines += ["", f"accuracy on {record.questions['evaluation'].n} held-out questions (95 % interval):"]
    for name, result in record.metrics["wirings"].items():
        accuracy: Estimate = result["accuracy"]
        interval = f"{accuracy.ci_low:.3f} to {accuracy.ci_high:.3f}"
        lines.append(f"  {name:42} {accuracy.mean:.3f}  [{interval}]")
    if answers := record.metrics.get("answers"):
        lines += ["", "answers of the agents: " + ", ".join(f"{count:,} {kind}" for kind, count in answers.items())]
        if "cut off" in answers:
            lines.append(f"  {answers['cut off']:,} replies {CUT_OFF_ADVICE}")
    return "\n".join(lines) + "\n"
