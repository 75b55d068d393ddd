"""The parameters of the training loop, and every way in which they can be wrong."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from dynagent.estimators import ESTIMATORS

STREAMS = ("data", "graphs", "init", "evaluation")


def nearest(name: object, known: Collection[str]) -> str:
    """A hint for an unknown name: the closest known one, and all of them."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}Known: {', '.join(sorted(known))}."


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop's part of a run.

    Attributes:
        num_iterations: optimiser steps, or "auto": one pass over the questions. A second pass meets answers that are
            already known by heart.
        batch_size: questions an optimiser step, over all processes and micro-batches together.
        gradient_accumulation_steps: micro-batches into which every process splits its share of a batch. It changes how
            much memory a step needs, and numbers by no more than rounding.
        graphs_per_question: K, graphs drawn for each question of a batch.
        estimator: see `dynagent.estimators`; "reinforce" is as published.
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

    num_iterations: int | str = "auto"
    batch_size: int = 4
    gradient_accumulation_steps: int = 1
    graphs_per_question: int = 16
    estimator: str = "exact"
    learning_rate: float = 0.03
    backbone_learning_rate: float = 1e-4
    bias_speed: float = 1.0
    optimizer: str = "adam"
    schedule: str = "constant"
    early_stopping: float = 0.0
    sparsity: float = 0.0
    penalise: str = "decided"
    cost_weight: float = 0.0
    order: str = "random"
    decide: str = "effective"
    mixed_precision: str = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_iterations != "auto":
            self._whole("num_iterations", at_least=1, or_else=" or 'auto'")
        for name in ("batch_size", "gradient_accumulation_steps", "graphs_per_question"):
            self._whole(name, at_least=1)
        self._whole("seed", at_least=0)
        reals = ("learning_rate", "backbone_learning_rate", "bias_speed", "sparsity", "cost_weight", "early_stopping")
        for name in (*reals, "temperature", "initial_probability"):
            if type(getattr(self, name, None)) is int:  # 1 and 1.0 are the same run
                object.__setattr__(self, name, float(getattr(self, name)))
        self._real("learning_rate", above=0)
        self._real("backbone_learning_rate", above=0)
        self._real("bias_speed", above=0)
        self._real("sparsity", at_least=0)
        self._real("cost_weight", at_least=0)
        self._real("early_stopping", at_least=0)
        if self.early_stopping > 0.5:
            raise ValueError(f"early_stopping holds out at most half of the questions, not {self.early_stopping}.")
        self._one_of("estimator", ESTIMATORS)
        self._one_of("optimizer", ("adam", "sgd"))
        self._one_of("schedule", ("constant", "linear", "cosine"))
        self._one_of("order", ("random", "fixed"))
        self._one_of("decide", ("effective", "all"))
        self._one_of("penalise", ("decided", "effective", "all"))
        self._one_of("mixed_precision", ("no", "bf16"))
        if self.estimator == "leave_one_out" and self.graphs_per_question < 2:
            raise ValueError(
                "The estimator 'leave_one_out' compares the graphs of one question: set graphs_per_question to 2 "
                "or more, or choose another estimator."
            )

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

    def _whole(self, name: str, at_least: int, or_else: str = "") -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value < 2**32:
            raise ValueError(f"{name} has to be a whole number of {at_least} or more{or_else}, not {value!r}.")

    def _real(self, name: str, at_least: float | None = None, above: float = float("-inf")) -> None:
        value = getattr(self, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not above < value < float("inf") or (at_least is not None and value < at_least):
            bound = f"of {at_least} or more" if at_least is not None else f"above {above}"
            raise ValueError(f"{name} has to be a finite number {bound}, not {value!r}.")

    def _one_of(self, name: str, known: Sequence[str]) -> None:
        value = getattr(self, name)
        if value not in known:
            raise ValueError(f"{name} {value!r} is not known; {nearest(value, known)}")
