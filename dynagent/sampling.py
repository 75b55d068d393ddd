"""From edge logits to graphs without cycles, with exact log-probabilities, a whole batch at a time.

Potential edges are visited one after the other. An edge that would close a cycle is skipped and adds nothing to
the log-probability; every other visited edge is taken with its probability. The log-probability of a graph is
that of the decisions made on the way, given the order of the visit (arXiv 2406.11555, edge optimisation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dynagent.graph import AgentGraph


@dataclass(frozen=True)
class Dags:
    """A batch of directed acyclic graphs, K for each of B questions.

    Attributes:
        adjacency: [B, K, M, M] bool, fixed edges included.
        taken: [B, K, E] bool, the potential edges that exist.
        considered: [B, K, E] bool, the potential edges that were decided: all that were visited but not skipped.
        log_prob: [B, K], differentiable in the edge logits.
    """

    adjacency: Tensor
    taken: Tensor
    considered: Tensor
    log_prob: Tensor


def log_prob(edge_logits: Tensor, taken: Tensor, considered: Tensor) -> Tensor:
    """Log-probability of the decisions on the considered edges.

    Args:
        edge_logits: [..., E].
        taken, considered: [..., E] bool, broadcast against the logits.

    Returns:
        [...], the sum over considered edges of log p (taken) or log (1 - p) (not taken).
    """
    signed = torch.where(taken, edge_logits, -edge_logits)
    return (logsigmoid(signed) * considered).sum(-1)


def edge_noise(num_questions: int, num_graphs: int, num_edges: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers that decide a batch: [B, K, 2, E], one row for the decisions, one for the order of the visit.

    They do not depend on the policy, so several processes that share a seed can each draw the whole batch's
    numbers and keep their own rows.
    """
    return torch.rand(num_questions, num_graphs, 2, num_edges, generator=generator)


def sample_dags(
    edge_logits: Tensor,
    graph: AgentGraph,
    noise: Tensor,
    *,
    order: str = "random",
    decide: str = "effective",
) -> Dags:
    """Draw graphs for a batch of questions.

    Args:
        edge_logits: [B, E].
        noise: [B, K, 2, E] from `edge_noise`.
        order: "random" visits the edges of every graph in its own random order; "fixed" in the order of
            `graph.potential_edges`, as released, which favours early edges.
        decide: "effective" leaves edges that cannot change any prompt or vote out of the graph and out of
            log_prob; "all" decides every potential edge, as released.
    """
    noise = noise.to(edge_logits.device)
    proposed = noise[:, :, 0] < edge_logits.detach().sigmoid()[:, None]  # [B, K, E]
    if order == "random":
        priority = noise[:, :, 1]
    elif order == "fixed":
        priority = torch.linspace(0, 1, graph.num_edges, device=noise.device).expand_as(noise[:, :, 1])
    else:
        raise ValueError(f"The order of the visit is 'random' or 'fixed', not {order!r}.")
    return _without_cycles(edge_logits, proposed, priority, decide, graph)


def most_probable_dags(edge_logits: Tensor, graph: AgentGraph, *, decide: str = "effective") -> Dags:
    """The graph of the edges with probability at least one half, visited by falling probability: K = 1."""
    proposed = (edge_logits >= 0)[:, None]  # [B, 1, E]
    return _without_cycles(edge_logits, proposed, -edge_logits.detach()[:, None], decide, graph)


def _without_cycles(edge_logits: Tensor, proposed: Tensor, priority: Tensor, decide: str, graph: AgentGraph) -> Dags:
    """The graphs that the proposed edges make, see `resolve_cycles`, with their log-probabilities."""
    taken, considered = resolve_cycles(proposed, priority, decided_edges(graph, decide).to(proposed.device), graph)
    log_probs = log_prob(edge_logits[:, None], taken, considered)
    return Dags(graph.adjacency(taken), taken, considered, log_probs)


def resolve_cycles(proposed: Tensor, priority: Tensor, decided: Tensor, graph: AgentGraph) -> tuple[Tensor, Tensor]:
    """Visit the decided edges by rising priority; take the proposed ones that close no cycle.

    Args:
        proposed: [B, K, E] bool, the outcome of each edge's coin.
        priority: [B, K, E], smaller is visited earlier; equals in the order of `graph.potential_edges`.
        decided: [E] bool, the edges that are visited at all.

    Returns:
        taken and considered, both [B, K, E] bool.
    """
    sources, targets = graph.potential_edges.to(proposed.device).unbind(-1)
    possible = graph.adjacency(decided)  # [M, M]
    # An edge from a node that nobody can speak to, or into one that speaks to nobody, is never on a cycle.
    on_cycle = decided & possible.any(0)[sources] & possible.any(1)[targets]
    considered = (decided & ~on_cycle).expand_as(proposed).clone()
    taken = proposed & considered
    contested = on_cycle.nonzero().squeeze(-1)  # [C]
    if len(contested) == 0:
        return taken, considered

    visit = contested[priority[..., contested].flatten(0, 1).argsort(dim=-1, stable=True)]  # [G, C]
    coins = proposed.flatten(0, 1).gather(1, visit)  # [G, C]
    allowed = torch.from_numpy(
        _visit(sources[visit].cpu().numpy(), targets[visit].cpu().numpy(), coins.cpu().numpy(), graph)
    ).to(proposed.device)  # [G, C]
    considered = considered.flatten(0, 1).scatter(1, visit, allowed).view_as(proposed)
    taken = taken.flatten(0, 1).scatter(1, visit, allowed & coins).view_as(proposed)
    return taken, considered


def _visit(sources: np.ndarray, targets: np.ndarray, coins: np.ndarray, graph: AgentGraph) -> np.ndarray:
    """Whether each edge, when its turn comes, closes no cycle with those that were taken before: [G, C] bool.

    That is known of all edges at once when it is known since when each node reaches each other one. Only an edge that
    is taken changes this, and only while neither of its ends reaches the other: one step is the next such edge of each
    of the G graphs. On the CPU, since many such small steps are what a GPU is slow at.

    Args:
        sources, targets: [G, C] nodes, in the order of the visit.
        coins: [G, C] bool, whether an edge that closes no cycle is taken.
    """
    num_graphs, num_edges = coins.shape
    graphs, never = np.arange(num_graphs), num_edges + 1
    # since[g, i, j]: after how many visits i reaches j
    since = np.where(_closure(graph.fixed_adjacency), 0, never).astype(np.min_scalar_type(never))
    since = np.repeat(since[None], num_graphs, axis=0)  # [G, M, M]
    # Edges whose coin says yes, [G, left]; a graph with fewer than others is filled up with edges that change nothing.
    left = np.argsort(~coins, axis=1, kind="stable")[:, : coins.sum(1).max(initial=0)]
    while left.shape[1]:
        now, left = np.split(left, [max(16, left.shape[1] // 8)], axis=1)
        for edge in now.T:  # [G]
            source, target = sources[graphs, edge], targets[graphs, edge]
            taken = coins[graphs, edge] & (since[graphs, target, source] > edge)
            until, after = since[graphs, :, source] <= edge[:, None], since[graphs, :, target] > edge[:, None]
            g, node = (until & after & taken[:, None]).nonzero()
            # Whoever reached the source, but not the target, from now on reaches whatever the target reaches.
            since[g, node] = np.minimum(since[g, node], np.maximum(since[g, target[g]], edge[g, None] + 1))
        source, target = (np.take_along_axis(nodes, left, 1) for nodes in (sources, targets))
        known = np.minimum(since[graphs[:, None], source, target], since[graphs[:, None], target, source]) < never
        left = np.take_along_axis(left, known.argsort(1, kind="stable"), 1)[:, : (~known).sum(1).max(initial=0)]
    return since[graphs[:, None], targets, sources] > np.arange(num_edges)


def decided_edges(graph: AgentGraph, decide: str) -> Tensor:
    """The potential edges that are decided, by `sample_dags`'s word for them: [E] bool."""
    if decide == "effective":
        return graph.effective
    if decide == "all":
        return torch.ones(graph.num_edges, dtype=torch.bool)
    raise ValueError(f"The edges to decide are 'effective' or 'all', not {decide!r}.")


def _closure(adjacency: Tensor) -> Tensor:
    """Reachability, every node from itself included: [M, M] bool."""
    reach = adjacency | torch.eye(len(adjacency), dtype=torch.bool)
    for _ in range(len(adjacency).bit_length()):
        reach = (reach.float() @ reach.float()) > 0
    return reach
