"""The state of a training on disk: written whole or not at all, so that a killed run goes on to the same bits."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from dynagent.artefacts.downloads import write_file, writing
from dynagent.execution.runner import ExecutesGraphs
from dynagent.llm.reading import read_at_once
from dynagent.policies.base import Policy

EVERY = 30.0  # seconds of a training between two checkpoints
SHARE = 0.05  # of a training's time that writing them takes at most
TENSOR = "tensor in this file"  # stands in the JSON for one, with its name


@dataclass
class TrainingState:
    """All that changes while a policy is trained.

    The order of the questions and the agents' draws are functions of the seed and have no state of their own.

    Attributes:
        policy, optimizer, schedule: as they are after the last step.
        generator: of the graphs.
        runner: what the agents have said so far, see `dynagent.execution.answers.Answers.state`.
        rows: of the history, one for each step that was taken: their number is where the data's order goes on.
        average: the moving average of the utility, which is the baseline of an estimator.
        best: score and weights of early stopping's best moment so far.
    """

    policy: Policy
    optimizer: Any
    schedule: Any
    generator: torch.Generator
    runner: ExecutesGraphs[Any]
    rows: list[dict[str, float]] = field(default_factory=list)
    average: Tensor | None = None
    best: tuple[float, dict[str, Tensor]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The state as nested lists and dictionaries of tensors and JSON values."""
        return {
            "policy": self.policy.own_tensors(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "runner": self.runner.state(),
            "rows": self.rows,
            "average": self.average,
            "best": self.best,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Put everything back where `to_dict` had it."""
        self.policy.load_state_dict(saved["policy"], strict=False)  # a frozen language model is not in it
        moments = {int(index): entry for index, entry in saved["optimizer"]["state"].items()}  # JSON's keys are texts
        self.optimizer.load_state_dict(saved["optimizer"] | {"state": moments})
        self.schedule.load_state_dict(saved["schedule"])
        self.generator.set_state(saved["generator"])
        self.runner.restore(saved["runner"])
        self.rows, self.average, self.best = saved["rows"], saved["average"], saved["best"]
        if self.average is not None:
            self.average = self.average.to(next(self.policy.parameters()).device)


@dataclass
class Checkpoint:
    """A file with a training's state: tensors, and the rest as JSON in its header; nothing in it is a pickle.

    Attributes:
        path: of the file. Writing replaces it at once, so that there is always a whole one.
        run: names and hashes of all that the training's numbers depend on. Another run's state is not resumed.
        resume: whether a training that is found in the file goes on; without, it begins anew.
    """

    path: Path
    run: Mapping[str, str]
    resume: bool = True
    _saved: float = 0.0  # by the clock
    _seconds: float = 0.0  # that the last one took

    def extended(self, run: Mapping[str, str]) -> Self:
        """The same checkpoint of a training whose numbers depend on more than it was made with."""
        return replace(self, run={**self.run, **run})

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last one. It decides nothing but how much a kill can cost."""
        return time.monotonic() - self._saved >= max(EVERY, self._seconds / SHARE)

    def load(self, state: TrainingState) -> None:
        """Bring the state to where the file has it; without a file nothing changes.

        Raises:
            ValueError: for a file that is damaged, or holds an unfinished training of another run, say of other code.
        """
        if not self.resume or not self.path.exists():
            return
        try:
            tensors, metadata = read_at_once(self.path)
            saved = json.loads(
                metadata["header"],
                object_hook=lambda value: tensors[value[TENSOR]] if TENSOR in value else value,
            )
        except (SafetensorError, ValueError, KeyError, TypeError):
            raise ValueError(f"The checkpoint {self.path} is damaged: set resume to false to train anew.") from None
        changed = [name for name in self.run if saved["run"].get(name) != self.run[name]]
        num_done = len(saved["state"]["rows"])
        if not changed:
            state.restore(saved["state"])
        elif 0 < num_done < saved["num_iterations"]:
            raise ValueError(
                f"The checkpoint {self.path} has {num_done} iterations of a run with another "
                f"{' and another '.join(changed)}: bring that back to go on, or set resume to false to train anew."
            )

    def save(self, state: TrainingState, num_iterations: int) -> None:
        """Write the state to the disk, in place of what the file had.

        Raises:
            OSError: in one sentence, if the disk is full; the file is then as it was.
        """
        begun = time.monotonic()
        tensors: dict[str, Tensor] = {}

        def placed(tensor: Tensor) -> dict[str, str]:
            tensors[str(len(tensors))] = tensor.detach().cpu().contiguous()
            return {TENSOR: str(len(tensors) - 1)}

        header = {"run": self.run, "num_iterations": num_iterations, "state": state.to_dict()}
        text = json.dumps(header, default=placed)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with writing(self.path.parent):
            write_file(self.path, [save(tensors, {"header": text})])
        self._saved = time.monotonic()
        self._seconds = self._saved - begun
