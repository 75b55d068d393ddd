"""The parameters of a crosswords run, its presets, and which values do not go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from dynagent.learning.config import EstimatorName, TrainConfig
from dynagent.learning.objectives import OBJECTIVES
from dynagent.llm.local import Readout
from dynagent.parameters import Count, EdgeProbability, Positive
from dynagent.team.crosswords import Judge

SIMULATED = "simulated"
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


class CrosswordsConfig(TrainConfig):
    """All parameters of a crosswords run.

    Attributes:
        judge: of the decision, in training and evaluation: "self_judged" or "oracle", see
            `dynagent.team.crosswords.ReturnAll`.
        puzzles: "disjoint" (136 to train, 20 to evaluate) or "same": the paper's 20 for both, as published.
        data_source: "package" (pinned) or a folder with `mini0505.json`.
        agent_llm: "simulated", or alias, hub id or folder of a language model.
        edge_llm: "recorded" (features on record), or alias, hub id or folder.
        learning_rate, static_learning_rate: of the dynamic and of the static policy.
        initial_probability: of every edge before training.
        readout, standardize, head_init: see `dynagent.policies.edge.EdgePolicy`.
        max_new_tokens: of a reply of a language model.
        num_draws: draws of what the simulated solver knows, over which held-out puzzles are averaged.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    num_iterations: Count | Literal["auto"] = 160
    batch_size: Count = 5
    graphs_per_question: Count = 16
    estimator: EstimatorName = "leave_one_out"
    learning_rate: Positive = 0.1
    static_learning_rate: Positive = 0.2
    bias_speed: Positive = 3.0
    preset: Literal["smoke", "laptop", "paper"] = "laptop"
    judge: Judge = "self_judged"
    puzzles: Literal["disjoint", "same"] = "disjoint"
    data_source: str = "package"
    agent_llm: str = SIMULATED
    edge_llm: str = "recorded"
    initial_probability: EdgeProbability = 0.1
    readout: Readout = "mean_embedding"
    standardize: bool = True
    head_init: Literal["zero", "default"] = "zero"
    max_new_tokens: Count = 100
    num_draws: Count = 10

    @model_validator(mode="after")
    def _readers_need_graphs(self) -> Self:
        if not OBJECTIVES[self.estimator].takes_readers:
            raise ValueError(
                f"estimator {self.estimator!r} is for agents that do not read each other: choose 'leave_one_out'."
            )
        return self
