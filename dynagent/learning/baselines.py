"""What REINFORCE subtracts from the utilities, to learn from how much better a graph was than what could be expected.

A baseline that does not depend on the graph that it is subtracted for leaves the expected gradient unchanged, and a
good one lowers its variance. Utilities are [..., K]: K graphs drawn for each question of a batch, [..., B, K].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CONSTANT_BASELINE = 0.4
DECAY = 0.9  # of the moving average, a batch

# From utilities [..., B, K] and the average utility of the batches before, [...] or None, to a baseline [..., B, K].
Baseline = Callable[[Tensor, Tensor | None], Tensor]


def no_baseline(utility: Tensor, average: Tensor | None) -> Tensor:
    """Zero, as published."""
    return torch.zeros_like(utility)


def constant_baseline(utility: Tensor, average: Tensor | None) -> Tensor:
    """0.4, as released for crosswords (there it is called a moving average)."""
    return torch.full_like(utility, CONSTANT_BASELINE)


def average_of_batches_before(utility: Tensor, average: Tensor | None) -> Tensor:
    """The moving average, see `moving_average`; zero before the first batch."""
    if average is None:
        return torch.zeros_like(utility)
    return average.to(utility)[..., None, None].expand_as(utility)


def average_of_other_graphs(utility: Tensor, average: Tensor | None) -> Tensor:
    """See `leave_one_out`."""
    return leave_one_out(utility)


def leave_one_out(utility: Tensor) -> Tensor:
    """For every graph the mean utility of the other K - 1 graphs of the same question: [..., K].

    >>> leave_one_out(torch.tensor([[1.0, 0.0, 0.0]])).tolist()
    [[0.0, 0.5, 0.5]]
    """
    num_graphs = utility.shape[-1]
    check_comparable(num_graphs)
    return (utility.sum(-1, keepdim=True) - utility) / (num_graphs - 1)


def check_comparable(num_graphs: int) -> None:
    """Refuse to compare a single graph with itself."""
    if num_graphs < 2:
        raise ValueError(
            "The estimator 'leave_one_out' compares the graphs of one question with each other: set "
            f"graphs_per_question to 2 or more (it is {num_graphs}), or choose another estimator."
        )


def moving_average(previous: Tensor | None, batch_mean: Tensor, decay: float = DECAY) -> Tensor:
    """The average after a batch: decay x the previous one + (1 - decay) x the batch's mean utility."""
    return batch_mean if previous is None else decay * previous + (1 - decay) * batch_mean
