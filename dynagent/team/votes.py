"""The decision node: from the answers that reach it to the team's answer.

A decision rule is a class with a `name` and a method `option_probs(answers, num_options)`, as `MajorityVote` has it.
Answers come in the order of the team, one place for each agent, so that a rule can tell agents apart. That is enough
for every estimator: "exact" sums over all choices of voters, up to `MAX_ENUMERATED` of them. With a
method `expected_option_probs` that gives the sum in closed form it needs no such limit.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

NOT_ASKED = -2


class MajorityVote:
    """The decision node of MMLU and CMMLU: the most frequent answer among its predecessors, ties at random."""

    name = "MajorityVote"

    def option_probs(self, answers: Tensor, num_options: int) -> Tensor:
        """Probability of each option to be the outcome: ties are split evenly.

        Args:
            answers: [..., N] option indices; a negative entry is no vote.

        Returns:
            [..., C]; all zero where nobody voted, since then there is no answer.
        """
        options = torch.arange(num_options, device=answers.device)
        votes = (answers[..., None] == options).sum(-2)  # [..., C]
        winners = (votes == votes.amax(-1, keepdim=True)) & (votes > 0)
        return winners / winners.sum(-1, keepdim=True).clamp(min=1)

    def expected_option_probs(self, vote_probs: Tensor, answers: Tensor, num_options: int) -> Tensor:
        """`option_probs` averaged over all graphs, each agent voting with its own probability: exact, in closed form.

        The options' numbers of votes are independent, each a sum of independent votes. An option that has k votes
        wins 1 / (1 + j) where j others tie with it and none has more; that is the integral over z from 0 to 1 of
        the product over the others of P(fewer than k) + z P(exactly k), a polynomial in z. It takes a number of
        operations that grows as N squared, where enumeration takes 2 to the N.

        Args:
            vote_probs: [..., N], the probabilities of the edges into the decision, differentiable.
            answers: [..., N] option indices of all agents; a negative entry is no vote.

        Returns:
            [..., C].

        >>> half = torch.tensor([0.5, 0.5])
        >>> MajorityVote().expected_option_probs(half, torch.tensor([0, 1]), 2)  # nobody, one, the other, a tie
        tensor([0.3750, 0.3750])
        """
        options = torch.arange(num_options, device=answers.device)[:, None]
        votes = vote_probs[..., None, :] * (answers[..., None, :] == options)  # [..., C, N]
        exactly = pad(torch.ones_like(votes[..., :1]), (0, votes.shape[-1]))  # [..., C, N + 1]: P(k votes)
        for vote, none in zip(votes.split(1, -1), (1 - votes).split(1, -1), strict=True):
            exactly = exactly * none + exactly.roll(1, -1) * vote  # what is rolled round is zero
        fewer = exactly.cumsum(-1) - exactly
        others = torch.tensor([[o for o in range(num_options) if o != c] for c in range(num_options)])
        others = others.to(answers.device, non_blocking=True)
        wins = torch.zeros_like(exactly)
        for z, weight in zip(*_gauss_legendre(num_options // 2 + 1), strict=True):
            wins = wins + weight * (fewer + z * exactly)[..., others, :].prod(-2)
        return (exactly * wins)[..., 1:].sum(-1)


@cache
def _gauss_legendre(num_points: int) -> tuple[list[float], list[float]]:
    """Points and weights that integrate polynomials up to degree 2 num_points - 1 exactly from 0 to 1."""
    points, weights = np.polynomial.legendre.leggauss(num_points)
    return ((points + 1) / 2).tolist(), (weights / 2).tolist()
