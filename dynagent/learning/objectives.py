"""What a training step minimises: one object for each estimator of the gradient of the expected utility.

    contribution = OBJECTIVES["reinforce"](edge_logits, batch)
    contribution.loss.backward()

Two families stand side by side. `Reinforce` draws graphs, as published, and weighs the gradient of their
log-probability with their utility minus a baseline. `ExactExpectation` and `LocalExpectation` differentiate the
expected utility itself, which is what REINFORCE estimates. They are for agents that do not read each other: who votes
is then all that matters, and answers that were paid for once score every graph.

To every loss is added `sparsity` times the expected number of edges.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynagent.execution.utility import Ballots, check_enumerable
from dynagent.graph import AgentGraph
from dynagent.learning.baselines import (
    Baseline,
    average_of_batches_before,
    average_of_other_graphs,
    check_comparable,
    constant_baseline,
    no_baseline,
)
from dynagent.learning.contribution import Batch, Contribution
from dynagent.team.protocols import ClosedFormDecision


@dataclass(frozen=True)
class Estimate:
    """An objective's own part of a contribution, without the penalty. All but the loss is without gradient."""

    loss: Tensor
    utility: Tensor
    baseline: Tensor
    reaching: Tensor


@dataclass(frozen=True)
class Objective(ABC):
    """An estimator of the gradient of the expected utility.

    Attributes:
        stays_on_device: whether the loss is computed where the logits are, so that the host need not wait for them;
            else graphs are drawn and run on the host.
        takes_readers: whether agents may read each other, so that edges between them matter.
    """

    stays_on_device: ClassVar[bool]
    takes_readers: ClassVar[bool]

    def __call__(self, edge_logits: Tensor, batch: Batch, average: Tensor | None = None) -> Contribution:
        """A batch's loss, with the penalty on edges, and what is measured on the way.

        Args:
            edge_logits: [..., B, E].
            average: [...], the moving average of the utility of the batches before; None before the first.
        """
        edge_probs = edge_logits.sigmoid()
        estimate = self.estimate(edge_logits, edge_probs, batch, average)
        penalty = batch.sparsity * sparsity_penalty(edge_probs, _on(edge_probs, batch.penalised))
        loss = estimate.loss + penalty
        return Contribution(loss, estimate.utility, estimate.baseline, edge_probs.detach(), estimate.reaching)

    @abstractmethod
    def estimate(self, edge_logits: Tensor, edge_probs: Tensor, batch: Batch, average: Tensor | None) -> Estimate:
        """The loss of a batch, [...], whose gradient is that of minus the expected utility, on average.

        Args:
            edge_logits, edge_probs: [..., B, E]; the latter is the sigmoid of the former.
            average: see `__call__`.
        """

    @abstractmethod
    def num_graphs(self, graphs_per_question: int) -> int:
        """K, the graphs for which noise is drawn, of the number that the configuration allows."""

    def check_number_of_graphs(self, graphs_per_question: int) -> None:
        """Raise ValueError for a number of graphs a question from which the objective cannot learn."""
        if self.compares_graphs:
            check_comparable(graphs_per_question)

    def check_graph(self, graph: AgentGraph) -> None:
        """Raise ValueError for a team that the objective cannot train."""
        if not self.takes_readers and any(operation.reads for operation in graph.operations):
            raise ValueError(
                "The estimators 'exact' and 'local_expectation' are for agents that do not read each other: choose "
                "'leave_one_out' for this team."
            )

    @property
    def compares_graphs(self) -> bool:
        """Whether each graph is compared with the other graphs of its question."""
        return False

    @property
    def is_published(self) -> bool:
        """Whether this is the paper's own estimator; the published recipe asks all agents anew for every graph."""
        return False


# --- graphs that were drawn --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reinforce(Objective):
    """REINFORCE: minus the mean of (utility - baseline) x log-probability of the drawn graphs.

    The paper has no baseline (arXiv 2406.11555, edge optimisation).
    """

    stays_on_device = False
    takes_readers = True
    baseline: Baseline = no_baseline

    def estimate(self, edge_logits: Tensor, edge_probs: Tensor, batch: Batch, average: Tensor | None) -> Estimate:
        draws = batch.draw(edge_logits)
        baseline = self.baseline(draws.utility, average)  # [..., B, K]
        advantage = draws.utility - baseline
        loss = policy_loss(draws.log_prob, advantage)
        return Estimate(loss, draws.utility, baseline, draws.reaching)

    def num_graphs(self, graphs_per_question: int) -> int:
        return graphs_per_question

    @property
    def compares_graphs(self) -> bool:
        return self.baseline is average_of_other_graphs

    @property
    def is_published(self) -> bool:
        return self.baseline is no_baseline


def policy_loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """REINFORCE: minus the mean of advantage x log-probability, [...] from [..., B, K].

    The advantage is a constant to the gradient.
    """
    return -(advantage.detach() * log_prob).mean((-2, -1))


# --- all graphs --------------------------------------------------------------------------------------------------


class Expectation(Objective):
    """Minus the expected utility over all graphs, less the expected cost: for agents that do not read each other."""

    stays_on_device = True
    takes_readers = False

    def estimate(self, edge_logits: Tensor, edge_probs: Tensor, batch: Batch, average: Tensor | None) -> Estimate:
        ballots = batch.ballots(edge_probs.device)
        vote_probs = batch.into_decision(edge_probs)  # [..., B, N]
        expected = self.expected_utility(vote_probs, ballots, batch)
        utility = expected - ballots.expected_cost(vote_probs, batch.cost_weight)  # [..., B]
        loss = -utility.mean(-1)
        utility = utility.detach()[..., None]  # [..., B, 1]
        everybody = torch.ones_like(vote_probs, dtype=torch.bool)[..., None, :]  # [..., B, 1, N]
        return Estimate(loss, utility, torch.zeros_like(utility), everybody)

    @abstractmethod
    def expected_utility(self, vote_probs: Tensor, ballots: Ballots, batch: Batch) -> Tensor:
        """The utility averaged over who votes, differentiable: [..., B] from vote_probs [..., B, N]."""


class ExactExpectation(Expectation):
    """The expected utility itself: in closed form where the decision has one, else over all 2^N graphs."""

    def expected_utility(self, vote_probs: Tensor, ballots: Ballots, batch: Batch) -> Tensor:
        return ballots.expected_utility(vote_probs)

    def num_graphs(self, graphs_per_question: int) -> int:
        return 0

    def check_graph(self, graph: AgentGraph) -> None:
        super().check_graph(graph)
        if not isinstance(graph.decision, ClosedFormDecision):
            check_enumerable(int(graph.decision_edges.sum()))


class LocalExpectation(Expectation):
    """For each edge the utility with it minus that without it, the other edges being drawn."""

    def expected_utility(self, vote_probs: Tensor, ballots: Ballots, batch: Batch) -> Tensor:
        noise = batch.into_decision(batch.noise[..., 0, :])  # [..., B, K, N]
        return local_expectation(vote_probs, ballots.utility, _on(vote_probs, noise))

    def num_graphs(self, graphs_per_question: int) -> int:
        return graphs_per_question


def local_expectation(vote_probs: Tensor, utility_of: Callable[[Tensor], Tensor], noise: Tensor) -> Tensor:
    """An estimate of the expected utility, right on average and so is its gradient: [...].

    For each edge only the others are drawn; the edge itself is taken both ways (local expectation gradients,
    Titsias and Lazaro-Gredilla 2015). It costs 2 N scorings a graph and no answer.

    Args:
        vote_probs: [..., N], the probabilities of the edges into the decision.
        utility_of: from who votes, [..., K, N] bool, to the utility, [..., K].
        noise: [..., K, N] uniform numbers.
    """
    num_edges = vote_probs.shape[-1]
    votes = (noise < vote_probs.detach()[..., None, :])[..., None, :].expand(*noise.shape, num_edges)  # [..., K, N, N]
    itself = torch.eye(num_edges, dtype=torch.bool, device=votes.device)

    def mean_utility(votes: Tensor) -> Tensor:
        """Over the graphs: [..., N] from [..., K, N, N]."""
        return utility_of(votes.flatten(-3, -2)).view(noise.shape).mean(-2)

    with_edge, without = mean_utility(votes | itself), mean_utility(votes & ~itself)
    probs = vote_probs.detach()
    estimate = (probs * with_edge + (1 - probs) * without).mean(-1)
    return estimate + ((vote_probs - probs) * (with_edge - without)).sum(-1)  # adds nothing but the gradient


# --- by name -----------------------------------------------------------------------------------------------------

# In order of falling variance.
OBJECTIVES: dict[str, Objective] = {
    "reinforce": Reinforce(),
    "constant_baseline": Reinforce(constant_baseline),
    "moving_average": Reinforce(average_of_batches_before),
    "leave_one_out": Reinforce(average_of_other_graphs),
    "local_expectation": LocalExpectation(),
    "exact": ExactExpectation(),
}


def sparsity_penalty(edge_probs: Tensor, penalised: Tensor) -> Tensor:
    """Mean over the batch of the expected number of penalised edges: [...].

    Args:
        edge_probs: [..., B, E].
        penalised: [E] bool.
    """
    return (edge_probs * penalised).sum(-1).mean(-1)


def _on(where: Tensor, values: Tensor) -> Tensor:
    """The values on the device of another tensor, without waiting for what that device was given to do before."""
    return values.to(where.device, non_blocking=True)
