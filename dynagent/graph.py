"""The graph a team of agents could talk along: nodes, fixed edges, potential edges.

Every operation of every agent is a node, and one more node, the last, makes the decision. An edge (i, j) means
that i speaks to j. Which of the potential edges exist for a question is what an edge policy decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import networkx as nx
import torch
from torch import Tensor

from dynagent.team.protocols import Agent, BoardDecision, Chain, Decision, Operation

Member = TypeVar("Member", bound="Agent | Chain")


@dataclass(frozen=True)
class Node:
    """One operation of one agent, or the decision (then `agent` is None)."""

    name: str
    group: str
    agent: int | None
    operation: Operation | Decision | BoardDecision


class AgentGraph(Generic[Member]):
    """Nodes and edges of a team with one decision node.

    An agent of several operations (`dynagent.team.protocols.Chain`) is a chain of fixed edges whose last node always
    speaks to the decision. Potential edges are all ordered pairs of nodes of different agents, then every node
    to the decision; fixed edges are not among them. N agents of one operation give N(N-1) + N potential edges.

    Attributes:
        operations: of the nodes, in their order, without the decision.
        potential_edges: [E, 2] node indices (source, target), in the order of the edge logits.
        effective: [E] bool, true for an edge that can change a prompt or the vote. An edge into an agent that
            does not read messages (`reads` is false) cannot.
        fixed_adjacency: [M, M] bool.

    >>> from types import SimpleNamespace as Agent
    >>> team = [Agent(name=name, group="g", reads=False, llm=None) for name in ("a", "b")]
    >>> AgentGraph(team, decision=None).potential_edges.tolist()
    [[0, 1], [1, 0], [0, 2], [1, 2]]
    """

    def __init__(self, team: Sequence[Member], decision: Decision | BoardDecision) -> None:
        if not team:
            raise ValueError("A graph needs at least one agent; the team is empty.")
        self.team = tuple(team)
        self.decision = decision
        self.nodes: list[Node] = []
        self.operations: list[Operation] = []
        fixed: list[tuple[int, int]] = []
        outputs: list[int] = []  # last nodes of the agents that are chains
        for index, agent in enumerate(self.team):
            operations = operations_of(agent)
            first = len(self.nodes)
            self.operations += operations
            self.nodes += [Node(operation.name, agent.group, index, operation) for operation in operations]
            fixed += [(node, node + 1) for node in range(first, len(self.nodes) - 1)]
            if len(operations) > 1:
                outputs.append(len(self.nodes) - 1)
        self.decision_node = len(self.nodes)
        fixed += [(node, self.decision_node) for node in outputs]
        self.nodes.append(Node("decision", "decision", None, decision))

        self.fixed_adjacency = torch.zeros(self.num_nodes, self.num_nodes, dtype=torch.bool)
        for source, target in fixed:
            self.fixed_adjacency[source, target] = True
        agents = range(self.decision_node)
        pairs = [(i, j) for i in agents for j in agents if self.nodes[i].agent != self.nodes[j].agent]
        pairs += [(i, self.decision_node) for i in agents if i not in outputs]
        self.potential_edges = torch.tensor(pairs).reshape(-1, 2)
        reads = [*(operation.reads for operation in self.operations), True]  # the decision hears all who speak to it
        self.effective = torch.tensor([reads[j] for _, j in pairs], dtype=torch.bool)

    @property
    def num_nodes(self) -> int:
        return self.decision_node + 1

    @property
    def num_edges(self) -> int:
        """Number of potential edges E."""
        return len(self.potential_edges)

    @property
    def groups(self) -> list[str]:
        """Groups of the agents, in order of first appearance."""
        return list(dict.fromkeys(node.group for node in self.nodes[:-1]))

    @property
    def decision_edges(self) -> Tensor:
        """[E] bool: the potential edges into the decision node."""
        return self.potential_edges[:, 1] == self.decision_node

    def adjacency(self, edges: Tensor) -> Tensor:
        """Potential edges in matrix form, with the fixed edges added.

        Args:
            edges: [..., E] bool (taken or not) or float (probabilities).

        Returns:
            [..., M, M] of the same dtype; entry [i, j] is the edge from i to j.
        """
        matrix = self.fixed_adjacency.to(edges).expand(*edges.shape[:-1], -1, -1).clone()
        sources, targets = self.potential_edges.to(edges.device).unbind(-1)
        matrix[..., sources, targets] = edges
        return matrix

    def full(self) -> Tensor:
        """[M, M] bool: every agent speaks to the decision, and no other potential edge exists."""
        return self.adjacency(self.decision_edges)

    def single(self, node: int) -> Tensor:
        """[M, M] bool: only `node` speaks to the decision."""
        return self.adjacency(self.decision_edges & (self.potential_edges[:, 0] == node))

    def to_networkx(self, edges: Tensor) -> nx.DiGraph:
        """One graph ([E] bool, or float as edge attribute `weight`; weight 0 is no edge) as a networkx graph."""
        drawn = nx.DiGraph()
        for index, node in enumerate(self.nodes):
            drawn.add_node(index, name=node.name, group=node.group)
        matrix = self.adjacency(edges)
        drawn.add_weighted_edges_from((i, j, float(matrix[i, j])) for i, j in matrix.nonzero().tolist())
        return drawn


def operations_of(agent: Agent | Chain) -> Sequence[Operation]:
    """The steps of an agent; one that is no chain is its own only step."""
    return agent.operations if isinstance(agent, Chain) else (agent,)
