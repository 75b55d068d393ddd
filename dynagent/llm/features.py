"""What the edge LLM makes of a question: computed once per question, kept on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dynagent.llm.transformers import READOUTS, TransformersModel
from dynagent.progress import progress
from dynagent.sources import cache_dir


class QuestionReader:
    """A frozen language model that turns questions into feature vectors.

    Attributes:
        forwards: questions that the model has read so far; the others came from the cache.
    """

    def __init__(self, model: TransformersModel, path: Path | None = None) -> None:
        self.model = model
        self.path = path or cache_dir() / "features" / f"{model.identity}.safetensors"
        self.forwards = 0
        self._known: dict[str, Tensor] = {}  # [3, H] for each question id

    @classmethod
    def load(cls, name: str, **options: Any) -> QuestionReader:
        """By alias, hub id or folder, as in `dynagent.llm.load_llm`."""
        return cls(TransformersModel.load(name, **options))

    def read(self, questions: Sequence[Any], readout: str = "last_hidden") -> Tensor:
        """Features of the questions: [B, H] float32.

        Args:
            questions: objects with `id` and `render()`.
            readout: one of `dynagent.llm.transformers.READOUTS`.
        """
        if readout not in READOUTS:
            raise ValueError(f"The readout is one of {', '.join(READOUTS)}, not {readout!r}.")
        distinct = {question.id: question for question in questions}
        if distinct.keys() - self._known.keys():
            self._known = _load(self.path)
        if distinct.keys() - self._known.keys():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock"):  # a second process waits and then finds the features
                self._known = _load(self.path)
                self._compute(list(distinct.values()), self._known)
                _save(self.path, self._known)
        return torch.stack([self._known[question.id][READOUTS.index(readout)] for question in questions])

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


def _load(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        return {}
    with safe_open(path, "pt") as file:
        return dict(zip(json.loads(file.metadata()["ids"]), file.get_tensor("features"), strict=True))


def _save(path: Path, features: dict[str, Tensor]) -> None:
    temporary = path.with_suffix(".tmp")
    save_file({"features": torch.stack(list(features.values()))}, temporary, {"ids": json.dumps(list(features))})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
