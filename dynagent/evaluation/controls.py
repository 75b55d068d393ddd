"""Is a trained policy really conditioned on its input? What it has to beat before that can be said.

Every control gives each question the logits that the policy gave to others: if it is as accurate, then the policy's
accuracy is owed to no more than the control knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dynagent.evaluation.statistics import Estimate
from dynagent.llm.base import Readable
from dynagent.policies.base import Policy
from dynagent.team.protocols import Question

# A router knows one attribute of a question and has one static graph for each of its values.
ROUTERS: dict[str, Callable[[Question], str]] = {
    "language router": lambda question: question.language,
    "subject router": lambda question: f"{question.language}/{question.subject}",  # names occur in both languages
}
CONTROLS = ("questions shuffled", "constant question", *ROUTERS)


class TabulatedPolicy(Policy):
    """Edge logits that are given for each question: a planted policy, or a control."""

    def __init__(self, edge_logits: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._table = dict(edge_logits)  # question id -> [E]

    def edge_logits_of(self, questions: Sequence[Readable]) -> Tensor:
        """Edge logits of the questions: [B, E]."""
        return torch.stack([self._table[question.id] for question in questions])


def control_policies(
    policy: Policy, train_questions: Sequence[Question], eval_questions: Sequence[Question], seed: int = 0
) -> dict[str, Policy]:
    """The controls of a policy, for the evaluation questions, by name (`CONTROLS`).

    - "questions shuffled": every question gets the logits of another one, next to it in a random circle.
    - "constant question": all get those of one training question, the one nearest to the mean.
    - "language router", "subject router": the mean logits of the training questions of a question's language or
      subject; a subject without training questions gets the mean of all.
    """
    logits, given = policy.edge_logits_of(eval_questions), policy.edge_logits_of(train_questions)
    circle = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))
    shuffled = torch.empty_like(logits)
    shuffled[circle] = logits[circle.roll(1)]
    typical = given[(given - given.mean(0)).norm(dim=1).argmin()]
    tables = {"questions shuffled": shuffled, "constant question": typical.expand_as(logits)}
    for name, attribute in ROUTERS.items():
        values = [attribute(question) for question in train_questions]
        route = {value: given[[other == value for other in values]].mean(0) for value in dict.fromkeys(values)}
        tables[name] = torch.stack([route.get(attribute(q), given.mean(0)) for q in eval_questions])
    ids = [question.id for question in eval_questions]
    return {name: TabulatedPolicy(dict(zip(ids, table, strict=True))) for name, table in tables.items()}


def explanation(gains: Mapping[str, Estimate]) -> str:
    """The least that accounts for the policy's accuracy: a control that it does not beat, or its input."""
    for name in ("constant question", "questions shuffled"):
        if gains[name].ci_low <= 0:
            return "nothing about the question: one graph for all questions does as well"
    for name in ROUTERS:
        if gains[name].ci_low <= 0:
            return f"a {name}: one graph for each {name.removesuffix(' router')} does as well"
    return "the question itself: no control does as well"
