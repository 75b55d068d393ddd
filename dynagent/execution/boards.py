"""Runs agents of several operations along a batch of graphs: boards are the messages.

A node runs once for every board that its predecessors send, and from the empty board if it has no predecessors. Equal
states of a puzzle lead to equal replies, so each different one is asked about once, whatever the graph; how often a
node would have run is counted. A node of the paper's team of eight operations receives at most 2^7 boards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from dynagent.execution.utility import Ballots
from dynagent.graph import AgentGraph
from dynagent.tasks.crosswords import Puzzle
from dynagent.team.crosswords import JUDGES, BoardState
from dynagent.team.protocols import BoardDecision, BoardOperation

Call = tuple[int, str, str, str, str]  # what determines a reply: model, kind of request, puzzle, board, notes
Waves = tuple[tuple[tuple[int, tuple[int, ...]], ...], ...]
Step = tuple[BoardOperation, Puzzle, BoardState]


@dataclass(frozen=True)
class BoardOutcome:
    """What came of K graphs for each of B puzzles.

    Attributes:
        utility: [B, K] float, the share of right words on the board that the decision's judge takes.
        scores: for each of the judges [B, K, 3] float: words, letters and games.
        num_runs: [B, K], how often operations run if no reply is remembered.
        boards: B x K different states that reached the decision, each with its number.
    """

    utility: Tensor
    scores: dict[str, Tensor]
    num_runs: Tensor
    boards: list[list[Counter[BoardState]]]


class BoardRunner:
    """Executes graphs wave by wave, with one batched call a wave, and remembers what became of every state.

    Args:
        graph: agents with `operations`, and a decision with `scores` (`dynagent.team.crosswords`).
    """

    def __init__(self, graph: AgentGraph) -> None:
        operations = [operation for operation in graph.operations if isinstance(operation, BoardOperation)]
        if len(operations) < len(graph.operations) or not isinstance(graph.decision, BoardDecision):
            raise ValueError("Boards are for agents of operations: give a team of dynagent.team.crosswords.")
        self.graph, self.operations, self.decision = graph, operations, graph.decision
        self._texts: dict[Call, str] = {}
        self._next: dict[tuple[int, str, BoardState], BoardState] = {}

    @property
    def num_calls(self) -> int:
        """Different replies that were asked for."""
        return len(self._texts)

    def prepare(self, puzzles: Sequence[Puzzle]) -> None:
        """Nothing: which boards arise depends on the graphs."""

    def state(self) -> dict[str, Any]:
        """Nothing: what is remembered saves work, and replies are on the language model's record."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing, as `state`."""

    def net_utility(self, puzzles: Sequence[Puzzle], adjacency: Tensor, cost_weight: float) -> Tensor:
        """Share of right words on the chosen boards: [B, K].

        Raises:
            ValueError: for a `cost_weight`, since a step that others share has no price of its own.
        """
        if cost_weight:
            raise ValueError("Boards have no token cost: leave cost_weight at 0.")
        return self.run(puzzles, adjacency).utility

    def ballots(self, puzzles: Sequence[Puzzle], device: torch.device) -> Ballots:
        """There are none.

        Raises:
            ValueError: always, since these agents read each other.
        """
        raise ValueError("Operations on boards read each other and cast no votes: draw graphs and run them.")

    def run(self, puzzles: Sequence[Puzzle], adjacency: Tensor) -> BoardOutcome:
        """Boards and scores of the teams wired by `adjacency`.

        Args:
            puzzles: B puzzles.
            adjacency: [B, K, M, M] bool, acyclic.

        Raises:
            ValueError: for a graph with a cycle.
        """
        plans = [[_waves(matrix.tobytes(), self.graph.num_nodes) for matrix in row] for row in adjacency.cpu().numpy()]
        # Equal graphs of a puzzle are run once.
        sent: dict[tuple[int, Waves], dict[int, Counter[BoardState]]] = {
            (b, plan): {} for b, row in enumerate(plans) for plan in row
        }
        for number in range(self.graph.num_nodes):
            inboxes = {
                (b, plan, node): _inbox(boards, predecessors)
                for (b, plan), boards in sent.items()
                for node, predecessors in (plan[number] if number < len(plan) else ())
            }
            self._ask(
                [
                    (self.operations[node], puzzles[b], state)
                    for (b, _, node), inbox in inboxes.items()
                    if node != self.graph.decision_node
                    for state in inbox
                ]
            )
            for (b, plan, node), inbox in inboxes.items():
                sent[b, plan][node] = self._outbox(node, puzzles[b], inbox)
        return self._outcome(puzzles, [[sent[b, plan] for plan in row] for b, row in enumerate(plans)])

    def _outbox(self, node: int, puzzle: Puzzle, inbox: Counter[BoardState]) -> Counter[BoardState]:
        """What a node makes of its boards; the decision keeps them."""
        if node == self.graph.decision_node:
            return inbox
        boards = Counter[BoardState]()
        for state, times in inbox.items():
            boards[self._next[id(self.operations[node]), puzzle.id, state]] += times
        return boards

    def _ask(self, work: Sequence[Step]) -> None:
        """Run the operations on the states where that is not yet known: one call for each language model."""
        by_key = {(id(operation), puzzle.id, state): (operation, puzzle, state) for operation, puzzle, state in work}
        fresh = {key: step for key, step in by_key.items() if key not in self._next}
        asked = {
            _call(operation, puzzle, state): (operation, puzzle, state)
            for operation, puzzle, state in fresh.values()
            if operation.has_work(state)
        }
        by_llm: dict[int, list[Call]] = {}
        for call in asked:
            if call not in self._texts:
                by_llm.setdefault(call[0], []).append(call)
        for calls in by_llm.values():
            steps = [asked[call] for call in calls]
            requests = [operation.request(puzzle, state) for operation, puzzle, state in steps]
            shared_llm = steps[0][0].llm
            replies = shared_llm.reply(requests)
            self._texts |= {call: reply.text or "" for call, reply in zip(calls, replies, strict=True)}
        for key, (operation, puzzle, state) in fresh.items():
            self._next[key] = operation.next_state(state, self._texts.get(_call(operation, puzzle, state), ""))

    def _outcome(self, puzzles: Sequence[Puzzle], sent: list[list[dict[int, Counter[BoardState]]]]) -> BoardOutcome:
        decision = self.graph.decision_node
        boards = [[graph[decision] for graph in row] for row in sent]
        scores = {
            judge: torch.tensor(
                [
                    [self.decision.scores(puzzle, received, judge) for received in row]
                    for puzzle, row in zip(puzzles, boards, strict=True)
                ]
            )
            for judge in JUDGES
        }
        runs = [[sum(c.total() for node, c in graph.items() if node != decision) for graph in row] for row in sent]
        return BoardOutcome(scores[self.decision.judge][..., 0], scores, torch.tensor(runs), boards)


def _call(operation: BoardOperation, puzzle: Puzzle, state: BoardState) -> Call:
    return id(operation.llm), operation.asks_to, puzzle.id, state.board, state.hint


def _inbox(sent: dict[int, Counter[BoardState]], predecessors: tuple[int, ...]) -> Counter[BoardState]:
    """The boards that a node receives, each with its number."""
    received: Counter[BoardState] = Counter()
    for node in predecessors:
        received.update(sent[node])
    return received if predecessors else Counter([BoardState()])


@lru_cache(maxsize=1 << 14)
def _waves(adjacency: bytes, num_nodes: int) -> Waves:
    """The nodes, each with its predecessors, in waves: those of a wave hear only nodes of earlier ones."""
    graph = nx.from_numpy_array(np.frombuffer(adjacency, bool).reshape(num_nodes, num_nodes), create_using=nx.DiGraph)
    try:
        return tuple(
            tuple((node, tuple(sorted(graph.predecessors(node)))) for node in sorted(wave))
            for wave in nx.topological_generations(graph)
        )
    except nx.NetworkXUnfeasible:
        raise ValueError("The agents wait for each other: the graph has a cycle.") from None
