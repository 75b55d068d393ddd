"""Replies from which no letter can be read: agents that give them at a stated rate, and votes that meet them.

The recorded agents always name a letter, so that unparsable replies are simulated on top of their answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dynagent.execution.utility import enumerated_utility
from dynagent.llm.base import Reply, Request
from dynagent.team.agents import Truthful
from dynagent.team.messages import Message
from dynagent.team.protocols import Question
from dynagent.team.replies import UNPARSABLE
from dynagent.team.votes import MajorityVote


@dataclass(frozen=True)
class Garbled:
    """An agent with a language model, whose reply is unparsable at a stated rate, independently of all else.

    Args:
        agent: whose answer it is otherwise.
        rate: probability of an unparsable reply.
    """

    agent: Truthful = field(repr=False)
    rate: float

    @property
    def name(self) -> str:
        return self.agent.name

    @property
    def group(self) -> str:
        return self.agent.group

    @property
    def reads(self) -> bool:
        return self.agent.reads

    @property
    def llm(self) -> Any:
        return self.agent.llm

    def tells_truth(self, question: Question) -> bool:
        return self.agent.tells_truth(question)

    def request(self, question: Question, messages: Sequence[Message], sample: int) -> Request:
        return self.agent.request(question, messages, sample)

    def answer(self, question: Question, reply: Reply | None, draw: float) -> int:
        """The agent's answer or `UNPARSABLE`; `draw` is uniform in [0, 1) and serves for both."""
        if draw < self.rate:
            return UNPARSABLE
        return self.agent.answer(question, reply, (draw - self.rate) / (1 - self.rate))


def garbled(team: Sequence[Any], rate: float) -> list[Any]:
    """The team whose members with a language model may reply unparsably."""
    return [Garbled(agent, rate) if agent.llm is not None else agent for agent in team]


class VoidedVote(MajorityVote):
    """A vote without an outcome as soon as one vote is unparsable, as where reading a broken reply fails."""

    name = "VoidedVote"

    def option_probs(self, answers: Tensor, num_options: int) -> Tensor:
        """As `MajorityVote.option_probs`; all zero where an answer is `UNPARSABLE`."""
        return super().option_probs(answers, num_options) * (answers != UNPARSABLE).all(-1, keepdim=True)

    def expected_option_probs(self, vote_probs: Tensor, answers: Tensor, num_options: int) -> Tensor:
        """As `MajorityVote.expected_option_probs`: whether a bad reply is heard depends on no other vote."""
        nobody_spoils = torch.where(answers == UNPARSABLE, 1 - vote_probs, 1.0).prod(-1, keepdim=True)
        return super().expected_option_probs(vote_probs, answers, num_options) * nobody_spoils


class BlankVote(MajorityVote):
    """A vote in which all unparsable replies are votes for one more option that is never right."""

    name = "BlankVote"

    def option_probs(self, answers: Tensor, num_options: int) -> Tensor:
        """As `MajorityVote.option_probs`; the blank option's share is left out."""
        return super().option_probs(self._with_blank(answers, num_options), num_options + 1)[..., :-1]

    def expected_option_probs(self, vote_probs: Tensor, answers: Tensor, num_options: int) -> Tensor:
        """As `MajorityVote.expected_option_probs`, the blank option left out."""
        answers = self._with_blank(answers, num_options)
        return super().expected_option_probs(vote_probs, answers, num_options + 1)[..., :-1]

    @staticmethod
    def _with_blank(answers: Tensor, num_options: int) -> Tensor:
        return torch.where(answers == UNPARSABLE, num_options, answers)


RULES: dict[str, type[MajorityVote]] = {"no vote": MajorityVote, "blank": BlankVote, "voids": VoidedVote}


def expected_accuracy(answers: Tensor, right: Tensor, rate: float, rule: str) -> Tensor:
    """Accuracy of the vote of all, where each reply is unparsable at the rate: [n], exact over the 2^k cases.

    Args:
        answers: [n, k] option indices, as they would be read.
        right: [n], the right option.
    """
    decision, num_options = RULES[rule](), int(max(answers.max(), right.max())) + 1

    def utility_of(readable: Tensor) -> Tensor:
        heard = torch.where(readable, answers[:, None], UNPARSABLE)
        return decision.option_probs(heard, num_options)[torch.arange(len(right)), :, right]

    return enumerated_utility(torch.full(answers.shape, 1 - rate), utility_of)
