"""The policy that reads nothing: one free logit an edge, as in GPTSwarm's edge optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynagent.graph import AgentGraph
from dynagent.llm.base import Readable
from dynagent.policies.base import Policy, initial_probability, logit, team_of


class StaticEdgePolicy(Policy):
    """One free logit an edge, the same for every question: GPTSwarm's edge optimisation."""

    def __init__(self, num_edges: int, initial_probability: float = 0.5, about: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.edge_logits = nn.Parameter(torch.full((num_edges,), logit(initial_probability)))

    @classmethod
    def for_graph(cls, graph: AgentGraph, probability: float | None = None) -> StaticEdgePolicy:
        """A new policy, at `initial_probability(graph)` unless a probability is given."""
        probability = initial_probability(graph) if probability is None else probability
        return cls(graph.num_edges, probability, {"team": team_of(graph)})

    def encode(self, questions: Sequence[Readable]) -> Tensor:
        """A static policy reads nothing: [B, 0]."""
        return torch.zeros(len(questions), 0)

    def forward(self, features: Tensor) -> Tensor:
        """Edge logits: [B, E]."""
        return self.edge_logits.repeat(len(features), 1)
