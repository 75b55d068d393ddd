"""Numbers of a training that the host reads from time to time, so that it need not wait for the device at each step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dynagent.graph import AgentGraph
from dynagent.learning.contribution import Contribution
from dynagent.llm.base import check_finite

METRICS = ("utility", "baseline", "num_edges", "num_reaching", "gradient_norm")
LOOK_EVERY = {"cpu": 1}  # iterations between two looks, by the device's type
LOOK_EVERY_ON_ACCELERATORS = 10


def measured(edge_logits: Tensor, contribution: Contribution, graph: AgentGraph) -> Tensor:
    """What is measured on each of B questions: [5, B], a flag of finite logits and the metrics without the last."""
    into_decision = graph.decision_edges.to(edge_logits.device, non_blocking=True)
    num_reaching = contribution.reaching.sum(-1).to(contribution.utility)  # [B, K]
    return torch.stack(
        [
            zero_or_nan(edge_logits),
            contribution.utility.mean(-1),
            contribution.baseline.mean(-1),
            (contribution.edge_probs * into_decision).sum(-1),
            num_reaching.mean(-1),
        ]
    )


def zero_or_nan(values: Tensor) -> Tensor:
    """A flag that can stand among numbers: 0 for a row that is finite, NaN for one that is not. [B] from [B, E].

    Zero times a number is zero, but NaN for an infinite one; NaN stays what it is.
    """
    return (values.detach() * 0).sum(-1)


class Watch:
    """The numbers of the iterations since the host last looked, on the device, with the ids of the questions.

    Args:
        device: of the training.
        first: number of the first iteration.
    """

    def __init__(self, device: torch.device, first: int) -> None:
        self._look_every = LOOK_EVERY.get(device.type, LOOK_EVERY_ON_ACCELERATORS)
        self._next = first
        self._numbers: list[Tensor] = []
        self._ids: list[Sequence[str]] = []

    def add(self, numbers: Tensor, ids: Sequence[str]) -> None:
        """Leave an iteration's numbers: its `METRICS`, and flags and utilities of its questions, [5 + 2 B]."""
        self._numbers.append(numbers)
        self._ids.append(ids)

    @property
    def is_due(self) -> bool:
        return len(self._numbers) >= self._look_every

    def look(self) -> list[dict[str, float]]:
        """The metrics of the iterations since the last look, one row each.

        Raises:
            FloatingPointError: at the first logit, utility or gradient that is not finite.
        """
        rows = []
        for numbers, ids in zip(torch.stack(self._numbers).cpu(), self._ids, strict=True):
            metrics, of_questions = numbers[: len(METRICS)], numbers[len(METRICS) :]
            flags, utilities = of_questions.view(2, -1)
            check_finite(flags, ids, f"The logits of iteration {self._next}")
            check_finite(utilities, ids, f"The utilities of iteration {self._next}")
            check_finite(metrics[-1].expand(len(ids)), ids, f"The gradients of iteration {self._next}")
            rows.append({"iteration": self._next} | dict(zip(METRICS, metrics.tolist(), strict=True)))
            self._next += 1
        self._numbers, self._ids = [], []
        return rows
