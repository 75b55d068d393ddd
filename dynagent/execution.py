"""Runs a team along a batch of graphs: one wave of agents after the other, every different call once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynagent.agents import LETTERS, Message
from dynagent.decision import NOT_ASKED
from dynagent.estimators import enumerated_utility, local_expectation
from dynagent.graph import AgentGraph
from dynagent.llm import Reply, Request


@dataclass(frozen=True)
class Outcome:
    """What came of K graphs for each of B questions.

    Attributes:
        utility: [B, K] float, the probability that the team's answer is right (ties are split).
        answers: [B, K, N] option indices, `UNPARSABLE` or `NOT_ASKED`.
        asked: [B, K, N] bool, the agents whose answer reaches the decision, over agents that read or at once: the
            others are not called.
        option_probs: [B, K, C] float, the vote's outcome.
    """

    utility: Tensor
    answers: Tensor
    asked: Tensor
    option_probs: Tensor


class Runner:
    """Executes graphs, and remembers every answer.

    An agent that reads nobody is asked once a question, whatever the number of graphs; one that reads is asked
    once for each different set of messages.

    Args:
        graph: the team and its decision.
        seed: of the agents' draws. An agent's draw on a question depends on the seed, the question and the
            agent's position alone.
    """

    def __init__(self, graph: AgentGraph, seed: int = 0) -> None:
        if len(graph.nodes) != len(graph.team) + 1:
            raise ValueError("Agents of several operations cannot be run on multiple-choice questions.")
        self.graph = graph
        self.seed = seed
        self._answers: dict[tuple[str, int, tuple[Message, ...]], tuple[int, str]] = {}

    def prepare(self, questions: Sequence[Any]) -> None:
        """Ask every agent that reads nobody, on all questions, in the fullest batches."""
        silent = [node for node, agent in enumerate(self.graph.team) if not agent.reads]
        self._ask({(q.id, node, ()): q for q in questions for node in silent})

    def planned(self, questions: Sequence[Any]) -> list[tuple[Any, Request]]:
        """Agents, and what each asks its language model when it has heard nobody, in the order of `prepare`."""
        team = [(node, agent) for node, agent in enumerate(self.graph.team) if agent.llm is not None]
        return [(agent, agent.request(q, (), self._sample(node))) for q in questions for node, agent in team]

    def run(self, questions: Sequence[Any], adjacency: Tensor) -> Outcome:
        """Answers and utilities of the teams wired by `adjacency`.

        Args:
            questions: B questions.
            adjacency: [B, K, M, M] bool, acyclic.
        """
        reads = torch.tensor([agent.reads for agent in self.graph.team])
        heard = adjacency.cpu() & torch.cat([reads, torch.tensor([True])])  # who does not read, hears nobody
        asked = ancestors(heard, self.graph.decision_node)[..., :-1]  # [B, K, N]
        answers = torch.full(asked.shape, NOT_ASKED)

        each = (asked & ~reads).any(1).nonzero().tolist()
        self._ask({(questions[b].id, node, ()): questions[b] for b, node in each})
        for b, node in each:
            answers[b, :, node] = self._answers[questions[b].id, node, ()][0]
        answers = torch.where(asked, answers, NOT_ASKED)
        if (asked & reads).any():
            self._run_readers(questions, heard, asked & reads, answers)

        votes = heard[..., :-1, self.graph.decision_node]
        option_probs = self.graph.decision.option_probs(torch.where(votes, answers, NOT_ASKED), _num_options(questions))
        return Outcome(_of_the_right_option(option_probs, questions), answers, asked, option_probs)

    def expected_utility(self, questions: Sequence[Any], edge_probs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Utility averaged over the graphs that the probabilities make, differentiable in them: [B].

        It is exact, or with `noise` a quantity whose gradient is so in expectation (`local_expectation`).

        Args:
            questions: B questions.
            edge_probs: [B, E].
            noise: [B, K, N] uniform numbers.

        Raises:
            ValueError: if an agent reads others, so that edges between agents matter, too.
        """
        if any(agent.reads for agent in self.graph.team):
            raise ValueError(
                "The estimators 'exact' and 'local_expectation' are for agents that do not read each other: choose "
                "'leave_one_out' for this team."
            )
        decision, num_agents = self.graph.decision, len(self.graph.team)
        self.prepare(questions)
        answers = torch.tensor([[self._answers[q.id, n, ()][0] for n in range(num_agents)] for q in questions])
        vote_probs = edge_probs[:, self.graph.decision_edges.to(edge_probs.device)]  # [B, N]
        answers, num_options = answers.to(edge_probs.device), _num_options(questions)
        if noise is None and hasattr(decision, "expected_option_probs"):
            expected = decision.expected_option_probs(vote_probs, answers, num_options)
            return _of_the_right_option(expected[:, None], questions)[:, 0]

        def utility_of(votes: Tensor) -> Tensor:
            option_probs = decision.option_probs(torch.where(votes, answers[:, None], NOT_ASKED), num_options)
            return _of_the_right_option(option_probs, questions)

        if noise is None:
            return enumerated_utility(vote_probs, utility_of)
        return local_expectation(vote_probs, utility_of, noise.to(edge_probs.device))

    def _run_readers(self, questions: Sequence[Any], adjacency: Tensor, asked: Tensor, answers: Tensor) -> None:
        """Fill in the answers of agents that read, in waves: a wave's predecessors have all spoken."""
        told: dict[tuple[int, int, int], tuple[Message, ...]] = {}
        waiting = [tuple(place) for place in asked.nonzero().tolist()]
        while waiting:
            unanswered = set(waiting)
            wave, later = [], []
            for b, k, node in waiting:
                heard = adjacency[b, k, :-1, node].nonzero().flatten().tolist()
                if any((b, k, sender) in unanswered for sender in heard):
                    later.append((b, k, node))
                    continue
                wave.append((b, k, node))
                told[b, k, node] = tuple(
                    self._message(questions[b].id, sender, told.get((b, k, sender), ())) for sender in heard
                )
            if not wave:
                raise ValueError("The agents that read wait for each other: the graph has a cycle.")
            self._ask({(questions[b].id, node, told[b, k, node]): questions[b] for b, k, node in wave})
            for b, k, node in wave:
                answers[b, k, node] = self._answers[questions[b].id, node, told[b, k, node]][0]
            waiting = later

    def _message(self, question_id: str, sender: int, told: tuple[Message, ...]) -> Message:
        answer, text = self._answers[question_id, sender, told]
        return Message(f"Agent {sender}", LETTERS[answer] if answer >= 0 else "nothing", text)

    def _ask(self, work: dict[tuple[str, int, tuple[Message, ...]], Any]) -> None:
        """Ask what is not yet known: one batched call for each language model."""
        work = {key: question for key, question in work.items() if key not in self._answers}
        by_llm: dict[int, list[tuple[str, int, tuple[Message, ...]]]] = {}
        for key in work:
            by_llm.setdefault(id(self.graph.team[key[1]].llm), []).append(key)
        for keys in by_llm.values():
            agents = [self.graph.team[node] for _, node, _ in keys]
            replies: Sequence[Reply | None] = [None] * len(keys)
            if agents[0].llm is not None:
                samples = [self._sample(node) for _, node, _ in keys]
                requests = [
                    agent.request(work[key], key[2], sample)
                    for agent, key, sample in zip(agents, keys, samples, strict=True)
                ]
                replies = agents[0].llm.reply(requests)
            for agent, key, reply in zip(agents, keys, replies, strict=True):
                answer = agent.answer(work[key], reply, self._draw(key[0], key[1]))
                self._answers[key] = (answer, (reply and reply.text) or "")

    def _sample(self, node: int) -> int:
        """A written answer is drawn by the model: another seed or position is another sample."""
        return self.seed * len(self.graph.team) + node

    def _draw(self, question_id: str, node: int) -> float:
        """Uniform in [0, 1), from the seed, the question and the agent's position."""
        digest = hashlib.sha256(f"{self.seed}/{question_id}/{node}".encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48


def _num_options(questions: Sequence[Any]) -> int:
    return max(len(question.options) for question in questions)


def _of_the_right_option(option_probs: Tensor, questions: Sequence[Any]) -> Tensor:
    """[B, K] from [B, K, C]."""
    return option_probs[torch.arange(len(questions)), :, [question.answer for question in questions]]


def ancestors(adjacency: Tensor, node: int) -> Tensor:
    """Nodes with a path to `node`, itself included: [..., M] bool from [..., M, M] bool."""
    found = adjacency[..., :, node].clone()
    found[..., node] = True
    for _ in range(adjacency.shape[-1]):
        grown = found | (adjacency & found[..., None, :]).any(-1)
        if torch.equal(grown, found):
            break
        found = grown
    return found
