"""An edge head that knows its agents: one trained policy for teams that it has not seen."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from dynagent.graph import AgentGraph, Node
from dynagent.policies.base import logit, team_of
from dynagent.policies.edge import EdgePolicy
from dynagent.team.protocols import Described


@dataclass(frozen=True)
class Description:
    """What a node is, as a text that the edge LLM reads like a question."""

    text: str

    @classmethod
    def of(cls, node: Node) -> Description:
        """The node's own `description`, or its name."""
        if isinstance(node.operation, Described) and node.operation.description:
            return cls(node.operation.description)
        return cls(f"{node.name}, a member of a team of agents.")

    @property
    def id(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def render(self) -> str:
        return self.text


class AgentAwarePolicy(EdgePolicy):
    """edge_logits[i, j] = d_ij . (V h(x) + c) + constant: the weights of an edge come from a description of its agents.

    d_ij holds a constant, for what all edges have in common, and the edge LLM's readings of what agents i and j are,
    centred over the edges that count in the team that it was made for, for what tells them apart. Each half has
    absolute values that sum to 1/2 on average, so that it learns at the pace of the per-edge head. `for_team` gives the
    same policy for another team, in whatever order its agents stand.
    """

    edge_descriptions: Tensor
    description_mean: Tensor
    description_scale: Tensor

    def __init__(self, hidden_size: int, num_edges: int, **options: Any) -> None:
        super().__init__(hidden_size, num_edges, **options)
        description_size = 2 * hidden_size + 1
        self.offset = logit(options.get("initial_probability", 0.5))
        self.head = nn.Linear(hidden_size, description_size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("edge_descriptions", torch.zeros(num_edges, description_size))
        self.register_buffer("description_mean", torch.zeros(2 * hidden_size))
        self.register_buffer("description_scale", torch.ones(1))

    @classmethod
    def from_backbone(cls, backbone: Any, graph: AgentGraph, **options: Any) -> Self:
        """See `EdgePolicy.from_backbone`."""
        policy = super().from_backbone(backbone, graph, **options)
        of_pairs = policy._read_pairs(graph)[graph.effective]
        policy.description_mean.copy_(of_pairs.mean(0))
        policy.description_scale.copy_((of_pairs - policy.description_mean).abs().sum(-1).mean().clamp(min=1e-6))
        policy.edge_descriptions = policy._describe(graph)
        return policy

    def for_team(self, graph: AgentGraph) -> Self:
        """The same policy, sharing its weights, for another team."""
        policy: Any = copy.copy(self)
        policy._buffers = self._buffers | {"edge_descriptions": self._describe(graph)}
        policy._hub_mixin_config = policy._hub_mixin_config | {"num_edges": graph.num_edges}
        policy.note(team=team_of(graph))
        return policy

    def forward(self, features: Tensor) -> Tensor:
        """Edge logits: [B, E] from features [B, H]."""
        return super().forward(features) @ self.edge_descriptions.T + self.offset

    def _read_pairs(self, graph: AgentGraph) -> Tensor:
        """The edge LLM's readings of the descriptions of an edge's two nodes: [E, 2 H]."""
        descriptions = [Description.of(node) for node in graph.nodes]
        return self.encode(descriptions)[graph.potential_edges].flatten(1)

    def _describe(self, graph: AgentGraph) -> Tensor:
        """[E, 2 H + 1]."""
        differences = (self._read_pairs(graph) - self.description_mean) / self.description_scale
        return torch.cat([torch.ones(graph.num_edges, 1), differences], -1) / 2
