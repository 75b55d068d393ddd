"""Agents: from a question and messages to a request, from a reply to an answer.

An agent is any object with the members of `dynagent.team.protocols.Agent`, with a language model also the method
`request`. If it is known on which questions it means to answer rightly, `tells_truth(question)` says so; else a group
"truthful" does. The classes below are such agents.

Every agent answers a multiple-choice question with the index of an option, or not at all (a negative number).
With `mode` an agent chooses how its language model is asked:

- "options": the likelihood of each option's text after the question, per token. It is the default, since it
  works for small models that cannot name letters.
- "letter": the likelihood of the letters A, B, C, D as the first token of the reply.
- "text": a written reply, from which the option is parsed that it names (`dynagent.team.replies`); of an agent that
  reads, also a reason of one sentence.

In the first two modes one forward gives a distribution, softmax(score / temperature), from which any number of
agents draw their own answers.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynagent.llm.base import Chat, OriginRequest, Reply, Request
from dynagent.tasks.multiple_choice import LETTERS
from dynagent.tasks.recorded import RecordedQuestion
from dynagent.team.messages import Message
from dynagent.team.prompts import _BEGUN, MOST_TOKENS, TEMPLATES
from dynagent.team.protocols import Question
from dynagent.team.replies import REFUSED, TIMED_OUT, parse_reply

MODES = ("options", "letter", "text")
LYING = ("least_likely", "asked", "colluding")
AREAS = ("stem", "humanities", "social_sciences", "other")
LANGUAGES = ("en", "zh")


@lru_cache
def _version(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _scores(log_probs: tuple[float, ...], tokens: tuple[int, ...] | None) -> Tensor:
    """Log-likelihood of every option, where tokens are given for each of them: [C]."""
    scores = torch.tensor(log_probs, dtype=torch.float64)
    return scores if tokens is None else scores / torch.tensor(tokens)


@lru_cache(maxsize=1 << 16)  # the agents of one kind share it
def _softmax(log_probs: tuple[float, ...], tokens: tuple[int, ...] | None, temperature: float) -> tuple[float, ...]:
    """Probabilities of the options; a negative temperature turns the scores round."""
    return tuple((_scores(log_probs, tokens) / temperature).softmax(-1).tolist())


@dataclass(frozen=True)
class Truthful:
    """An agent that tries to answer rightly.

    Args:
        llm: what answers, from `dynagent.llm.load.load_llm`.
        mode: how it is asked, see the module's first lines.
        temperature: of the draw, in units of the scores: nats per token ("options"), nats ("letter").
        reads: whether the answers of its predecessors, and their reasons where they gave any, enter its prompt (modes
            "letter" and "text").
        lying: how it misleads where it means to: "least_likely" turns the truthful scores round; "asked" asks the
            model for a wrong option, as mode "text" always does; "colluding" names the option that is least likely by
            the truthful scores among the wrong ones, so that all who collude agree and none is ever right.
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
        if self.lying == "colluding" and self.mode == "text":
            raise ValueError("Mode 'text' has no likelihoods for colluders to compare: use 'options' or 'letter'.")
        if not self.temperature > 0:
            raise ValueError(f"An agent's temperature is positive, not {self.temperature}.")
        if self.reads and self.mode == "options":
            raise ValueError("An agent in mode 'options' has no place for messages: use 'letter' or 'text' to read.")

    def tells_truth(self, question: Question) -> bool:
        """Whether the agent means to answer this question rightly."""
        return True

    def asks_for_wrong(self, question: Question) -> bool:
        """Whether its language model is asked for a wrong option on this question."""
        return not self.tells_truth(question) and (self.mode == "text" or self.lying == "asked")

    @property
    def _form(self) -> str:
        """How it replies: as its mode says, and if it reads, with a reason where it writes."""
        return "reason" if self.reads and self.mode == "text" else self.mode

    @property
    def _most_tokens(self) -> int:
        """Bound of a written reply."""
        return MOST_TOKENS.get(self._form, Request.max_new_tokens)

    def request(self, question: Question, messages: Sequence[Message] = (), sample: int = 0) -> Request:
        """What to ask the language model."""
        form = self._form
        asks_for_wrong = self.asks_for_wrong(question)
        template = TEMPLATES[form, asks_for_wrong]
        heard = "\n".join(["\nOther agents:", *map(str, messages)]) if messages else ""
        kind, hashes = "wrong" if asks_for_wrong else "right", [text and _version(text) for text in (template, heard)]
        origin = (self.mode, kind, hashes[0], question.id, hashes[1])
        if isinstance(question, RecordedQuestion):
            drawn = self.mode == "text"  # by the model
            return OriginRequest(
                temperature=self.temperature if drawn else 0.0,
                sample=sample if drawn else 0,
                max_new_tokens=self._most_tokens if drawn else Request.max_new_tokens,
                origin=origin,
                question=question,
            )
        if self.mode == "options":
            prompt = template.replace("{question}", question.text)
            return Request(prompt, tuple(f" {option}" for option in question.options), origin=origin)
        chat: Chat = (("system", template), ("user", question.render() + heard))
        if self.mode == "letter":
            return Request(chat, tuple(LETTERS[: len(question.options)]), origin=origin)
        if form == "reason":
            chat = (*chat, ("assistant", _BEGUN))
        return Request(chat, (), self.temperature, self._most_tokens, sample, origin)

    def option_probs(self, question: Question, reply: Reply) -> Tensor:
        """Distribution over the options from which the agent draws: [C]."""
        return torch.tensor(self._option_probs(question, reply), dtype=torch.float64)

    def _option_probs(self, question: Question, reply: Reply) -> tuple[float, ...]:
        assert reply.log_probs is not None
        tokens = reply.option_tokens if self.mode == "options" else None
        misleads = not self.tells_truth(question) and not self.asks_for_wrong(question)
        if misleads and self.lying == "colluding":
            scores = _scores(reply.log_probs, tokens).tolist()
            wrong = [option for option in range(len(scores)) if option != question.answer]
            chosen = min(wrong, key=scores.__getitem__)
            return tuple(float(option == chosen) for option in range(len(scores)))
        return _softmax(reply.log_probs, tokens, -self.temperature if misleads else self.temperature)

    def answer(self, question: Question, reply: Reply | None, draw: float) -> int:
        """The index of the chosen option, or why there is none, a negative number of `dynagent.team.replies`.

        No model of this package leaves a reply out: see `dynagent.llm.served`.

        Args:
            draw: uniform in [0, 1), the agent's own luck on this question.
        """
        assert reply is not None, "this agent has a language model"
        if reply.is_refused:
            return REFUSED
        if not reply.log_probs:
            if not self.tells_truth(question) and not self.asks_for_wrong(question):
                raise ValueError(
                    f"Lying by {self.lying!r} compares log-probabilities, which {self.llm.identity} does not give: set "
                    "adversary to 'asked', or agent_mode to 'text'."
                )
            if reply.text is None:
                return TIMED_OUT
            text, options = reply.text, question.options
            if self._form == "reason":  # which may itself name options, and be cut off
                begun = "" if '"answer"' in text else _BEGUN  # a model that thinks first writes all of it
                text = (begun + text).partition('"reason"')[0]
            # A server says that it cut a reply off, and may have its bound; a model that runs here ends at this one.
            at_limit = reply.is_cut_off or reply.completion_tokens == self._most_tokens
            return parse_reply(text, len(options), options, at_limit)
        cumulative = list(accumulate(self._option_probs(question, reply)))
        return min(bisect_right(cumulative, draw), len(question.options) - 1)


@dataclass(frozen=True)
class Adversarial(Truthful):
    """An agent that tries to answer wrongly, in the way that `lying` names."""

    name: str = "Adversarial"
    group: str = "adversarial"

    def tells_truth(self, question: Question) -> bool:
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

    def tells_truth(self, question: Question) -> bool:
        return self.domain in (question.area, question.language)


@dataclass(frozen=True)
class Constant:
    """An agent that always gives the same letter and calls no language model: the adversary as released."""

    letter: str = "A"
    name: str = "Constant"
    group: str = "adversarial"
    reads: ClassVar[bool] = False
    llm: ClassVar[None] = None

    def tells_truth(self, question: Question) -> bool:
        return False

    def __post_init__(self) -> None:
        if self.letter not in tuple(LETTERS):
            raise ValueError(f"The letter of a constant agent is one of {', '.join(LETTERS)}, not {self.letter!r}.")

    def answer(self, question: Question, reply: Reply | None, draw: float) -> int:
        return LETTERS.index(self.letter)
