"""The protocol of a language model: requests in, replies out, in batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

Chat = tuple[tuple[str, str], ...]
"""Messages as (role, content) pairs; roles are "system", "user" and "assistant", whose last message is continued."""


@dataclass(frozen=True)
class Request:
    """One question to a language model.

    With `options` the reply holds the log-probability of each option as the continuation of the prompt; without,
    the reply is text.

    Attributes:
        prompt: plain text, or a chat that the model's own template renders.
        options: continuations to score.
        temperature: of the generated text, drawn with top_k = 50 and top_p = .9; 0 is greedy decoding.
        max_new_tokens: bound of the generated text, in tokens.
        sample: tells apart several draws for the same prompt; only a positive temperature needs it.
        origin: the prompt's template and the id of the question that fills it, where it has them. Stored beside
            the reply, so that it can also be found where the question's text is not there.
        request_options: more of what a server is asked, such as {"reasoning_effort": "low"}; part of the key where
            there is any.
    """

    prompt: str | Chat
    options: tuple[str, ...] = ()
    temperature: float = 0.0
    max_new_tokens: int = 50
    sample: int = 0
    origin: tuple[str, ...] = ()
    request_options: Mapping[str, Any] = field(default_factory=dict, hash=False, kw_only=True)

    def key(self, identity: str) -> str:
        """Hash of all that determines the reply of the model called `identity`: the text, never its origin."""
        return self._digest(identity, self.prompt, self.options)

    def origin_key(self, identity: str) -> str:
        """The same with the origin in place of the text."""
        return self._digest(identity, self.origin)

    def _digest(self, *asked: object) -> str:
        parts = [*asked, self.temperature, self.max_new_tokens, self.sample]
        if self.request_options:  # without any, keys are what they were before there could be
            parts.append(json.dumps(self.request_options, sort_keys=True))
        return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class OriginRequest(Request):
    """A request about a question whose text is not on record: a record can reply, and a model meets the error."""

    prompt: str | Chat = field(init=False, repr=False, compare=False)  # never set: reading it ends in __getattr__
    question: Any = field(kw_only=True, repr=False, compare=False)

    def __getattr__(self, name: str) -> Any:
        if name == "prompt":
            return self.question.render()
        raise AttributeError(name)


@dataclass(frozen=True)
class Reply:
    """Text, or the total log-probability (in nats) and the number of tokens of every option.

    Attributes:
        finish_reason: why a server's reply ended where it did not end by itself: "length" at its bound of tokens,
            "content_filter" where a filter refused the question or the reply, "tool_calls" where it called a tool.
    """

    text: str | None = None
    log_probs: tuple[float, ...] | None = None
    option_tokens: tuple[int, ...] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str | None = None

    @property
    def is_cut_off(self) -> bool:
        """Whether a written reply ended at its bound of tokens."""
        return self.finish_reason == "length"

    @property
    def is_refused(self) -> bool:
        """Whether a filter refused the question or the reply."""
        return self.finish_reason == "content_filter"

    @property
    def tokens(self) -> int:
        """Tokens read and written; options of one token each are compared in one step, which writes one."""
        return self.prompt_tokens + (1 if set(self.option_tokens or ()) == {1} else self.completion_tokens)


def check_finite(values: Tensor, ids: Sequence[str], what: str) -> None:
    """Raise FloatingPointError, naming the questions by their ids, unless all their values are finite: [B, ...]."""
    finite = values.detach().isfinite().flatten(1).all(1) if values.dim() > 1 else values.detach().isfinite()
    if not finite.all():
        wrong = ", ".join(name for name, whole in zip(ids, finite.tolist(), strict=True) if not whole)
        raise FloatingPointError(f"{what} are not finite on {wrong}: try a lower learning_rate or another dtype.")


class Readable(Protocol):
    """What an edge LLM can read: a question, a puzzle, or a description of an agent."""

    @property
    def id(self) -> str:
        """Names the text: equal ids, equal texts."""

    def render(self) -> str:
        """The text."""


class ChatModel(Protocol):
    """What agents need of a language model."""

    identity: str
    """Names the weights and the arithmetic: equal identities give equal replies."""

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Indices of the requests that are run together: a function of the whole list and of nothing else."""

    def reply(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies of one batch, in order."""
