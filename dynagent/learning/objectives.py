"""What turns utilities into a gradient: baselines, the policy loss, exact and local expectations, the sparsity penalty.

Pure functions of tensors. Utilities and log-probabilities are [B, K]: K graphs drawn for each of B questions.
Agents answer a question once, so that any number of these graphs is scored on answers that are already paid for.
In order of falling variance, `TrainConfig.estimator` is one of

- "reinforce": utility x gradient of the log-probability, as published;
- "constant_baseline": the same, minus 0.4, as released for crosswords (there it is called a moving average);
- "moving_average": the same, minus the mean utility of the batches before;
- "leave_one_out": minus the mean utility of the other K - 1 graphs of the question;
- "local_expectation": for every edge the utility with it minus that without it, the other edges being drawn;
- "exact": the gradient of the expected utility itself.

The last two are for teams whose agents do not read each other: only edges into the decision can matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

Estimator = Literal["reinforce", "constant_baseline", "moving_average", "leave_one_out", "local_expectation", "exact"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
CONSTANT_BASELINE = 0.4
MAX_ENUMERATED = 12  # edges: 4,096 graphs a question


def leave_one_out(utility: Tensor) -> Tensor:
    """For every graph the mean utility of the other K - 1 graphs of the same question: [B, K].

    It does not depend on the graph it is subtracted for, so it leaves the expected gradient unchanged.

    >>> leave_one_out(torch.tensor([[1.0, 0.0, 0.0]])).tolist()
    [[0.0, 0.5, 0.5]]
    """
    num_graphs = utility.shape[1]
    if num_graphs < 2:
        raise ValueError(
            "The estimator 'leave_one_out' compares the graphs of one question with each other: set "
            f"graphs_per_question to 2 or more (it is {num_graphs}), or choose another estimator."
        )
    return (utility.sum(1, keepdim=True) - utility) / (num_graphs - 1)


def moving_average(previous: Tensor | None, batch_mean: Tensor, decay: float = 0.9) -> Tensor:
    """The baseline after a batch: decay x the previous one + (1 - decay) x the batch's mean utility."""
    return batch_mean if previous is None else decay * previous + (1 - decay) * batch_mean


def policy_loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """REINFORCE: minus the mean of advantage x log-probability, a scalar (the paper has the utility for advantage).

    The advantage is a constant to the gradient.
    """
    return -(advantage.detach() * log_prob).mean()


def enumerated_utility(vote_probs: Tensor, utility_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Expected utility over all 2^N graphs, for any decision: [B], differentiable.

    Args:
        vote_probs: [B, N], the probabilities of the edges into the decision.
        utility_of: from who votes, [B, K, N] bool, to the utility, [B, K].

    Raises:
        ValueError: beyond `MAX_ENUMERATED` edges.
    """
    num_edges = vote_probs.shape[-1]
    if num_edges > MAX_ENUMERATED:
        raise ValueError(
            f"The estimator 'exact' enumerates the graphs of at most {MAX_ENUMERATED} deciding edges, and these are "
            f"{num_edges}: choose 'local_expectation', or give the decision a method expected_option_probs."
        )
    bits = torch.arange(2**num_edges, device=vote_probs.device)[:, None] >> torch.arange(num_edges) & 1
    votes = bits.bool().expand(len(vote_probs), -1, -1)  # [B, 2^N, N]
    graph_probs = torch.where(votes, vote_probs[:, None], 1 - vote_probs[:, None]).prod(-1)  # [B, 2^N]
    return (graph_probs * utility_of(votes)).sum(-1)


def local_expectation(vote_probs: Tensor, utility_of: Callable[[Tensor], Tensor], noise: Tensor) -> Tensor:
    """An estimate of the expected utility, right on average and so is its gradient: [B].

    For each edge only the others are drawn; the edge itself is taken both ways (local expectation gradients,
    Titsias and Lazaro-Gredilla 2015). It costs 2 N scorings a graph and no answer.

    Args:
        vote_probs, utility_of: see `enumerated_utility`.
        noise: [B, K, N] uniform numbers.
    """
    num_edges = vote_probs.shape[-1]
    drawn = (noise < vote_probs.detach()[:, None])[:, :, None].expand(-1, -1, num_edges, -1)  # [B, K, N, N]
    itself = torch.eye(num_edges, dtype=torch.bool, device=drawn.device)
    with_edge, without = (
        utility_of(votes.flatten(1, 2)).view(noise.shape).mean(1) for votes in (drawn | itself, drawn & ~itself)
    )  # [B, N]
    fixed = vote_probs.detach()
    estimate = (fixed * with_edge + (1 - fixed) * without).mean(-1)
    return estimate + ((vote_probs - fixed) * (with_edge - without)).sum(-1)  # adds nothing but the gradient


def sparsity_penalty(edge_probs: Tensor, penalised: Tensor) -> Tensor:
    """Mean over the batch of the expected number of penalised edges, a scalar.

    Args:
        edge_probs: [B, E].
        penalised: [E] bool.
    """
    return (edge_probs * penalised).sum(-1).mean()
