"""From votes to utility: the outcome of drawn graphs, and the utility averaged over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynagent.team.protocols import ClosedFormDecision, Decision, Question
from dynagent.team.votes import NOT_ASKED

MAX_ENUMERATED = 12  # edges: 4,096 graphs a question


@dataclass(frozen=True)
class Outcome:
    """What came of K graphs for each of B questions.

    Attributes:
        utility: [B, K] float, the probability that the team's answer is right (ties are split).
        answers: [B, K, N] option indices; negative where there is none, `NOT_ASKED` or as `dynagent.team.replies` says.
        asked: [B, K, N] bool, the agents whose answer reaches the decision, over agents that read or at once: the
            others are not called.
        option_probs: [B, K, C] float, the vote's outcome.
        tokens: [B, K], read and written by the agents that are asked, each on its own; one for an agent without a
            language model.
    """

    utility: Tensor
    answers: Tensor
    asked: Tensor
    option_probs: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Ballots:
    """What each of N agents that read nobody would vote on a batch, so that any graph is scored for nothing.

    Leading axes, written as ..., are the batch's, or seeds and then the batch's.

    Attributes:
        decision: what becomes of the votes.
        answers: [..., N] option indices; a negative one is no answer.
        right: [...], the right option.
        num_options: C.
        tokens: [..., N], read and written by each agent; None where nothing is known of costs.
    """

    decision: Decision
    answers: Tensor
    right: Tensor
    num_options: int
    tokens: Tensor | None = None

    def utility(self, votes: Tensor) -> Tensor:
        """Probability that the team's answer is right: [..., K].

        Args:
            votes: [..., K, N] bool, the agents that the decision hears.
        """
        cast = torch.where(votes, self.answers[..., None, :], NOT_ASKED)
        option_probs = self.decision.option_probs(cast, self.num_options)  # [..., K, C]
        return prob_of_right(option_probs, self.right[..., None].expand(votes.shape[:-1]))

    def expected_utility(self, vote_probs: Tensor) -> Tensor:
        """The utility averaged over all 2^N graphs, differentiable: [...].

        Args:
            vote_probs: [..., N], the probability of each edge into the decision.

        Raises:
            ValueError: for a decision without a closed form, beyond `MAX_ENUMERATED` agents.
        """
        if isinstance(self.decision, ClosedFormDecision):
            option_probs = self.decision.expected_option_probs(vote_probs, self.answers, self.num_options)
            return prob_of_right(option_probs, self.right)
        return enumerated_utility(vote_probs, self.utility)

    def expected_cost(self, vote_probs: Tensor, cost_weight: float) -> Tensor:
        """`cost_weight` times the expected tokens, in units of what the full graph spends: [...], or a zero.

        Raises:
            ValueError: for a `cost_weight` where nothing is known of costs.
        """
        if not cost_weight:
            return torch.zeros((), device=vote_probs.device)
        if self.tokens is None:
            raise ValueError("It is not known what these agents' tokens are: leave cost_weight at 0.")
        return cost_weight * (vote_probs * self.tokens).sum(-1) / self.tokens.sum(-1)


def enumerated_utility(vote_probs: Tensor, utility_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Expected utility over all 2^N graphs, for any decision: [...], differentiable.

    Args:
        vote_probs: [..., N], the probabilities of the edges into the decision.
        utility_of: from who votes, [..., K, N] bool, to the utility, [..., K].

    Raises:
        ValueError: beyond `MAX_ENUMERATED` edges.
    """
    num_edges = vote_probs.shape[-1]
    check_enumerable(num_edges)
    bits = torch.arange(2**num_edges, device=vote_probs.device)[:, None] >> torch.arange(num_edges) & 1
    votes = bits.bool().expand(*vote_probs.shape[:-1], -1, -1)  # [..., 2^N, N]
    probs = vote_probs[..., None, :]
    graph_probs = torch.where(votes, probs, 1 - probs).prod(-1)  # [..., 2^N]
    return (graph_probs * utility_of(votes)).sum(-1)


def check_enumerable(num_edges: int) -> None:
    """Refuse to enumerate the graphs of more than `MAX_ENUMERATED` edges into the decision."""
    if num_edges > MAX_ENUMERATED:
        raise ValueError(
            f"The estimator 'exact' enumerates the graphs of at most {MAX_ENUMERATED} deciding edges, and these are "
            f"{num_edges}: choose 'local_expectation', or give the decision a method expected_option_probs."
        )


def prob_of_right(option_probs: Tensor, right: Tensor) -> Tensor:
    """The right option's probability: [...] from [..., C], given the right options [...]."""
    return option_probs.gather(-1, right[..., None]).squeeze(-1)


def most_options(questions: Sequence[Question]) -> int:
    """C, the number of options of the question that has most."""
    return max(len(question.options) for question in questions)
