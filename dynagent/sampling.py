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
    decided = decided_edges(graph, decide).to(edge_logits.device)
    proposed = noise[:, :, 0] < edge_logits.detach().sigmoid()[:, None]  # [B, K, E]
    if order == "random":
        priority = noise[:, :, 1]
    elif order == "fixed":
        priority = torch.linspace(0, 1, graph.num_edges, device=noise.device).expand_as(noise[:, :, 1])
    else:
        raise ValueError(f"The order of the visit is 'random' or 'fixed', not {order!r}.")
    taken, considered = resolve_cycles(proposed, priority, decided, graph)
    log_probs = log_prob(edge_logits[:, None], taken, considered)
    return Dags(graph.adjacency(taken), taken, considered, log_probs)


def most_probable_dags(edge_logits: Tensor, graph: AgentGraph, *, decide: str = "effective") -> Dags:
    """The graph of the edges with probability at least one half, visited by falling probability: K = 1."""
    proposed = (edge_logits >= 0)[:, None]  # [B, 1, E]
    decided = decided_edges(graph, decide).to(edge_logits.device)
    taken, considered = resolve_cycles(proposed, -edge_logits.detach()[:, None], decided, graph)
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

    One step an edge for all G graphs at once. What a node reaches is a row of bits, 64 to a word, so that taking an
    edge is a few operations on words. On the CPU, since thousands of such small steps are what a GPU is slow at.

    Args:
        sources, targets: [G, C] nodes, in the order of the visit.
        coins: [G, C] bool, whether an edge that closes no cycle is taken.
    """
    num_graphs, num_edges = coins.shape
    closure = np.packbits(_closure(graph.fixed_adjacency).numpy(), axis=1, bitorder="little")  # [M, bytes]
    words = np.pad(closure, ((0, 0), (0, -closure.shape[1] % 8))).view(np.uint64)
    reach = np.repeat(words[None], num_graphs, axis=0)  # [G, M, words]
    word, bit = sources // 64, (sources % 64).astype(np.uint64)
    allowed = np.empty((num_graphs, num_edges), dtype=bool)
    rows, one = np.arange(num_graphs), np.uint64(1)
    for step in range(num_edges):
        column, shift, target = word[:, step], bit[:, step], targets[:, step]
        from_target = reach[rows, target]  # [G, words]
        allowed[:, step] = (from_target[rows, column] >> shift) & one == 0
        taking = np.flatnonzero(allowed[:, step] & coins[:, step])
        if len(taking):
            # Whoever reached the source now reaches whatever the target reaches.
            into = (reach[taking, :, column[taking]] >> shift[taking, None]) & one  # [taking, M]
            reach[taking] |= into[:, :, None] * from_target[taking, None, :]
    return allowed


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
