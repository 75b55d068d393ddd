"""A known-answer world in which agents that read each other can do what no vote can.

Two agents hold a hint each, one for English and one for Chinese questions, and cannot use it themselves: they guess.
Three solvers are little better alone; one that hears the hint for the question's language is mostly right, and the
other hint distracts it. Who speaks to whom should thus depend on the question. All agents are simulated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from dynagent.graph import AgentGraph
from dynagent.llm.base import Reply, Request
from dynagent.team.messages import Message
from dynagent.team.protocols import Question
from dynagent.team.votes import MajorityVote

HINTS = {"en": 0, "zh": 1}  # language -> position of the agent that holds its hint
NUM_SOLVERS = 3
GUESSING, ALONE, HINTED, DISTRACTION = 0.25, 0.35, 0.8, 0.3  # accuracies, and what the other hint takes away


class Hearsay:
    """In place of a language model: the reply to a prompt is what stands in it."""

    identity = "none"

    def reply(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(str(request.prompt)) for request in requests]


HEARSAY = Hearsay()


@dataclass(frozen=True)
class HintHolder:
    """Holds the hint for one language and guesses itself."""

    language: str
    group: str = "hints"
    reads: bool = False
    llm: Any = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return f"Hint({self.language})"

    def answer(self, question: Question, reply: Reply | None, draw: float) -> int:
        return drawn_answer(question, GUESSING, draw)


@dataclass(frozen=True)
class Solver:
    """Answers by itself, or with the hints that it hears where it reads."""

    reads: bool = True
    name: str = "Solver"
    group: str = "solvers"
    llm: Any = field(default=HEARSAY, repr=False)

    def request(self, question: Question, messages: Sequence[Message] = (), sample: int = 0) -> Request:
        return Request(" ".join(message.sender.removeprefix("Agent ") for message in messages))

    def answer(self, question: Question, reply: Reply | None, draw: float) -> int:
        assert reply is not None, "a solver has somebody to ask"
        heard = frozenset(map(int, (reply.text or "").split()))
        return drawn_answer(question, accuracy_of_solver(question.language, heard), draw)


def accuracy_of_solver(language: str, heard: Iterable[int]) -> float:
    """How often a solver is right that has heard the agents at these positions."""
    hints = {name for name, position in HINTS.items() if position in set(heard)}
    return (HINTED if language in hints else ALONE) - DISTRACTION * bool(hints - {language})


def drawn_answer(question: Question, accuracy: float, draw: float) -> int:
    """The right option with this probability, else one of the wrong ones; `draw` is uniform in [0, 1)."""
    if draw < accuracy:
        return int(question.answer)
    return (int(question.answer) + 1 + min(int((draw - accuracy) / (1 - accuracy) * 3), 2)) % 4


def make_graph(reads: bool) -> AgentGraph:
    """Both holders of hints and the solvers, who read or do not."""
    return AgentGraph([*map(HintHolder, HINTS), *[Solver(reads)] * NUM_SOLVERS], MajorityVote())


def accuracy_of_graph(graph: AgentGraph, adjacency: Tensor, language: str) -> float:
    """Probability that the team is right on a question, exact: [M, M] bool in, a number out."""
    voters = adjacency[:-1, graph.decision_node].nonzero().flatten().tolist()
    accuracies = []
    for node in voters:
        if node in HINTS.values():
            accuracies.append(GUESSING)
            continue
        heard = adjacency[:-1, node].nonzero().flatten().tolist() if graph.team[node].reads else []
        accuracies.append(accuracy_of_solver(language, heard))
    return _accuracy_of_vote(tuple(sorted(accuracies)))


@lru_cache(maxsize=1 << 14)
def _accuracy_of_vote(accuracies: tuple[float, ...]) -> float:
    """Independent voters, each right with its own probability or else on one of three wrong letters: all enumerated."""
    if not accuracies:
        return 0.0
    answers = torch.tensor(list(product(range(4), repeat=len(accuracies))))  # the right option is 0
    p = torch.tensor(accuracies, dtype=torch.float64)
    weight = torch.where(answers == 0, p, (1 - p) / 3).prod(1)
    return float((weight * MajorityVote().option_probs(answers, 4)[:, 0]).sum())


def graphs(graph: AgentGraph) -> Tensor:
    """Every graph that can make a difference: [G, M, M] bool; edges between solvers tell nobody anything."""
    from_hints = graph.potential_edges[:, 0] < len(HINTS)
    free = (graph.effective & (from_hints | graph.decision_edges)).nonzero().flatten()
    bits = torch.arange(2 ** len(free))[:, None] >> torch.arange(len(free)) & 1
    edges = torch.zeros(len(bits), graph.num_edges, dtype=torch.bool)
    edges[:, free] = bits.bool()
    return graph.adjacency(edges)


def optima(graph: AgentGraph) -> dict[str, float]:
    """Accuracy of the best graph for all questions alike, and of the best for each language, found by enumeration."""
    rows = [[accuracy_of_graph(graph, one, language) for language in HINTS] for one in graphs(graph)]
    table = torch.tensor(rows, dtype=torch.float64)
    return {"static": float(table.mean(1).max()), "dynamic": float(table.amax(0).mean())}
