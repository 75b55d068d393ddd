"""The team of agents that read each other, its wirings, and the questions that it is asked.

Senders write an answer and a reason; voters answer with a letter, alone or after what they have heard. A voter that
nobody hears need not explain itself, so that voting alone is as cheap as it can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynagent.graph import AgentGraph
from dynagent.llm.base import Request
from dynagent.team.agents import Truthful
from dynagent.team.messages import Message
from dynagent.team.votes import MajorityVote

MODEL = "qwen2.5-coder-1.5b-instruct"
FOLDER = "results/recordings/communication"
MOST_CHARACTERS = 200  # of a question with its options
NUM_QUESTIONS = 208
NUM_SENDERS, NUM_VOTERS, MOST_READERS = 2, 10, 5
TEMPERATURE = 0.7


@dataclass(frozen=True)
class Sender(Truthful):
    """Says the same whatever the seed: of what it writes, one draw is on record."""

    number: int = 0

    def request(self, question: Any, messages: Sequence[Message] = (), sample: int = 0) -> Request:
        return super().request(question, messages, self.number)


def short_questions(questions: Sequence[Any]) -> list[Any]:
    """The first questions that are short, since long ones take two cores too long."""
    return [question for question in questions if len(question.render()) <= MOST_CHARACTERS][:NUM_QUESTIONS]


def make_graph(llm: Any, temperature: float = TEMPERATURE) -> AgentGraph:
    """Two senders, and voters that draw their letters at a temperature; all of them read what they hear."""
    senders = [
        Sender(llm, mode="text", reads=True, temperature=TEMPERATURE, name="Sender", group="senders", number=number)
        for number in range(NUM_SENDERS)
    ]
    voter = Truthful(llm, mode="letter", reads=True, temperature=temperature, name="Voter", group="voters")
    return AgentGraph([*senders, *[voter] * NUM_VOTERS], MajorityVote())


def wiring(graph: AgentGraph, senders: Sequence[int] = (), num_readers: int = 0, num_alone: int = 0) -> Tensor:
    """So many voters who have heard the senders, and so many who have heard nobody: [M, M] bool."""
    adjacency = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.bool)
    voters = torch.arange(NUM_SENDERS, NUM_SENDERS + num_readers + num_alone)
    for sender in senders:
        adjacency[sender, voters[:num_readers]] = True
    adjacency[voters, graph.decision_node] = True
    return adjacency
