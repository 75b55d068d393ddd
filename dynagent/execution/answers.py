"""Ask every agent once, and remember what it said."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

from dynagent.llm.base import Reply, Request
from dynagent.team.messages import Message
from dynagent.team.protocols import Agent, Question, asks_llm


class Situation(NamedTuple):
    """All that an agent's answer depends on, beside the seed.

    Attributes:
        question: its id.
        node: the agent's position in the team.
        heard: its predecessors' messages; none, if it does not read.
    """

    question: str
    node: int
    heard: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What an agent said.

    Attributes:
        option: index of the option that it chose, or a negative number.
        reply: the text that this was parsed from; empty without one.
        tokens: that were read and written for it; one for an agent without a language model.
    """

    option: int
    reply: str
    tokens: int


class Answers:
    """The answers of a team, each asked for when it is first wanted.

    Args:
        team: agents of one operation each.
        llms: their language models, each once.
        seed: of the agents' draws. An agent's draw on a question depends on the seed, the question and the agent's
            position alone.
    """

    def __init__(self, team: Sequence[Agent], llms: Sequence[Any], seed: int) -> None:
        self.team, self.llms, self.seed = team, llms, seed
        self._answers: dict[Situation, Answer] = {}
        self._messages: dict[Message, Message] = {}  # equal ones are one object: long runs remember many

    def known(self, situations: Iterable[Situation]) -> list[Answer]:
        """Answers that were asked for before."""
        return [self._answers[situation] for situation in situations]

    def ask(self, work: Mapping[Situation, Question]) -> None:
        """Ask what is not yet known: one batched call for each language model."""
        by_llm: dict[int, list[Situation]] = {}
        for situation in work:
            if situation not in self._answers:
                by_llm.setdefault(id(self.team[situation.node].llm), []).append(situation)
        for situations in by_llm.values():
            questions = [work[situation] for situation in situations]
            replies = self._replies(situations, questions)
            for situation, question, reply in zip(situations, questions, replies, strict=True):
                draw = self._draw(situation.question, situation.node)
                option = self.team[situation.node].answer(question, reply, draw)
                text, tokens = ("", 1) if reply is None else (reply.text or "", reply.tokens)
                self._answers[situation] = Answer(option, text, tokens)

    def _replies(self, situations: Sequence[Situation], questions: Sequence[Question]) -> Sequence[Reply | None]:
        """Replies of the one language model that all these agents share; None for each, if they have none."""
        llm = self.team[situations[0].node].llm
        if llm is None:
            return [None] * len(situations)
        replies: Sequence[Reply | None] = llm.reply(
            [self._request(s.node, question, s.heard) for s, question in zip(situations, questions, strict=True)]
        )
        return replies

    def _request(self, node: int, question: Question, heard: Sequence[Message]) -> Request:
        agent = self.team[node]
        assert asks_llm(agent)
        # A written answer is drawn by the model: another seed or position is another sample.
        return agent.request(question, heard, self.seed * len(self.team) + node)

    def _draw(self, question_id: str, node: int) -> float:
        """Uniform in [0, 1), from the seed, the question and the agent's position."""
        digest = hashlib.sha256(f"{self.seed}/{question_id}/{node}".encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48

    def planned(self, questions: Sequence[Question], llm: Any) -> list[Request]:
        """What the agents of a language model ask it when they have heard nobody, question after question."""
        nodes = [node for node, agent in enumerate(self.team) if agent.llm is llm]
        return [self._request(node, question, ()) for question in questions for node in nodes]

    def message(self, situation: Situation) -> Message:
        """What others hear of an answer."""
        answer = self._answers[situation]
        message = Message.of(f"Agent {situation.node}", answer.option, answer.reply)
        return self._messages.setdefault(message, message)

    def state(self) -> dict[str, Any]:
        """What agents that read have answered so far, and what that has counted, as JSON values.

        What they are asked next, and in which batches, depends on it. What agents that read nobody are asked does not.
        """
        answers = [
            [situation.question, situation.node, [astuple(message) for message in situation.heard], astuple(answer)]
            for situation, answer in self._answers.items()
            if self.team[situation.node].reads
        ]
        return {"answers": answers, "counts": [llm.counts() for llm in self.llms] if answers else []}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Forget what agents that read have answered, but for what `state` holds."""
        self._answers = {key: answer for key, answer in self._answers.items() if not self.team[key.node].reads}
        for question_id, node, heard, answer in state["answers"]:
            messages = tuple(Message(*message) for message in heard)
            self._answers[Situation(question_id, node, messages)] = Answer(*answer)
        for llm, counts in zip(self.llms, state["counts"], strict=False):  # no counts where nobody has read
            llm.count_from(counts)
