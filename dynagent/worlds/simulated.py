"""An agent whose accuracy is stated, instead of a language model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import ClassVar

from dynagent.llm.base import Reply
from dynagent.team.protocols import Question


@dataclass(frozen=True)
class Simulated:
    """A simulated agent. Its answer is determined by seed, question and position.

    Args:
        accuracy: by domain, the probability of the right answer.
        domain_of: attribute of a question that names its domain, "language" or "subject".
        kind: "independent"; "constant" always says A; "colluding" names the question's one common wrong letter.
        shared: probability of using the draw and the wrong letter that all agents share on a question instead of its
            own; two agents of equal accuracy then err with correlation shared squared.
        seed: of the shared draws.
        description: what an agent-aware policy is told about it.
    """

    accuracy: dict[str, float] = field(hash=False)
    domain_of: str = "language"
    kind: str = "independent"
    shared: float = 0.0
    seed: int = 0
    name: str = "Simulated"
    group: str = "simulated"
    description: str = "An agent."
    reads: ClassVar[bool] = False
    llm: ClassVar[None] = None

    def accuracy_on(self, question: Question) -> float:
        return 0.0 if self.kind == "colluding" else self.accuracy[getattr(question, self.domain_of)]

    def answer(self, question: Question, reply: Reply | None, draw: float) -> int:
        """The index of an option; `draw` is uniform in [0, 1)."""
        if self.kind == "constant":
            return 0
        common_letter = _shared_draw(self.seed, "letter", question.id)
        if self.kind == "colluding":
            return _wrong_letter(question, common_letter)
        letter = None
        if draw < self.shared:
            draw, letter = _shared_draw(self.seed, "answer", question.id), common_letter
        else:
            draw = (draw - self.shared) / (1 - self.shared)
        accuracy = self.accuracy_on(question)
        if draw < accuracy:
            return int(question.answer)
        return _wrong_letter(question, (draw - accuracy) / (1 - accuracy) if letter is None else letter)


def _shared_draw(seed: int, what: str, question_id: str) -> float:
    """Uniform in [0, 1), the same for all agents."""
    digest = hashlib.sha256(f"{seed}/{what}/{question_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _wrong_letter(question: Question, draw: float) -> int:
    return (int(question.answer) + 1 + min(int(draw * 3), 2)) % 4
