"""The simulated crosswords world: every path that a board can take, and the best graph over a stated set.

A board that reaches the decision has taken one path through the operations, from a node without predecessors. The
paper's team has 1,076 such paths, so that the end of each is computed once for a puzzle and a draw of what the solver
knows; any graph is then judged by the paths that it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from dynagent.graph import AgentGraph
from dynagent.progress import progress
from dynagent.tasks.crosswords import Puzzle, score
from dynagent.team.crosswords import TIE, BoardState, ReturnAll, brute_force, reflection
from dynagent.team.protocols import BoardOperation
from dynagent.worlds.crosswords_solver import SimulatedSolver, family_of

MAX_EDGES = 3  # potential edges of the graphs that are enumerated
Path = tuple[int, ...]


def simulated_team(seed: int, judge: str = "self_judged") -> AgentGraph:
    """The paper's team on a simulated solver."""
    solver = SimulatedSolver(seed)
    return AgentGraph([brute_force(solver), reflection(solver)], ReturnAll(judge))


@lru_cache(maxsize=1)
def all_paths() -> dict[Path, int]:
    """Every path of operations that some acyclic graph of the team has, with its number."""
    graph = simulated_team(0)
    possible = graph.adjacency(torch.ones(graph.num_edges, dtype=torch.bool))[:-1, :-1]
    chains = nx.transitive_closure(
        nx.from_numpy_array(graph.fixed_adjacency[:-1, :-1].numpy(), create_using=nx.DiGraph)
    )

    def extended(path: Path) -> Iterator[Path]:
        yield path
        for node in possible[path[-1]].nonzero().flatten().tolist():
            if node not in path and not any(chains.has_edge(node, before) for before in path):
                yield from extended((*path, node))

    paths = [path for start in range(graph.decision_node) for path in extended((start,))]
    return {path: number for number, path in enumerate(paths)}


@dataclass(frozen=True)
class PathTable:
    """What becomes of the empty board on every path.

    Attributes:
        puzzles: n puzzles.
        confidence: [paths, n, draws].
        scores: [paths, n, draws, 3] words, letters and games.
    """

    puzzles: tuple[Puzzle, ...]
    confidence: np.ndarray
    scores: np.ndarray

    @classmethod
    def compute(cls, puzzles: Sequence[Puzzle], seeds: Sequence[int]) -> PathTable:
        """Follow every path for each puzzle and each seed of the solver."""
        paths = all_paths()
        confidence = np.zeros((len(paths), len(puzzles), len(seeds)))
        scores = np.zeros((*confidence.shape, 3))
        for d, seed in enumerate(progress(seeds, desc="following paths", unit="draw")):
            operations = [step for step in simulated_team(seed).operations if isinstance(step, BoardOperation)]
            for p, puzzle in enumerate(puzzles):
                known: dict[tuple[int, BoardState], BoardState] = {}
                ends: dict[Path, BoardState] = {(): BoardState()}
                for path, number in paths.items():  # a path's beginning comes before it
                    operation, before = operations[path[-1]], ends[path[:-1]]
                    key = (id(operation), before)
                    if key not in known:
                        text = (
                            operation.llm.text(operation.asks_to, puzzle, before) if operation.has_work(before) else ""
                        )
                        known[key] = operation.next_state(before, text)
                    ends[path] = known[key]
                    confidence[number, p, d] = known[key].confidence
                    scores[number, p, d] = score(known[key].board, puzzle)
        return cls(tuple(puzzles), confidence, scores)

    def judged(self, adjacency: Tensor, judge: str, puzzles: slice = slice(None)) -> np.ndarray:
        """Scores of the board that a graph ([M, M] bool) returns for every puzzle and draw: [n, draws, 3]."""
        chosen = paths_of(adjacency)
        scores = self.scores[chosen, puzzles]
        if judge == "oracle":
            # As `ReturnAll`: the greatest by words, then letters.
            best = (scores @ np.array([1e4, 1e2, 1.0])).argmax(0)
            return np.take_along_axis(scores, best[None, :, :, None], 0)[0]
        confidence = self.confidence[chosen, puzzles]
        tied = confidence >= confidence.max(0) - TIE
        return (scores * tied[..., None]).sum(0) / tied.sum(0)[..., None]


def paths_of(adjacency: Tensor) -> list[int]:
    """The numbers of a graph's paths from nodes without predecessors to the decision."""
    matrix = adjacency.numpy()
    numbers, decision = all_paths(), len(matrix) - 1
    found: list[int] = []
    waiting: list[Path] = [(node,) for node in range(decision) if not matrix[:, node].any()]
    while waiting:
        path = waiting.pop()
        for node in np.flatnonzero(matrix[path[-1]]).tolist():
            if node == decision:
                found.append(numbers[path])
            else:
                waiting.append((*path, node))
    return found


@dataclass(frozen=True)
class Best:
    """A graph by its potential edges, and its mean share of right words on each of the table's families."""

    edges: tuple[int, ...]
    words: dict[str, float]

    @property
    def mean(self) -> float:
        return self.words["all"]


def acyclic(edges: Sequence[int], graph: AgentGraph) -> Tensor | None:
    """The graph with these potential edges, [M, M] bool; None if it has a cycle."""
    taken = torch.zeros(graph.num_edges, dtype=torch.bool)
    taken[list(edges)] = True
    adjacency = graph.adjacency(taken)
    drawn = nx.from_numpy_array(adjacency.numpy(), create_using=nx.DiGraph)
    return adjacency if nx.is_directed_acyclic_graph(drawn) else None


class Search:
    """The best graph for each family and for all puzzles, by the words that a judge's board has right."""

    def __init__(self, table: PathTable, judge: str) -> None:
        self.table, self.judge, self.graph = table, judge, simulated_team(0)
        families = [family_of(puzzle) for puzzle in table.puzzles]
        self.masks = {"all": np.full(len(families), True)}
        self.masks |= {name: np.array([family == name for family in families]) for name in sorted(set(families))}
        self._known: dict[tuple[int, ...], dict[str, float] | None] = {}

    def value(self, edges: Sequence[int]) -> dict[str, float] | None:
        """Mean words of a graph on each family; None if it has a cycle."""
        key = tuple(sorted(edges))
        if key not in self._known:
            adjacency = acyclic(key, self.graph)
            words = None if adjacency is None else self.table.judged(adjacency, self.judge)[..., 0].mean(1)
            of_families = words is not None and {name: float(words[m].mean()) for name, m in self.masks.items()}
            self._known[key] = of_families or None
        return self._known[key]

    def enumerate(self, max_edges: int = MAX_EDGES) -> dict[str, Best]:
        """The best of all acyclic graphs with at most so many potential edges, for each family."""
        best: dict[str, Best] = {}
        for number in range(max_edges + 1):
            for edges in combinations(range(self.graph.num_edges), number):
                words = self.value(edges)
                if words is None:
                    continue
                for name in self.masks:
                    if name not in best or words[name] > best[name].words[name] + TIE:
                        best[name] = Best(edges, words)
        return best

    def climb(self, start: Best, name: str) -> Best:
        """From a graph on, add or take out the edge that gains most, until none does."""
        current = start
        while True:
            here = set(current.edges)
            neighbours = [tuple(sorted(here ^ {edge})) for edge in range(self.graph.num_edges)]
            valued = [(edges, self.value(edges)) for edges in neighbours]
            known = [Best(edges, words) for edges, words in valued if words]
            best = max(known, key=lambda one: one.words[name])
            if best.words[name] <= current.words[name] + TIE:
                return current
            current = best
