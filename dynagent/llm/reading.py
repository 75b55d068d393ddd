"""What the edge LLM makes of a question: computed once per question, kept on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load, save
from torch import Tensor

from dynagent.artefacts.downloads import write_file, writing
from dynagent.artefacts.sources import cache_dir, computed_by
from dynagent.llm.base import Readable, check_finite
from dynagent.llm.local import READOUTS, TransformersModel
from dynagent.progress import progress


class QuestionReader:
    """A frozen language model that turns questions into feature vectors.

    Attributes:
        forwards: questions that the model has read so far; the others came from the cache.
    """

    def __init__(self, model: TransformersModel, path: Path | None = None) -> None:
        self.model = model
        self.path = path or cache_dir() / "features" / computed_by() / f"{model.identity}.safetensors"
        self.forwards = 0
        self._known: dict[str, Tensor] = {}  # [3, H] for each text, by its hash

    @property
    def name(self) -> str:
        return self.model.source.name

    @property
    def identity(self) -> str:
        return self.model.identity

    @property
    def hidden_size(self) -> int:
        return self.model.hidden_size

    @classmethod
    def load(cls, name: str, **options: Any) -> QuestionReader:
        """By alias, hub id or folder, as in `dynagent.llm.load.load_llm`."""
        return cls(TransformersModel.load(name, **options))

    def read(self, questions: Sequence[Readable], readout: str = "mean_hidden") -> Tensor:
        """Features of the questions: [B, H] float32.

        Args:
            questions: objects with `id` and `render()`.
            readout: one of `dynagent.llm.local.READOUTS`.
        """
        column = _column(readout)
        keys = [_key(question) for question in questions]
        distinct = dict(zip(keys, questions, strict=True))
        if distinct.keys() - self._known.keys():
            self._known = _load(self.path)
        if distinct.keys() - self._known.keys():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with writing(self.path.parent), FileLock(f"{self.path}.lock"):  # a second process waits and finds them
                self._complete(list(distinct), list(distinct.values()))
        return torch.stack([self._known[key][column] for key in keys])

    def _complete(self, keys: list[str], questions: list[Readable]) -> None:
        """Run every batch that lacks a text, and save it in a file of its own until all are in the one file."""
        folder = self.path.with_suffix(".batches")
        self._known = _load(self.path)
        for file in sorted(folder.glob("*.safetensors")):  # of a process that was killed
            self._known |= _load(file)
        batches = self.model.encode_batches([question.render() for question in questions])
        batches = [batch for batch in batches if any(keys[i] not in self._known for i in batch)]
        folder.mkdir(exist_ok=True)
        total = sum(map(len, batches))
        with progress(total=total, desc="reading questions", unit="question", disable=total < 32) as bar:
            for batch in batches:
                states = self.model.encode([questions[i].render() for i in batch])
                stacked = torch.stack([states[name] for name in READOUTS], 1).cpu()  # [B, 3, H]
                check_finite(stacked, [questions[i].id for i in batch], f"The features of {self.identity}")
                fresh = {keys[i]: row for i, row in zip(batch, stacked, strict=True) if keys[i] not in self._known}
                _save(folder / f"{len(self._known):09d}.safetensors", fresh)
                self._known |= fresh
                self.forwards += len(batch)
                bar.update(len(batch))
        _save(self.path, self._known)
        shutil.rmtree(folder, ignore_errors=True)


class RecordedReader:
    """Features that were recorded earlier, for questions whose text need not be here; the model is not loaded.

    Raises:
        ValueError: for a file that is missing, and on reading a question that the file lacks.
    """

    forwards = 0
    command = "make record"

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise ValueError(f"There are no recorded features {path}: `{self.command}` makes them.")
        self.path = path
        self.identity = path.stem
        self.name = path.stem.rsplit("-", 2)[0]  # without hash and dtype
        self._known = self.load(path)
        self.hidden_size = next(iter(self._known.values())).shape[1]

    @staticmethod
    def load(path: Path) -> dict[str, Tensor]:
        """The features in a file by question id, [3, H] each."""
        return _load(path)

    def read(self, questions: Sequence[Readable], readout: str = "mean_hidden") -> Tensor:
        """Features of the questions: [B, H] float32; see `QuestionReader.read`."""
        column = _column(readout)
        missing = [question.id for question in questions if question.id not in self._known]
        if missing:
            raise ValueError(
                f"{len(missing)} questions, the first {missing[0]}, have no features in {self.path}: "
                f"`{self.command}` adds what is missing."
            )
        return torch.stack([self._known[question.id][column] for question in questions]).float()


def save_features(reader: QuestionReader, questions: Sequence[Readable], folder: Path) -> Path:
    """Record the features of the questions in half precision, all readouts, for a `RecordedReader`."""
    stacked = torch.stack([reader.read(questions, readout) for readout in READOUTS], 1)  # [n, 3, H]
    path = folder / f"{reader.identity}.safetensors"
    _save(path, {question.id: row.half() for question, row in zip(questions, stacked, strict=True)})
    return path


def _key(question: Readable) -> str:
    """By what is read: the same question in another wording is another text."""
    return hashlib.sha256(question.render().encode()).hexdigest()[:32]


def _column(readout: str) -> int:
    if readout not in READOUTS:
        raise ValueError(f"The readout is one of {', '.join(READOUTS)}, not {readout!r}.")
    return READOUTS.index(readout)


def read_at_once(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file that another process may replace at any time.

    `safe_open` opens the file twice, once for its header and once for its data, which can then be of two files.
    """
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return load(content), json.loads(content[8:end])["__metadata__"]


def _load(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        return {}
    tensors, metadata = read_at_once(path)
    return dict(zip(json.loads(metadata["ids"]), tensors["features"], strict=True))


def _save(path: Path, features: dict[str, Tensor]) -> None:
    tensors = {"features": torch.stack(list(features.values()))}
    write_file(path, [save(tensors, {"ids": json.dumps(list(features))})])
