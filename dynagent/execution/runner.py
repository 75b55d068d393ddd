"""Runs a team along a batch of graphs: one wave of agents after the other, every different call once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dynagent.graph import AgentGraph
from dynagent.learning.objectives import enumerated_utility, local_expectation
from dynagent.llm.base import Reply, Request
from dynagent.team.messages import Message
from dynagent.team.votes import NOT_ASKED


@dataclass(frozen=True)
class Outcome:
    """What came of K graphs for each of B questions.

    Attributes:
        utility: [B, K] float, the probability that the team's answer is right (ties are split).
        answers: [B, K, N] option indices; negative where there is none, `NOT_ASKED` or as `dynagent.team.replies` says.
        asked: [B, K, N] bool, the agents whose answer reaches the decision, over agents that read or at once: the
            others are not called.
        option_probs: [B, K, C] float, the vote's outcome.
        tokens: [B, K], read and written by the agents that are asked, each on its own; one for an agent without a
            language model.
    """

    utility: Tensor
    answers: Tensor
    asked: Tensor
    option_probs: Tensor
    tokens: Tensor


class _Said(NamedTuple):
    """An agent's answer, the reply that it was parsed from, and the tokens that it took."""

    answer: int
    reply: str
    tokens: int


class ExecutesGraphs(Protocol):
    """What training needs of a runner: `Runner` here, for questions; an experiment may have its own."""

    def prepare(self, questions: Sequence[Any]) -> None:
        """Make ready for the questions, in the fullest batches."""

    def net_utility(self, questions: Sequence[Any], adjacency: Tensor, cost_weight: float) -> Tensor:
        """Utility of the graphs, [B, K, M, M], minus what they cost: [B, K]."""

    def expected_utility(
        self, questions: Sequence[Any], edge_probs: Tensor, noise: Tensor | None = None, cost_weight: float = 0.0
    ) -> Tensor:
        """Net utility averaged over the graphs that the probabilities make: [B]."""

    def state(self) -> dict[str, Any]:
        """What was remembered so far and changes what is asked next, as JSON values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to such a state."""


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
        self._answers: dict[tuple[str, int, tuple[Message, ...]], _Said] = {}
        self._messages: dict[Message, Message] = {}  # equal ones are one object: long runs remember many

    def prepare(self, questions: Sequence[Any]) -> None:
        """Ask every agent that reads nobody, on all questions, in the fullest batches."""
        silent = [node for node, agent in enumerate(self.graph.team) if not agent.reads]
        self._ask({(q.id, node, ()): q for q in questions for node in silent})

    def planned(self, questions: Sequence[Any], llm: Any) -> list[Request]:
        """What the agents of a language model ask it when they have heard nobody, in the order of `prepare`."""
        team = [(node, agent) for node, agent in enumerate(self.graph.team) if agent.llm is llm]
        return [agent.request(q, (), self._sample(node)) for q in questions for node, agent in team]

    def run(self, questions: Sequence[Any], adjacency: Tensor) -> Outcome:
        """Answers and utilities of the teams wired by `adjacency`.

        Args:
            questions: B questions.
            adjacency: [B, K, M, M] bool, acyclic.
        """
        reads = torch.tensor([agent.reads for agent in self.graph.team])
        heard = adjacency.cpu() & torch.cat([reads, torch.tensor([True])])  # who does not read, hears nobody
        asked = ancestors(heard, self.graph.decision_node)[..., :-1]  # [B, K, N]
        answers, tokens = torch.full(asked.shape, NOT_ASKED), torch.zeros(asked.shape, dtype=torch.long)

        places = (asked & ~reads).any(1).nonzero()  # [P, 2]
        keys = [(questions[b].id, node, ()) for b, node in places.tolist()]
        self._ask({key: questions[b] for key, b in zip(keys, places[:, 0].tolist(), strict=True)})
        said = torch.tensor([self._answers[key][::2] for key in keys], dtype=torch.long).view(-1, 2)
        answers[places[:, 0], :, places[:, 1]], tokens[places[:, 0], :, places[:, 1]] = said[:, :1], said[:, 1:]
        answers = torch.where(asked, answers, NOT_ASKED)
        if (asked & reads).any():
            self._run_readers(questions, heard, asked & reads, answers, tokens)

        votes = heard[..., :-1, self.graph.decision_node]
        option_probs = self.graph.decision.option_probs(torch.where(votes, answers, NOT_ASKED), _num_options(questions))
        utility = _of_the_right_option(option_probs, questions)
        return Outcome(utility, answers, asked, option_probs, (tokens * asked).sum(-1))

    def net_utility(self, questions: Sequence[Any], adjacency: Tensor, cost_weight: float) -> Tensor:
        """Utility minus `cost_weight` times the tokens spent, in units of what the full graph spends: [B, K].

        Args:
            questions, adjacency: see `run`.
        """
        outcome = self.run(questions, adjacency)
        if not cost_weight:
            return outcome.utility
        full = self.run(questions, self.graph.full().expand(len(questions), 1, -1, -1)).tokens  # [B, 1]
        return outcome.utility - cost_weight * outcome.tokens / full

    def expected_utility(
        self, questions: Sequence[Any], edge_probs: Tensor, noise: Tensor | None = None, cost_weight: float = 0.0
    ) -> Tensor:
        """Net utility averaged over the graphs that the probabilities make, differentiable in them: [B].

        It is exact, or with `noise` a quantity whose gradient is so in expectation (`local_expectation`).

        Args:
            questions: B questions.
            edge_probs: [B, E].
            noise: [B, K, N] uniform numbers.
            cost_weight: see `net_utility`; the expected spend is a sum over the edges, exact with or without noise.

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
        said = [[self._answers[q.id, n, ()] for n in range(num_agents)] for q in questions]
        vote_probs = edge_probs[:, _on(edge_probs, self.graph.decision_edges.nonzero()[:, 0])]  # [B, N]
        answers = _on(edge_probs, torch.tensor([[one.answer for one in row] for row in said]))
        num_options, spend = _num_options(questions), torch.zeros(len(questions), device=edge_probs.device)
        if cost_weight:
            tokens = _on(edge_probs, torch.tensor([[one.tokens for one in row] for row in said]))  # [B, N]
            spend = cost_weight * (vote_probs * tokens).sum(-1) / tokens.sum(-1)
        if noise is None and hasattr(decision, "expected_option_probs"):
            expected = decision.expected_option_probs(vote_probs, answers, num_options)
            return _of_the_right_option(expected[:, None], questions)[:, 0] - spend

        def utility_of(votes: Tensor) -> Tensor:
            option_probs = decision.option_probs(torch.where(votes, answers[:, None], NOT_ASKED), num_options)
            return _of_the_right_option(option_probs, questions)

        if noise is None:
            return enumerated_utility(vote_probs, utility_of) - spend
        return local_expectation(vote_probs, utility_of, _on(edge_probs, noise)) - spend

    def state(self) -> dict[str, Any]:
        """What agents that read have answered so far, and what that has counted, as JSON values.

        What they are asked next, and in which batches, depends on it. Agents that read nobody are asked by `prepare`.
        """
        readers = {key: value for key, value in self._answers.items() if self.graph.team[key[1]].reads}
        answers = [[key[0], key[1], [astuple(m) for m in key[2]], value] for key, value in readers.items()]
        return {"answers": answers, "counts": [llm.counts() for llm in used_llms(self.graph)] if answers else []}

    def restore(self, state: dict[str, Any]) -> None:
        """Forget what agents that read have answered, but for what `state` holds."""
        self._answers = {key: value for key, value in self._answers.items() if not self.graph.team[key[1]].reads}
        for question_id, node, heard, value in state["answers"]:
            self._answers[question_id, node, tuple(Message(*message) for message in heard)] = _Said(*value)
        for llm, counts in zip(used_llms(self.graph), state["counts"], strict=False):
            llm.count_from(counts)

    def _run_readers(
        self, questions: Sequence[Any], adjacency: Tensor, asked: Tensor, answers: Tensor, tokens: Tensor
    ) -> None:
        """Fill in answers and tokens of agents that read, in waves: a wave's predecessors have all spoken."""
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
                answers[b, k, node], tokens[b, k, node] = self._answers[questions[b].id, node, told[b, k, node]][::2]
            waiting = later

    def _message(self, question_id: str, sender: int, told: tuple[Message, ...]) -> Message:
        said = self._answers[question_id, sender, told]
        message = Message.of(f"Agent {sender}", said.answer, said.reply)
        return self._messages.setdefault(message, message)

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
                requests = [
                    agent.request(work[key], key[2], self._sample(key[1]))
                    for agent, key in zip(agents, keys, strict=True)
                ]
                replies = agents[0].llm.reply(requests)
            for agent, key, reply in zip(agents, keys, replies, strict=True):
                answer = agent.answer(work[key], reply, self._draw(key[0], key[1]))
                self._answers[key] = _Said(answer, (reply and reply.text) or "", reply.tokens if reply else 1)

    def _sample(self, node: int) -> int:
        """A written answer is drawn by the model: another seed or position is another sample."""
        return self.seed * len(self.graph.team) + node

    def _draw(self, question_id: str, node: int) -> float:
        """Uniform in [0, 1), from the seed, the question and the agent's position."""
        digest = hashlib.sha256(f"{self.seed}/{question_id}/{node}".encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48


def used_llms(graph: AgentGraph) -> list[Any]:
    """The agents' language models, each once."""
    return list({id(agent.llm): agent.llm for agent in graph.team if agent.llm is not None}.values())


def _num_options(questions: Sequence[Any]) -> int:
    return max(len(question.options) for question in questions)


def _of_the_right_option(option_probs: Tensor, questions: Sequence[Any]) -> Tensor:
    """[B, K] from [B, K, C]."""
    right = _on(option_probs, torch.tensor([question.answer for question in questions]))
    return option_probs[torch.arange(len(questions), device=right.device), :, right]


def _on(where: Tensor, values: Tensor) -> Tensor:
    """The values on the device of another tensor, without waiting for what that device was given to do before."""
    return values.to(where.device, non_blocking=True)


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
