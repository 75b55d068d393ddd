"""Runs a team along a batch of graphs: what it has said, who runs when, and what the vote is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from dynagent.execution.answers import Answers, Situation
from dynagent.execution.utility import Ballots, Outcome, most_options, prob_of_right
from dynagent.execution.waves import ancestors, ask_in_waves
from dynagent.graph import AgentGraph
from dynagent.llm.base import Readable, Request
from dynagent.team.protocols import Agent, Chain, Decision, Question
from dynagent.team.votes import NOT_ASKED

AnyQuestion = TypeVar("AnyQuestion", bound=Readable)
AnyQuestion_contra = TypeVar("AnyQuestion_contra", bound=Readable, contravariant=True)


class ExecutesGraphs(Protocol[AnyQuestion_contra]):
    """What training needs of a runner: `Runner` here, for questions; a study may have its own."""

    def prepare(self, questions: Sequence[AnyQuestion_contra]) -> None:
        """Make ready for the questions, in the fullest batches."""

    def net_utility(self, questions: Sequence[AnyQuestion_contra], adjacency: Tensor, cost_weight: float) -> Tensor:
        """Utility of the graphs, [B, K, M, M], minus what they cost: [B, K]."""

    def ballots(self, questions: Sequence[AnyQuestion_contra], device: torch.device) -> Ballots:
        """What each agent would vote, on a device; ValueError for agents that read each other."""

    def state(self) -> dict[str, Any]:
        """What was remembered so far and changes what is asked next, as JSON values."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to such a state."""


class Runner:
    """Executes graphs of agents that answer multiple-choice questions, and remembers every answer.

    An agent that reads nobody is asked once a question, whatever the number of graphs; one that reads is asked
    once for each different set of messages.

    Args:
        graph: the team and its decision.
        seed: of the agents' draws, see `dynagent.execution.answers.Answers`.
    """

    def __init__(self, graph: AgentGraph, seed: int = 0) -> None:
        self.graph, self.seed = graph, seed
        self.team = _single_operations(graph)
        self.decision = _vote(graph)
        self.reads = torch.tensor([agent.reads for agent in self.team])  # [N] bool
        self.answers = Answers(self.team, used_llms(graph), seed)

    def prepare(self, questions: Sequence[Question]) -> None:
        """Ask every agent that reads nobody, on all questions, in the fullest batches."""
        silent = [node for node, agent in enumerate(self.team) if not agent.reads]
        self.answers.ask({Situation(question.id, node): question for question in questions for node in silent})

    def planned(self, questions: Sequence[Question], llm: Any) -> list[Request]:
        """What the agents of a language model ask it when they have heard nobody, in the order of `prepare`."""
        return self.answers.planned(questions, llm)

    def run(self, questions: Sequence[Question], adjacency: Tensor) -> Outcome:
        """Answers and utilities of the teams wired by `adjacency`.

        Args:
            questions: B questions.
            adjacency: [B, K, M, M] bool, acyclic.

        Returns:
            The outcome; the utility is not a number where it is not known which option is right (a negative `answer`).
        """
        hears = adjacency.cpu() & torch.cat([self.reads, torch.tensor([True])])  # who does not read, hears nobody
        asked = ancestors(hears, self.graph.decision_node)[..., :-1]  # [B, K, N]
        answers, tokens = self._answers_of_silent(questions, asked)
        readers = asked & self.reads
        if readers.any():
            for place, answer in ask_in_waves(self.answers, questions, hears, readers).items():
                answers[place], tokens[place] = answer.option, answer.tokens

        votes = hears[..., :-1, self.graph.decision_node]
        option_probs = self.decision.option_probs(torch.where(votes, answers, NOT_ASKED), most_options(questions))
        right = torch.tensor([max(question.answer, 0) for question in questions], device=option_probs.device)
        utility = prob_of_right(option_probs, right[:, None].expand(votes.shape[:-1]))  # [B, K]
        if unknown := [b for b, question in enumerate(questions) if question.answer < 0]:
            utility[unknown] = math.nan
        return Outcome(utility, answers, asked, option_probs, (tokens * asked).sum(-1))

    def _answers_of_silent(self, questions: Sequence[Question], asked: Tensor) -> tuple[Tensor, Tensor]:
        """What the agents that read nobody answer where they are asked, and their tokens: both [B, K, N]."""
        places = (asked & ~self.reads).any(1).nonzero()  # [P, 2], question and agent
        situations = [Situation(questions[b].id, node) for b, node in places.tolist()]
        self.answers.ask(dict(zip(situations, [questions[b] for b in places[:, 0].tolist()], strict=True)))
        given = self.answers.known(situations)
        answers, tokens = torch.full(asked.shape, NOT_ASKED), torch.zeros(asked.shape, dtype=torch.long)
        answers[places[:, 0], :, places[:, 1]] = torch.tensor([a.option for a in given], dtype=torch.long)[:, None]
        tokens[places[:, 0], :, places[:, 1]] = torch.tensor([a.tokens for a in given], dtype=torch.long)[:, None]
        return torch.where(asked, answers, NOT_ASKED), tokens

    def net_utility(self, questions: Sequence[Question], adjacency: Tensor, cost_weight: float) -> Tensor:
        """Utility minus `cost_weight` times the tokens spent, in units of what the full graph spends: [B, K].

        Args:
            questions, adjacency: see `run`.
        """
        outcome = self.run(questions, adjacency)
        if not cost_weight:
            return outcome.utility
        full = self.run(questions, self.graph.full().expand(len(questions), 1, -1, -1)).tokens  # [B, 1]
        return outcome.utility - cost_weight * outcome.tokens / full

    def ballots(self, questions: Sequence[Question], device: torch.device) -> Ballots:
        """What each agent would vote on B questions, whoever else votes.

        It does not wait for what the device was given to do before.

        Raises:
            ValueError: if an agent reads others, so that what it votes depends on the graph, or it is not known which
                option of a question is right.
        """
        if any(agent.reads for agent in self.team):
            raise ValueError("Agents that read each other have no answer of their own: draw graphs and run them.")
        if unknown := [question.id for question in questions if question.answer < 0]:
            raise ValueError(f"It is not known which option of question {unknown[0]} is right: leave it out.")
        asked = [(Situation(question.id, node), question) for question in questions for node in range(len(self.team))]
        self.answers.ask(dict(asked))
        given = self.answers.known(situation for situation, _ in asked)
        answers = torch.tensor([answer.option for answer in given]).view(len(questions), -1)  # [B, N]
        tokens = torch.tensor([answer.tokens for answer in given]).view(len(questions), -1)  # [B, N]
        return Ballots(
            self.decision,
            answers.to(device, non_blocking=True),
            torch.tensor([question.answer for question in questions]).to(device, non_blocking=True),
            most_options(questions),
            tokens.to(device, non_blocking=True),
        )

    def expected_utility(self, questions: Sequence[Question], edge_probs: Tensor, cost_weight: float = 0.0) -> Tensor:
        """Net utility averaged over the graphs that the probabilities make, differentiable in them: [B].

        In closed form for a decision that has one, else by enumeration.

        Args:
            questions: B questions.
            edge_probs: [B, E]; only edges into the decision matter.
            cost_weight: see `net_utility`.

        Raises:
            ValueError: if an agent reads others.
        """
        ballots = self.ballots(questions, edge_probs.device)
        vote_probs = edge_probs[:, self.graph.decision_edges.to(edge_probs.device)]  # [B, N]
        return ballots.expected_utility(vote_probs) - ballots.expected_cost(vote_probs, cost_weight)

    def state(self) -> dict[str, Any]:
        """See `dynagent.execution.answers.Answers.state`."""
        return self.answers.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `dynagent.execution.answers.Answers.restore`."""
        self.answers.restore(state)


def used_llms(graph: AgentGraph) -> list[Any]:
    """The agents' language models, each once."""
    llms = [operation.llm for operation in graph.operations]
    return list({id(llm): llm for llm in llms if llm is not None}.values())


def _single_operations(graph: AgentGraph) -> tuple[Agent, ...]:
    """The team, if all its agents have one operation."""
    team = tuple(agent for agent in graph.team if not isinstance(agent, Chain))
    if len(team) < len(graph.team):
        raise ValueError("Agents of several operations cannot be run on multiple-choice questions.")
    return team


def _vote(graph: AgentGraph) -> Decision:
    """The decision, if it is among options."""
    if not isinstance(graph.decision, Decision):
        raise ValueError(
            f"The decision {graph.decision!r} has no method option_probs: see dynagent.team.votes for one that decides "
            "on multiple-choice questions."
        )
    return graph.decision
