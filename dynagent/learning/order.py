"""Which questions are trained on, and in which order."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dynagent.learning.config import TrainConfig


def training_plan(num_questions: int, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Indices of the questions held out for early stopping, and of every batch: [num_iterations, batch_size]."""
    shuffled = torch.randperm(num_questions, generator=config.generator("data"))
    held_out, rest = shuffled.tensor_split([int(config.early_stopping * num_questions)])
    return held_out, rest.sort().values[data_order(len(rest), config)]


def data_order(num_questions: int, config: TrainConfig) -> Tensor:
    """Indices of the questions of every batch: [num_iterations, batch_size], pass after pass, each shuffled."""
    generator = config.generator("data")
    steps = config.steps(num_questions)
    passes = math.ceil(steps * config.batch_size / num_questions)
    indices = torch.cat([torch.randperm(num_questions, generator=generator) for _ in range(passes)])
    return indices[: steps * config.batch_size].view(steps, config.batch_size)
