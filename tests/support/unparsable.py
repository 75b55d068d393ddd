"""A small team some of whose replies say nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dynagent.tasks.recorded import RecordedQuestion

NUM_QUESTIONS = 16


@dataclass(frozen=True)
class Toy:
    """An agent that is right with a stated probability."""

    accuracy: float
    name: str = "Toy"
    group: str = "toy"
    reads: bool = False
    llm: object = None

    def answer(self, question, reply, draw):
        return question.answer if draw < self.accuracy else (question.answer + 1 + int(draw * 100) % 3) % 4

    def tells_truth(self, question):
        return True


class Echo:
    """A language model that has nothing to say."""

    identity = "none"

    def reply(self, requests, desc=""):
        return [None] * len(requests)


@dataclass(frozen=True)
class Asked(Toy):
    llm: object = Echo()

    def request(self, question, messages, sample):
        return question


class Reader:
    name = identity = "reader-of-tests"
    hidden_size = 6

    def read(self, asked, readout="mean_hidden"):
        generator = torch.Generator().manual_seed(5)
        table = torch.randn(NUM_QUESTIONS, self.hidden_size, generator=generator)
        return torch.stack([table[int(question.id)] for question in asked])


def questions():
    return [
        RecordedQuestion(id=str(number), answer=number % 4, subject="law", language="en")
        for number in range(NUM_QUESTIONS)
    ]


def team():
    return (Asked(0.8), Asked(0.7), Asked(0.3), Toy(0.1))
