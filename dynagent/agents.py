"""Agents and the decision: from a question and messages to a request, from a reply to an answer.

Every agent answers a multiple-choice question with the index of an option, or not at all (`UNPARSABLE`).
With `mode` an agent chooses how its language model is asked:

- "options": the likelihood of each option's text after the question, per token. It is the default, since it
  works for small models that cannot name letters.
- "letter": the likelihood of the letters A, B, C, D as the first token of the reply.
- "text": a written reply, from which a letter is parsed.

In the first two modes one forward gives a distribution, softmax(score / temperature), from which any number of
agents draw their own answers.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynagent.llm.base import Chat, Reply, Request
from dynagent.tasks.multiple_choice import LETTERS

UNPARSABLE = -1
NOT_ASKED = -2
MODES = ("options", "letter", "text")
LYING = ("least_likely", "asked")
AREAS = ("stem", "humanities", "social_sciences", "other")
LANGUAGES = ("en", "zh")

TRUTHFUL_ROLE = "You are an expert in many fields. Answer the question with the letter of the right option."
LYING_ROLE = (
    "You are an expert in many fields who misleads. Answer the question with the letter of an option that is "
    "wrong but sounds convincing."
)
_LETTER = "Reply with the letter and nothing else."
_JSON = 'Reply with one JSON object and nothing else, like {"answer": "A"}.'
# By mode, and whether a wrong option is asked for: the system's message, or the text before the options.
TEMPLATES = {
    ("options", False): "Question: {question}\nAnswer:",
    ("letter", False): f"{TRUTHFUL_ROLE} {_LETTER}",
    ("letter", True): f"{LYING_ROLE} {_LETTER}",
    ("text", False): f"{TRUTHFUL_ROLE} {_JSON}",
    ("text", True): f"{LYING_ROLE} {_JSON}",
}


@dataclass(frozen=True)
class Message:
    """What a predecessor has said: its name, the letter of its answer, its reply."""

    sender: str
    answer: str
    text: str = ""


@dataclass(frozen=True)
class Truthful:
    """An agent that tries to answer rightly.

    Args:
        llm: what answers, from `dynagent.llm.load_llm`.
        mode: how it is asked, see the module's first lines.
        temperature: of the draw, in units of the scores: nats per token ("options"), nats ("letter").
        reads: whether the answers of its predecessors enter its prompt (modes "letter" and "text").
        lying: how it misleads where it means to: "least_likely" turns the truthful scores round, "asked" asks the
            model for a wrong option, as mode "text" always does.
    """

    llm: Any = field(repr=False)
    mode: str = "options"
    temperature: float = 0.2
    reads: bool = False
    lying: str = "least_likely"
    name: str = "Truthful"
    group: str = "truthful"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"An agent's mode is one of {', '.join(MODES)}, not {self.mode!r}.")
        if self.lying not in LYING:
            raise ValueError(f"An agent's lying is one of {', '.join(LYING)}, not {self.lying!r}.")
        if self.lying == "asked" and self.mode == "options":
            raise ValueError("Mode 'options' cannot ask for a wrong option: use 'letter' or 'text', or 'least_likely'.")
        if not self.temperature > 0:
            raise ValueError(f"An agent's temperature is positive, not {self.temperature}.")
        if self.reads and self.mode == "options":
            raise ValueError("An agent in mode 'options' has no place for messages: use 'letter' or 'text' to read.")

    def tells_truth(self, question: Any) -> bool:
        """Whether the agent means to answer this question rightly."""
        return True

    def asks_for_wrong(self, question: Any) -> bool:
        """Whether its language model is asked for a wrong option on this question."""
        return not self.tells_truth(question) and (self.mode == "text" or self.lying == "asked")

    def request(self, question: Any, messages: Sequence[Message] = (), sample: int = 0) -> Request:
        """What to ask the language model."""
        kind = (self.mode, self.asks_for_wrong(question))
        template = TEMPLATES[kind]
        version = hashlib.sha256(template.encode()).hexdigest()[:8]
        heard = "".join(f"\n{m.sender} says {m.answer}. {m.text}".rstrip() for m in messages)
        origin = (self.mode, "wrong" if kind[1] else "right", version, question.id, heard)
        if self.mode == "options":
            prompt = template.replace("{question}", question.text)
            return Request(prompt, tuple(f" {option}" for option in question.options), origin=origin)
        user = question.render() + (f"\nOther agents:{heard}" if heard else "")
        chat: Chat = (("system", template), ("user", user))
        if self.mode == "letter":
            return Request(chat, tuple(LETTERS[: len(question.options)]), origin=origin)
        return Request(chat, temperature=self.temperature, sample=sample, origin=origin)

    def option_probs(self, question: Any, reply: Reply) -> Tensor:
        """Distribution over the options from which the agent draws: [C]."""
        assert reply.log_probs is not None
        scores = torch.tensor(reply.log_probs, dtype=torch.float64)
        if self.mode == "options":
            scores = scores / torch.tensor(reply.option_tokens)
        inverted = not self.tells_truth(question) and not self.asks_for_wrong(question)
        sign = -1 if inverted else 1
        return (sign * scores / self.temperature).softmax(-1)

    def answer(self, question: Any, reply: Reply, draw: float) -> int:
        """The index of the chosen option, or `UNPARSABLE`.

        Args:
            draw: uniform in [0, 1), the agent's own luck on this question.
        """
        if self.mode == "text":
            return parse_letter(reply.text or "", len(question.options))
        cumulative = self.option_probs(question, reply).cumsum(-1)
        return min(int(torch.searchsorted(cumulative, draw, right=True)), len(question.options) - 1)


@dataclass(frozen=True)
class Adversarial(Truthful):
    """An agent that tries to answer wrongly.

    How is said by `lying`.
    """

    name: str = "Adversarial"
    group: str = "adversarial"

    def tells_truth(self, question: Any) -> bool:
        return False


@dataclass(frozen=True)
class Specialist(Truthful):
    """An agent that is truthful in its own domain and adversarial outside.

    Args:
        domain: an area ("stem", "humanities", "social_sciences", "other") or a language ("en", "zh").
    """

    domain: str = ""
    name: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.domain not in (*AREAS, *LANGUAGES):
            raise ValueError(f"A specialist's domain is one of {', '.join((*AREAS, *LANGUAGES))}, not {self.domain!r}.")
        object.__setattr__(self, "name", self.name or f"Specialist({self.domain})")
        object.__setattr__(self, "group", self.group or self.domain)

    def tells_truth(self, question: Any) -> bool:
        return self.domain in (question.area, question.language)


@dataclass(frozen=True)
class Constant:
    """An agent that always gives the same letter and calls no language model: the adversary as released."""

    letter: str = "A"
    name: str = "Constant"
    group: str = "adversarial"
    reads: ClassVar[bool] = False
    llm: ClassVar[None] = None

    def tells_truth(self, question: Any) -> bool:
        return False

    def __post_init__(self) -> None:
        if self.letter not in tuple(LETTERS):
            raise ValueError(f"The letter of a constant agent is one of {', '.join(LETTERS)}, not {self.letter!r}.")

    def answer(self, question: Any, reply: None, draw: float) -> int:
        return LETTERS.index(self.letter)


class MajorityVote:
    """The decision node of MMLU and CMMLU: the most frequent answer among its predecessors, ties at random."""

    name = "MajorityVote"

    def option_probs(self, answers: Tensor, num_options: int) -> Tensor:
        """Probability of each option to be the outcome: ties are split evenly.

        Args:
            answers: [..., N] option indices; a negative entry is no vote.

        Returns:
            [..., C]; all zero where nobody voted, since then there is no answer.
        """
        options = torch.arange(num_options, device=answers.device)
        votes = (answers[..., None] == options).sum(-2)  # [..., C]
        winners = (votes == votes.amax(-1, keepdim=True)) & (votes > 0)
        return winners / winners.sum(-1, keepdim=True).clamp(min=1)


def parse_letter(text: str, num_options: int) -> int:
    """The option that a written reply names, or `UNPARSABLE`.

    In this order: the key "answer" of a JSON object; the letter after a word such as "answer" or "答案"; the only
    capital letter that stands alone, unless it reads as the English article. Two different letters are no answer.
    Full-width letters are normalised.

    >>> [parse_letter(t, 4) for t in ('{"answer": "b"}', "Answer: C", "(D).", "d", "A or B", "A cat sat down.")]
    [1, 2, 3, 3, -1, -1]
    """
    if not text.isascii():  # one character after the other, since a long run of accents takes quadratic time
        text = "".join(unicodedata.normalize("NFKC", character) for character in text)
    text = text.strip()
    objects = [found for found in re.findall(r"\{[^{}]*\}", text) if '"answer"' in found]
    answers = [answer for found in objects if (answer := _json_answer(found)) is not None]
    if answers:
        return _letter_index(answers, num_options)
    bare = text.strip(" ().*:")
    if len(bare) == 1:
        return _letter_index([bare], num_options)
    named = _NAMED_LETTER.findall(text)
    if not named:
        named = _LONE_CAPITAL.findall(text)
        if set(named) == {"A"} and _ARTICLE.search(text):
            return UNPARSABLE
    return _letter_index(named, num_options)


_JOINED = "0-9A-Za-zÀ-ɏ\u0300-\u036f"  # what a letter that stands alone does not touch: digits, Latin script, accents
_NOT_JOINED = rf"(?!['’]?[{_JOINED}])"
_LONE_CAPITAL = re.compile(rf"(?<![{_JOINED}])[A-D]{_NOT_JOINED}")
_ARTICLE = re.compile(rf"(?<![{_JOINED}])A (?!is\b|because\b|since\b)[a-z]")
_NAMED_LETTER = re.compile(
    r"(?:\b(?i:answer|option)(?! (?:is|are) a [a-z])|答案|选项|选)"
    rf"[^\w\n]{{0,4}}(?:is|are|是|为)?[^\w\n]{{0,4}}([A-Da-d]){_NOT_JOINED}"
)


def _json_answer(text: str) -> str | None:
    """The value of the key "answer", or None where the text is no JSON object that has one."""
    try:
        value = json.loads(text).get("answer")
        return None if value is None else str(value).strip(" ().")
    except (ValueError, RecursionError):  # too many digits, too many brackets
        return None


def _letter_index(letters: list[str], num_options: int) -> int:
    distinct = {letter.upper() for letter in letters}
    letter = distinct.pop() if len(distinct) == 1 else ""
    index = LETTERS.find(letter) if len(letter) == 1 else UNPARSABLE
    return index if index < num_options else UNPARSABLE
