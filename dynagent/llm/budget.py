"""A hard limit on the tokens that a run pays for."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence

from dynagent.llm.base import Chat, Reply, Request

TEMPLATE = 64  # tokens that a chat template may add to a prompt
LONGEST = 32  # bytes of a token: hardly any is longer


class BudgetExceededError(ValueError):
    """The next call might cost more tokens than are left; what was paid for is on record."""


class Budget:
    """Tokens, read and written, that one process may pay for; replies that are on record cost nothing.

    What a call may cost at most is set aside before it, and afterwards what it has cost counts: what the model says,
    or where that is nothing, what the texts themselves have at least (`least_tokens`). Attempts that failed do not say
    what they cost, and count as nothing.

    Attributes:
        paid: tokens of the replies so far.
    """

    def __init__(self, tokens: int | None = None) -> None:
        self.tokens, self.paid, self._set_aside = tokens or math.inf, 0, 0
        self._settled = threading.Condition()

    def pay(self, requests: Sequence[Request], ask: Callable[[Sequence[Request]], list[Reply]]) -> list[Reply]:
        """Ask as soon as there is enough left; calls that are under way in other threads may turn out cheaper.

        Raises:
            BudgetExceededError: if there is not, and nothing is under way.
        """
        most, cost = sum(map(most_tokens, requests)), 0
        with self._settled:
            self._settled.wait_for(lambda: self.paid + self._set_aside + most <= self.tokens or not self._set_aside)
            if self.paid + most > self.tokens:
                raise BudgetExceededError(
                    f"{self.paid:,} tokens of token_budget {self.tokens:,} are paid, and the next call may take "
                    f"{most:,}: run it again, with more where that is too little. All replies so far are on record."
                )
            self._set_aside += most
        try:
            replies = ask(requests)
            cost = sum(map(_cost, requests, replies))
            return replies
        finally:
            with self._settled:
                self._set_aside, self.paid = self._set_aside - most, self.paid + cost
                self._settled.notify_all()


def _cost(request: Request, reply: Reply) -> int:
    read, written = least_tokens(prompt_text(request.prompt)), least_tokens(reply.text or "")
    return (reply.prompt_tokens or read) + (reply.completion_tokens or written)


def least_tokens(text: str) -> int:
    """At least about as many tokens as a text has: one a word, and one for so many bytes without a blank.

    >>> least_tokens("the sky is blue"), least_tokens("")
    (4, 0)
    """
    return sum(-(-len(word.encode("utf-8", "replace")) // LONGEST) for word in text.split())


def prompt_text(prompt: str | Chat) -> str:
    """All that a prompt says."""
    return prompt if isinstance(prompt, str) else "\n".join(content for _, content in prompt)


def most_tokens(request: Request) -> int:
    """At most as many as a call reads and writes: no token is shorter than a byte of text.

    A server reads a plain prompt alone and with each of its options, and a chat twice where its letters are not in
    sight.
    """
    chat = (("user", request.prompt),) if isinstance(request.prompt, str) else request.prompt
    copies = 1 + len(request.options) if isinstance(request.prompt, str) else 1 + bool(request.options)
    read = copies * (TEMPLATE + sum(len(content.encode()) for _, content in chat))
    return read + sum(len(option.encode()) + 1 for option in request.options) + request.max_new_tokens
