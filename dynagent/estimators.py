"""What turns utilities into a gradient: baselines, advantages, the policy loss, the sparsity penalty.

Pure functions of tensors. Utilities and log-probabilities are [B, K]: K graphs drawn for each of B questions.
"""

from __future__ import annotations

from torch import Tensor

BASELINES = ("none", "moving_average", "leave_one_out")


def leave_one_out(utility: Tensor) -> Tensor:
    """For every graph the mean utility of the other K - 1 graphs of the same question: [B, K].

    It does not depend on the graph it is subtracted for, so it leaves the expected gradient unchanged.

    >>> import torch
    >>> leave_one_out(torch.tensor([[1.0, 0.0, 0.0]])).tolist()
    [[0.0, 0.5, 0.5]]
    """
    num_graphs = utility.shape[1]
    if num_graphs < 2:
        raise ValueError(
            "The baseline 'leave_one_out' compares the graphs of one question with each other: set "
            f"graphs_per_question to 2 or more (it is {num_graphs}), or choose 'moving_average' or 'none'."
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


def sparsity_penalty(edge_probs: Tensor, penalised: Tensor) -> Tensor:
    """Mean over the batch of the expected number of penalised edges, a scalar.

    Args:
        edge_probs: [B, E].
        penalised: [E] bool.
    """
    return (edge_probs * penalised).sum(-1).mean()
