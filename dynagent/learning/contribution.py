"""What an objective takes, a batch of questions, and what it gives, their contribution to a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dynagent.execution.utility import Ballots


@dataclass(frozen=True)
class Draws:
    """K graphs drawn for each of B questions.

    Attributes:
        log_prob: [..., B, K], differentiable in the edge logits.
        utility: [..., B, K], net of what the graph costs.
        reaching: [..., B, K, N] bool, the nodes from which a path leads to the decision.
    """

    log_prob: Tensor
    utility: Tensor
    reaching: Tensor


class Batch(Protocol):
    """B questions, as an objective sees them; `dynagent.learning.batch.QuestionBatch` has them from a runner.

    Axes written as ... are seeds that are trained side by side; a training by itself has none.
    """

    @property
    def noise(self) -> Tensor:
        """[..., B, K, 2, E] uniform numbers, see `dynagent.sampling.edge_noise`."""

    @property
    def penalised(self) -> Tensor:
        """[E] bool, the edges whose expected number is penalised."""

    @property
    def sparsity(self) -> float:
        """Weight of this number in the loss."""

    @property
    def cost_weight(self) -> float:
        """What the tokens of the full graph cost, in units of utility."""

    def into_decision(self, values: Tensor) -> Tensor:
        """Of values [..., E] those of the edges into the decision: [..., N]."""

    def draw(self, edge_logits: Tensor) -> Draws:
        """Draw K graphs a question by the noise and run them."""

    def ballots(self, device: torch.device) -> Ballots:
        """What every agent would vote, on a device."""


@dataclass(frozen=True)
class Contribution:
    """What a batch contributes to a step. All but the loss is without gradient.

    Attributes:
        loss: [...], for each seed the mean over the batch, differentiable in the edge logits.
        utility: [..., B, K], net of costs; an expectation, K = 1, where the objective has it.
        baseline: [..., B, K], what was subtracted.
        edge_probs: [..., B, E].
        reaching: [..., B, K, N] bool, the nodes from which a path led to the decision; all, where all graphs count.
    """

    loss: Tensor
    utility: Tensor
    baseline: Tensor
    edge_probs: Tensor
    reaching: Tensor
