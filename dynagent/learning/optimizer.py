"""Optimisers, schedules of the learning rate, and a step that is left out once a number is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

OPTIMIZERS: dict[str, Any] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
# From the part of the training that is over to the learning rate's factor.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}


def make_schedule(optimizer: torch.optim.Optimizer, name: str, num_steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """The schedule of this name over a training of so many steps."""
    factor = SCHEDULES[name]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step / num_steps))


class StepGuard:
    """Takes an optimiser's steps, but none from the first iteration on in which a number was not finite.

    The weights then are those of the last good step, whenever the host comes to see it: to ask at every step would make
    it wait for the device. PyTorch's fused optimisers leave out a step where the tensor `found_inf` is 1. It is there
    for the gradient scaler of half precision, which training here does not use (bf16 needs none), so that it can be
    set by what stands on the device.

    Args:
        optimizer: a fused one.
    """

    def __init__(self, optimizer: Any, device: torch.device) -> None:
        self.optimizer = optimizer
        self.optimizer.found_inf = torch.zeros((), device=device)

    def step(self, numbers: Tensor) -> None:
        """Take a step, unless a number of this iteration, or of one before, is not finite."""
        is_bad = (~numbers.isfinite().all()).float()
        self.optimizer.found_inf = torch.maximum(self.optimizer.found_inf, is_bad)
        self.optimizer.step()
