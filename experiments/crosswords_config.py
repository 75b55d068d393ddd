"""The parameters of a crosswords run, its presets, and every way in which they can be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from dynagent.config import notebook_parameters, over_preset
from dynagent.solvers import JUDGES
from dynagent.train_config import TrainConfig

SIMULATED = "simulated"
PUZZLES = ("disjoint", "same")
READOUTS = ("last_hidden", "mean_hidden", "mean_embedding")
# The published recipe, whatever answers: one graph a puzzle, a constant baseline, raw hidden states, a random head.
PUBLISHED: dict[str, Any] = {
    "num_iterations": 40,
    "graphs_per_question": 1,
    "estimator": "constant_baseline",
    "learning_rate": 1e-4,
    "static_learning_rate": 0.4,
    "bias_speed": 1.0,
    "order": "fixed",
    "decide": "all",
    "readout": "last_hidden",
    "standardize": False,
    "head_init": "default",
}
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"num_iterations": 5, "graphs_per_question": 4, "num_draws": 1},
    "laptop": {},
    "paper": PUBLISHED
    | {
        "judge": "oracle",
        "puzzles": "same",
        "agent_llm": "meta-llama/Meta-Llama-3-8B-Instruct",
        "edge_llm": "google/gemma-2b",
        "max_new_tokens": 1000,
    },
}


@dataclass(frozen=True, kw_only=True)
class CrosswordsConfig(TrainConfig):
    """All parameters of a crosswords run.

    Attributes:
        judge: of the decision, in training and evaluation: "self_judged" or "oracle" (`dynagent.solvers.ReturnAll`).
        puzzles: "disjoint" (136 to train, 20 to evaluate) or "same": the paper's 20 for both, as published.
        data_source: "package" (pinned) or a folder with `mini0505.json`.
        agent_llm: "simulated", or alias, hub id or folder of a language model.
        edge_llm: "recorded" (features on record), or alias, hub id or folder.
        learning_rate, static_learning_rate: of the dynamic and of the static policy.
        initial_probability: of every edge before training.
        readout, standardize, head_init: see `dynagent.policy.EdgePolicy`.
        max_new_tokens: of a reply of a language model.
        num_draws: draws of what the simulated solver knows, over which held-out puzzles are averaged.
    """

    num_iterations: int | str = 160
    batch_size: int = 5
    graphs_per_question: int = 16
    estimator: str = "leave_one_out"
    learning_rate: float = 0.1
    static_learning_rate: float = 0.2
    bias_speed: float = 3.0
    preset: str = "laptop"
    judge: str = "self_judged"
    puzzles: str = "disjoint"
    data_source: str = "package"
    agent_llm: str = SIMULATED
    edge_llm: str = "recorded"
    initial_probability: float = 0.1
    readout: str = "mean_embedding"
    standardize: bool = True
    head_init: str = "zero"
    max_new_tokens: int = 100
    num_draws: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of("preset", tuple(PRESETS))
        self._one_of("judge", JUDGES)
        self._one_of("puzzles", PUZZLES)
        self._one_of("readout", READOUTS)
        self._one_of("head_init", ("zero", "default"))
        self._real("static_learning_rate", above=0)
        self._real("initial_probability", above=0)
        if self.initial_probability >= 1:
            raise ValueError(f"initial_probability lies strictly between 0 and 1, not {self.initial_probability!r}.")
        for name in ("max_new_tokens", "num_draws"):
            self._whole(name, at_least=1)
        for name in ("data_source", "agent_llm", "edge_llm"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"{name} has to be a text that is not empty, not {getattr(self, name)!r}.")
        if not isinstance(self.standardize, bool):
            raise ValueError(f"standardize has to be true or false, not {self.standardize!r}.")
        if self.estimator in ("exact", "local_expectation"):
            raise ValueError(
                f"estimator {self.estimator!r} is for agents that do not read each other: choose 'leave_one_out'."
            )

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> CrosswordsConfig:
        """The preset's values, overridden by the parameters that are not None.

        Raises:
            ValueError: for an unknown name (with the nearest known one) or a bad value.
        """
        return cls(**over_preset(parameters, PRESETS, {field.name for field in fields(cls)}))

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> CrosswordsConfig:
        """The parameters of a notebook, from its `globals()`; see `RunConfig.from_notebook`."""
        return cls.from_parameters(notebook_parameters(namespace, {field.name for field in fields(cls)}))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
