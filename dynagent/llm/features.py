"""What the edge LLM makes of a question: computed once per question, kept on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from dynagent.downloads import write_file
from dynagent.llm.transformers import READOUTS, TransformersModel
from dynagent.progress import progress
from dynagent.sources import cache_dir


class _Reader:
    """Features by question id, [3, H] each; what has none is completed in the way of the subclass."""

    forwards = 0

    def __init__(self, path: Path, name: str, identity: str) -> None:
        self.path, self.name, self.identity = path, name, identity
        self._known: dict[str, Tensor] = {}

    def read(self, questions: Sequence[Any], readout: str = "mean_hidden") -> Tensor:
        """Features of the questions: [B, H] float32.

        Args:
            questions: objects with `id` and `render()`.
            readout: one of `dynagent.llm.transformers.READOUTS`.
        """
        if readout not in READOUTS:
            raise ValueError(f"The readout is one of {', '.join(READOUTS)}, not {readout!r}.")
        distinct = {question.id: question for question in questions}
        if distinct.keys() - self._known.keys():
            self._complete(distinct)
        return torch.stack([self._known[question.id][READOUTS.index(readout)] for question in questions])

    def _complete(self, questions: dict[str, Any]) -> None:
        raise NotImplementedError


class QuestionReader(_Reader):
    """A frozen language model that turns questions into feature vectors.

    Attributes:
        forwards: questions that the model has read so far; the others came from the cache.
    """

    def __init__(self, model: TransformersModel, path: Path | None = None) -> None:
        path = path or cache_dir() / "features" / f"{model.identity}.safetensors"
        super().__init__(path, model.source.name, model.identity)
        self.model = model
        self.hidden_size = model.hidden_size

    @classmethod
    def load(cls, name: str, **options: Any) -> QuestionReader:
        """By alias, hub id or folder, as in `dynagent.llm.load_llm`."""
        return cls(TransformersModel.load(name, **options))

    def _complete(self, questions: dict[str, Any]) -> None:
        self._known = _load(self.path)
        if questions.keys() - self._known.keys():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock"):  # a second process waits and then finds the features
                self._known = _load(self.path)
                self._compute(list(questions.values()), self._known)
                _save(self.path, self._known)

    def _compute(self, questions: list[Any], known: dict[str, Tensor]) -> None:
        """Run every batch that lacks a question, and add what was missing."""
        batches = self.model.encode_batches([question.render() for question in questions])
        batches = [batch for batch in batches if any(questions[i].id not in known for i in batch)]
        num_missing = sum(map(len, batches))
        with progress(total=num_missing, desc="reading questions", unit="question") as bar:
            for batch in batches:
                states = self.model.encode([questions[i].render() for i in batch])
                stacked = torch.stack([states[name] for name in READOUTS], 1).cpu()  # [B, 3, H]
                for i, features in zip(batch, stacked, strict=True):
                    known.setdefault(questions[i].id, features)
                self.forwards += len(batch)
                bar.update(len(batch))


class RecordedReader(_Reader):
    """Features that were recorded earlier, for questions whose text need not be here; the model is not loaded.

    Raises:
        ValueError: for a file that is missing, and on reading a question that the file lacks.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise ValueError(f"There are no recorded features {path}: `make record` makes them.")
        super().__init__(path, path.stem.rsplit("-", 2)[0], path.stem)  # the name is without hash and dtype
        self._known = {question: features.float() for question, features in _load(path).items()}
        self.hidden_size = next(iter(self._known.values())).shape[1]

    def _complete(self, questions: dict[str, Any]) -> None:
        missing = [question for question in questions if question not in self._known]
        raise ValueError(
            f"{len(missing)} questions, the first {missing[0]}, have no features in {self.path}: "
            "`make record` adds what is missing."
        )


def save_features(reader: QuestionReader, questions: Sequence[Any], folder: Path) -> Path:
    """Record the features of the questions in half precision, all readouts, for a `RecordedReader`."""
    stacked = torch.stack([reader.read(questions, readout) for readout in READOUTS], 1)  # [n, 3, H]
    path = folder / f"{reader.identity}.safetensors"
    _save(path, {question.id: row.half() for question, row in zip(questions, stacked, strict=True)})
    return path


def _load(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        return {}
    with safe_open(path, "pt") as file:
        return dict(zip(json.loads(file.metadata()["ids"]), file.get_tensor("features"), strict=True))


def _save(path: Path, features: dict[str, Tensor]) -> None:
    tensors = {"features": torch.stack(list(features.values()))}
    write_file(path, [save(tensors, {"ids": json.dumps(list(features))})])
