"""The training loop: REINFORCE on the utility of drawn graphs, on Accelerate.

As a program, `python -m dynagent.train run.json` (also under `accelerate launch`) does what the notebook does.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from dynagent.config import TrainConfig
from dynagent.estimators import leave_one_out, moving_average, policy_loss, sparsity_penalty
from dynagent.execution import Runner
from dynagent.graph import AgentGraph
from dynagent.policy import Policy
from dynagent.progress import progress
from dynagent.sampling import edge_noise, sample_dags


@dataclass
class History:
    """One row of metrics an iteration, in the order of the iterations.

    utility is the batch's mean, baseline what was subtracted on average, num_edges the expected number of edges into
    the decision node, gradient_norm that of the whole policy.
    """

    rows: list[dict[str, float]] = field(default_factory=list)

    def column(self, name: str) -> list[float]:
        return [row[name] for row in self.rows]


def train(
    policy: Policy,
    graph: AgentGraph,
    questions: Sequence[Any],
    config: TrainConfig,
    *,
    runner: Runner | None = None,
    accelerator: Accelerator | None = None,
) -> History:
    """Train an edge policy in place.

    Args:
        policy: `StaticEdgePolicy` or `EdgePolicy`.
        questions: the training questions; each pass over them is in a new random order.
        runner: executes the graphs; a given one brings along the answers that it already knows.
        accelerator: by default one with the configured precision. With several processes each takes its share
            of every batch, and all draw the graphs that one process would draw.

    Raises:
        ValueError: if there are no questions, or the processes cannot share a batch evenly.
        FloatingPointError: at the first loss that is not finite, naming the iteration.
    """
    if not questions:
        raise ValueError("There are no questions to train on.")
    accelerator = accelerator or Accelerator(mixed_precision=config.mixed_precision)
    if config.batch_size % accelerator.num_processes:
        raise ValueError(
            f"A batch of {config.batch_size} questions cannot be shared by {accelerator.num_processes} processes: "
            "set batch_size to a multiple of their number."
        )
    runner = runner or Runner(graph, config.seed)
    order = data_order(len(questions), config)  # [iterations, batch]
    visited = [questions[i] for i in order.unique().tolist()]
    with accelerator.main_process_first():  # the others find its calls on record
        runner.prepare(visited)
        features = policy.encode(questions)  # [n, H]
    policy.fit_standardization(features[order.unique()])

    optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate)
    model, optimizer = accelerator.prepare(policy, optimizer)
    features = features.to(accelerator.device)
    graphs_generator = config.generator("graphs")
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    penalised = graph.effective.to(accelerator.device) | (config.decide == "all")
    history, average = History(), None

    bar = progress(range(config.num_iterations), desc="training", unit="step", disable=not accelerator.is_main_process)
    for iteration in bar:
        rows = order[iteration]
        noise = edge_noise(config.batch_size, config.graphs_per_question, graph.num_edges, graphs_generator)
        edge_logits = model(features[rows[mine]])  # [B, E]
        dags = sample_dags(edge_logits, graph, noise[mine], order=config.order, decide=config.decide)
        outcome = runner.run([questions[i] for i in rows[mine].tolist()], dags.adjacency)
        utility = outcome.utility.to(edge_logits)  # [B, K]

        mean_utility = accelerator.reduce(utility.mean(), "mean")
        baseline = _baseline(config.baseline, utility, average)
        loss = policy_loss(dags.log_prob, utility - baseline)
        loss = loss + config.sparsity * sparsity_penalty(edge_logits.sigmoid(), penalised)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"The loss of iteration {iteration} is not finite; try a lower learning_rate.")
        optimizer.zero_grad()
        accelerator.backward(loss)
        gradient_norm = accelerator.clip_grad_norm_(model.parameters(), math.inf)
        optimizer.step()
        average = moving_average(average, mean_utility)

        into_decision = (edge_logits.detach().sigmoid() * graph.decision_edges.to(edge_logits.device)).sum(-1).mean()
        history.rows.append(
            {
                "iteration": iteration,
                "utility": float(mean_utility),
                "baseline": float(accelerator.reduce(baseline.mean(), "mean")),
                "num_edges": float(accelerator.reduce(into_decision, "mean")),
                "gradient_norm": float(gradient_norm),
            }
        )
        bar.set_postfix_str(f"utility {mean_utility:.2f}", refresh=False)
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # autocast ends with the training
    return history


def data_order(num_questions: int, config: TrainConfig) -> Tensor:
    """Indices of the questions of every batch: [num_iterations, batch_size], pass after pass, each shuffled."""
    generator = config.generator("data")
    needed = config.num_iterations * config.batch_size
    passes = math.ceil(needed / num_questions)
    indices = torch.cat([torch.randperm(num_questions, generator=generator) for _ in range(passes)])
    return indices[:needed].view(config.num_iterations, config.batch_size)


def _baseline(name: str, utility: Tensor, average: Tensor | None) -> Tensor:
    """What is subtracted from the utilities: [B, K]."""
    if name == "leave_one_out":
        return leave_one_out(utility)
    if name == "moving_average" and average is not None:
        return average.to(utility).expand_as(utility)
    return torch.zeros_like(utility)


if __name__ == "__main__":
    from dynagent.experiment import main  # the whole run stands above the loop that it uses

    sys.exit(main())
