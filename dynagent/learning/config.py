"""The parameters of the training loop, and which values do not go together."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator

from dynagent.learning.objectives import OBJECTIVES
from dynagent.parameters import Count, CountOrZero, OneOf, Parameters, Positive, PositiveOrZero

STREAMS = ("data", "graphs", "init", "evaluation")

EstimatorName = Annotated[str, OneOf(OBJECTIVES)]
HeldOut = Annotated[
    float,
    Field(ge=0, le=0.5, description="a finite number from 0 to 0.5 (it holds out at most half of the questions)"),
]


class TrainConfig(Parameters):
    """The training loop's part of a run.

    Attributes:
        num_iterations: optimiser steps, or "auto": one pass over the questions. A second pass meets answers that the
            policy has already seen, and overfits them.
        batch_size: questions an optimiser step, over all processes and micro-batches together.
        gradient_accumulation_steps: micro-batches into which every process splits its share of a batch. It changes how
            much memory a step needs, and numbers by no more than rounding.
        graphs_per_question: K, graphs drawn for each question of a batch.
        estimator: the name of one of `dynagent.learning.objectives.OBJECTIVES`; "reinforce" is as published.
        learning_rate, optimizer: "adam" or "sgd".
        backbone_learning_rate: of the edge LLM's own weights or adapters, where they are trained.
        bias_speed: the learning rate of the bias over that of the weights, for an edge policy that reads questions.
            Above 1, what holds for all questions is learned first: it helps where agents are hard to tell apart and
            the best of them are the same on all questions, and harms where they are not.
        schedule: of the learning rate: "constant", or falling to zero, "linear" or "cosine".
        early_stopping: share of the training questions that is held out to choose the best of 20 moments of the
            training, by the utility of the most probable graphs; 0 keeps the last.
        sparsity: weight of the expected number of edges in the loss.
        penalise: the edges whose number that is: "decided" (those of `decide`), "effective" or "all".
        cost_weight: what the tokens of the full graph cost, in units of accuracy; a graph's share of them is taken off
            its utility.
        order, decide: see `dynagent.sampling.sample_dags`.
        mixed_precision: "no" or "bf16", of Accelerate.
        seed: of data order, graphs, agents' draws and initialisation, each with a generator of its own.
    """

    num_iterations: Count | Literal["auto"] = "auto"
    batch_size: Count = 4
    gradient_accumulation_steps: Count = 1
    graphs_per_question: Count = 16
    estimator: EstimatorName = "exact"
    learning_rate: Positive = 0.03
    backbone_learning_rate: Positive = 1e-4
    bias_speed: Positive = 1.0
    optimizer: Literal["adam", "sgd"] = "adam"
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    early_stopping: HeldOut = 0.0
    sparsity: PositiveOrZero = 0.0
    penalise: Literal["decided", "effective", "all"] = "decided"
    cost_weight: PositiveOrZero = 0.0
    order: Literal["random", "fixed"] = "random"
    decide: Literal["effective", "all"] = "effective"
    mixed_precision: Literal["no", "bf16"] = "no"
    seed: CountOrZero = 0

    @model_validator(mode="after")
    def _graphs_to_compare(self) -> Self:
        OBJECTIVES[self.estimator].check_number_of_graphs(self.graphs_per_question)
        return self

    def steps(self, num_questions: int) -> int:
        """Optimiser steps of a training on so many questions."""
        if isinstance(self.num_iterations, int):
            return self.num_iterations
        return max(1, num_questions // self.batch_size)

    def stream(self, name: str) -> int:
        """The seed of one of the run's independent random generators, by the name of what it draws."""
        return self.seed * len(STREAMS) + STREAMS.index(name)

    def generator(self, name: str) -> torch.Generator:
        """A new generator at the start of a stream."""
        return torch.Generator().manual_seed(self.stream(name))
