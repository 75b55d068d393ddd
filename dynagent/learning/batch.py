"""A batch of questions as an objective sees it: graphs are drawn and run, or ballots taken, by a runner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from dynagent.execution.runner import AnyQuestion, ExecutesGraphs
from dynagent.execution.utility import Ballots
from dynagent.execution.waves import ancestors
from dynagent.graph import AgentGraph
from dynagent.learning.config import TrainConfig
from dynagent.learning.contribution import Draws
from dynagent.sampling import decided_edges, sample_dags


@dataclass(frozen=True)
class QuestionBatch(Generic[AnyQuestion]):
    """B questions and how their graphs are drawn, run and penalised; see `dynagent.learning.contribution.Batch`.

    Attributes:
        noise: [B, K, 2, E] from `dynagent.sampling.edge_noise`.
    """

    questions: Sequence[AnyQuestion]
    noise: Tensor
    runner: ExecutesGraphs[AnyQuestion]
    graph: AgentGraph
    config: TrainConfig

    @property
    def sparsity(self) -> float:
        return self.config.sparsity

    @property
    def cost_weight(self) -> float:
        return self.config.cost_weight

    @property
    def penalised(self) -> Tensor:
        penalise = self.config.penalise
        return decided_edges(self.graph, self.config.decide if penalise == "decided" else penalise)

    def into_decision(self, values: Tensor) -> Tensor:
        edges = self.graph.decision_edges.nonzero()[:, 0]
        return values[..., edges.to(values.device, non_blocking=True)]

    def draw(self, edge_logits: Tensor) -> Draws:
        config = self.config
        dags = sample_dags(edge_logits, self.graph, self.noise, order=config.order, decide=config.decide)
        utility = self.runner.net_utility(self.questions, dags.adjacency, config.cost_weight)
        reaching = ancestors(dags.adjacency, self.graph.decision_node)[..., :-1]
        return Draws(dags.log_prob, utility.to(edge_logits), reaching)

    def ballots(self, device: torch.device) -> Ballots:
        return self.runner.ballots(self.questions, device)
