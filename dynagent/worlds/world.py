"""What a wiring of simulated agents is worth, and the best that any wiring can do: both exact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations_with_replacement, pairwise, product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from dynagent.graph import AgentGraph
from dynagent.tasks.multiple_choice import Question

CHUNK = 128  # questions whose vote counts are held in memory at a time


@dataclass(frozen=True)
class Optimum:
    """A wiring and what it is worth: votes [N] bool for each domain, accuracy on the world's held-out questions."""

    accuracy: float
    votes: dict[str, tuple[bool, ...]]


@dataclass(frozen=True)
class World:
    """Simulated agents on real questions.

    Attributes:
        train_questions, eval_questions: disjoint; the same number of each domain.
        symmetric: its domains are interchangeable, so that it matters how many agents of each kind vote, not of which.
        dynamic: the best wiring depends on the question.
    """

    name: str
    graph: AgentGraph
    domain_of: str
    train_questions: list[Question]
    eval_questions: list[Question]
    dynamic: bool = True
    symmetric: bool = False

    def domain(self, question: Question) -> str:
        return str(getattr(question, self.domain_of))

    def accuracy(self, vote_probs: Tensor, questions: Sequence[Question]) -> Tensor:
        """Probability of a right answer over graphs and answers: [n], exact.

        Given how many votes are right, how many are wrong on their own and how many name the common wrong letter, the
        outcome of the vote is known; those numbers are sums over independent agents.

        Args:
            vote_probs: [n, N], each agent's probability to vote, independent of the others'.
        """
        chunks = enumerate(vote_probs.double().split(CHUNK))
        return torch.cat([self._accuracy(probs, questions[i * CHUNK : (i + 1) * CHUNK]) for i, probs in chunks])

    def _accuracy(self, vote_probs: Tensor, questions: Sequence[Question]) -> Tensor:
        total = torch.zeros(len(questions), dtype=torch.float64)
        for weight, answers in self._answer_probs(questions):
            most = [int(possible) for possible in (answers.sum(0) > 0).sum(0)]  # agents that may answer so
            counts = torch.ones(len(questions), 1, 1, 1, dtype=torch.float64)  # P(right, wrong, common)
            for agent in range(vote_probs.shape[1]):
                votes = (vote_probs[:, agent, None] * answers[:, agent])[..., None, None, None]  # [n, 3, 1, 1, 1]
                silent = 1 - vote_probs[:, agent, None, None, None]
                grown = pad(counts, (0, 1) * 3)  # rolling brings round a slice of zeros
                counts = sum((grown.roll(1, axis + 1) * votes[:, axis] for axis in range(3)), grown * silent)
                counts = counts[:, : most[0] + 1, : most[1] + 1, : most[2] + 1]
            table = _win_probability(*(size - 1 for size in counts.shape[1:]))
            total += weight * (counts * table).sum((1, 2, 3))
        return total

    def _answer_probs(self, questions: Sequence[Question]) -> list[tuple[float, Tensor]]:
        """Cases of the shared draw: its weight, and P(right, wrong on its own, common wrong letter), [n, N, 3]."""
        team = self.graph.team
        right = torch.tensor([[agent.accuracy_on(q) for agent in team] for q in questions], dtype=torch.float64)
        fixed = torch.tensor([agent.kind != "independent" for agent in team])
        constant = torch.tensor([agent.kind == "constant" for agent in team])
        is_first = torch.tensor([q.answer == 0 for q in questions])
        shared = torch.tensor([agent.shared for agent in team], dtype=torch.float64)
        if constant.any() and (shared.any() or (fixed & ~constant).any()):
            raise ValueError("A world has one common wrong letter: no agent can be constant beside correlated ones.")
        cuts = sorted({0.0, 1.0, *(right.unique().tolist() if shared.any() else [])})
        cases = []
        for low, high in pairwise(cuts):
            together = (right >= high).double()  # [n, N]: right in this case of the shared draw
            p_right = shared * together + (1 - shared) * right
            p_wrong = (1 - shared) * (1 - right)
            p_common = shared * (1 - together)
            answers = torch.stack([p_right, p_wrong, p_common], -1)
            answers[:, fixed] = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
            answers[is_first[:, None] & constant] = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
            cases.append((high - low, answers))
        return cases

    # --- the best that can be done -------------------------------------------------------------------------

    @cached_property
    def full(self) -> float:
        """Accuracy of all agents voting on every question."""
        everyone = torch.ones(len(self.eval_questions), len(self.graph.team))
        return float(self.accuracy(everyone, self.eval_questions).mean())

    @cached_property
    def best_single(self) -> Optimum:
        """The best agent alone."""
        return self._best(torch.eye(len(self.graph.team), dtype=torch.bool), static=True)

    @cached_property
    def best_static(self) -> Optimum:
        """The best set of voters that does not look at the question."""
        return self._best(self._candidates(), static=True)

    @cached_property
    def best_per_domain(self) -> Optimum:
        """The best set of voters for each domain."""
        return self._best(self._candidates(), static=False)

    @cached_property
    def best_per_question(self) -> float:
        """How often any agent is right: what an oracle that sees the answers reaches, a bound for every learner."""
        cases = self._answer_probs(self.eval_questions)
        return sum(weight * float((1 - (1 - answers[..., 0]).prod(-1)).mean()) for weight, answers in cases)

    def headroom(self, accuracy: float) -> float:
        """Where an accuracy lies between what is easy (0) and the optimum (1).

        From the best static to the best wiring per domain; where the optimum is static, from the full vote to it.
        """
        low, high = self.full, self.best_static.accuracy
        if self.dynamic:
            low, high = high, self.best_per_domain.accuracy
        return (accuracy - low) / (high - low)

    def best_at_cost(self, cost: float) -> Optimum:
        """The best set of voters for each domain where every voter costs so much accuracy."""
        return self._best(self._candidates(), static=False, cost=cost)

    def _best(self, candidates: Tensor, static: bool, cost: float = 0.0) -> Optimum:
        """By enumeration of the candidates, [S, N] bool."""
        constant = any(agent.kind == "constant" for agent in self.graph.team)
        kinds: dict[tuple[str, bool], list[Question]] = {}
        for question in self.eval_questions:
            kinds.setdefault((self.domain(question), constant and question.answer == 0), []).append(question)
        values = self._values(candidates, [questions[0] for questions in kinds.values()])  # [kinds, S]
        by_domain: dict[str, Tensor] = {}
        for ((domain, _), questions), row in zip(kinds.items(), values, strict=True):
            by_domain[domain] = by_domain.get(domain, 0) + row * len(questions) / len(self.eval_questions)
        if static:
            best = int(sum(by_domain.values(), torch.zeros(len(candidates))).argmax())
            chosen = dict.fromkeys(by_domain, best)
        else:
            spent = cost * candidates.sum(1) / len(by_domain)  # domains are equally frequent
            chosen = {domain: int((row - spent).argmax()) for domain, row in by_domain.items()}
        votes = {domain: tuple(candidates[index].tolist()) for domain, index in chosen.items()}
        return Optimum(float(sum(by_domain[domain][index] for domain, index in chosen.items())), votes)

    def _values(self, candidates: Tensor, questions: list[Question]) -> Tensor:
        """Accuracy of each set of voters on each question: [n, S]. Agents that answer alike are counted, not named."""
        values, known = [], {}
        for question in questions:
            answers = torch.cat([answers for _, answers in self._answer_probs([question])], -1)[0]  # [N, 3 x cases]
            profiles, classes = answers.unique(dim=0, return_inverse=True)
            counts = candidates.double() @ one_hot(classes).double()  # [S, classes]
            distinct, where = counts.unique(dim=0, return_inverse=True)
            key = (profiles.numpy().tobytes(), distinct.numpy().tobytes())  # the same numbers of the same agents
            if key not in known:
                example = torch.zeros(len(distinct), dtype=torch.long)
                example[where] = torch.arange(len(candidates))
                known[key] = self.accuracy(candidates[example].double(), [question] * len(example))
            values.append(known[key][where])
        return torch.stack(values)

    def _candidates(self) -> Tensor:
        """Sets of voters, one for each number of voters of each kind of agent: [S, N] bool."""
        names = [repr(agent) for agent in self.graph.team]
        kinds = Counter(names)
        numbers: Any = product(*(range(size + 1) for size in kinds.values()))
        if self.symmetric:
            numbers = combinations_with_replacement(range(max(kinds.values()) + 1), len(kinds))
        numbers = torch.tensor(list(numbers))  # [S, kinds]
        if self.symmetric:
            numbers = torch.cat([numbers.roll(turn, 1) for turn in range(len(kinds))])
        kind = torch.tensor([list(kinds).index(name) for name in names])
        rank = torch.tensor([names[:place].count(name) for place, name in enumerate(names)])  # among those of its kind
        return rank < numbers[:, kind]


@lru_cache
def _win_probability(num_right: int, num_wrong: int, num_common: int) -> Tensor:
    """Probability that the right letter wins the vote: [num_right + 1, num_wrong + 1, num_common + 1].

    The wrong votes fall on three letters at random, the common ones all on the first of these; ties are split. With
    exponential generating functions, the number of ways in which no letter has more than r votes is a coefficient of a
    product of truncated exponential series; ties are an integral as in `MajorityVote.expected_option_probs`.
    """
    inverse = np.cumprod(np.concatenate([[1.0], 1.0 / np.arange(1, max(num_right, num_wrong) + 2)]))  # 1 / k!
    table = np.zeros((num_right + 1, num_wrong + 1, num_common + 1))
    ways = 3.0 ** -np.arange(num_wrong + 1) / inverse[: num_wrong + 1]
    for right, common in product(range(1, num_right + 1), range(num_common + 1)):
        for z, weight in ((0.5 - 3**-0.5 / 2, 0.5), (0.5 + 3**-0.5 / 2, 0.5)):
            letters = []
            for already in (common, 0, 0):
                series, last = np.zeros(num_wrong + 1), right - already
                if last >= 0:
                    series[: last + 1] = inverse[: min(last, num_wrong) + 1]
                    series[last : last + 1] *= z
                letters.append(series)
            product_ = np.convolve(np.convolve(letters[0], letters[1])[: num_wrong + 1], letters[2])[: num_wrong + 1]
            table[right, :, common] += weight * product_ * ways
    return torch.tensor(table)
