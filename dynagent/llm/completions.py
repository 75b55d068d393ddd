"""What a server's answer says, from its JSON as it came: text, likelihoods of letters, why it ended, what it cost.

Servers differ in every part of it. What cannot be read at all is an `UnreadableError`, which shows what came.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from dynagent.llm.base import Reply, Request
from dynagent.llm.budget import least_tokens, prompt_text

SHOWN = 300  # characters of what a server said, in a sentence
OUT_OF_SIGHT = math.log(2)  # nats by which a letter that is not among the candidates is below the least of them
IMPOSSIBLE = -100.0  # nats, for a likelihood of zero: below what any model gives
_REFUSED = re.compile(
    r"content[ _-]?(?:filter|management|policy|safety)|filtered|moderation|responsible ?ai|safety (?:system|filter)|"
    r"data_?inspection|inappropriate content|sensitive (?:content|information|words?)|risk control|"
    r"usage policies|内容安全|敏感",
    re.IGNORECASE,
)
_THOUGHT = re.compile(r"^\W*(?:think(?:ing)?|thoughts?|reasoning|channel|analysis)\W*$", re.IGNORECASE)
_MARKS = " \t\r\n\"'`*_.,:;()[]{}|▁ĠĊ“”‘’「」『』（）【】：。、"
_MESSAGE = {"content", "reasoning", "reasoning_content", "refusal", "tool_calls"}  # a reply has one of these at least
_FLAGS = {"length", "content_filter", "tool_calls", "function_call"}  # ends that are no end of the model's own
_ENDS = {"max_tokens": "length", "function_call": "tool_calls", "safety": "content_filter", "refusal": "content_filter"}


class UnreadableError(ValueError):
    """An answer that holds no reply; the message is what came."""


class RefusedError(UnreadableError):
    """An answer that holds a content filter's refusal in place of a reply."""


def parse(text: str) -> dict[str, Any]:
    """The JSON object of an answer that holds a reply.

    Raises:
        UnreadableError: for anything else, an error in place of the reply included.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise UnreadableError(text) from None
    choices = body.get("choices") if isinstance(body, dict) else None
    if not choices and isinstance(body, dict) and is_refusal(json.dumps(body.get("error"), ensure_ascii=False)):
        raise RefusedError(text)
    if not (isinstance(choices, list) and choices and all(isinstance(choice, dict) for choice in choices)):
        raise UnreadableError(text)
    if any(choice.get("error") for choice in choices) or (body.get("error") and not _holds_reply(choices[0])):
        raise UnreadableError(text)
    return body


def _holds_reply(choice: Mapping[str, Any]) -> bool:
    return bool(choice.get("message") or choice.get("text"))


def is_refusal(said: str) -> bool:
    """Whether what a server says in place of a reply is a content filter's."""
    return bool(_REFUSED.search(said))


def refused(request: Request) -> Reply:
    """The reply to a question that a content filter refused."""
    return Reply("", None, None, least_tokens(prompt_text(request.prompt)), 0, "content_filter")


def is_thought(token: str) -> bool:
    """Whether a reply that begins with this token begins with thoughts.

    >>> [is_thought(token) for token in ("<think>", "<|channel|>", "B", "I")]
    [True, True, False, False]
    """
    return bool(_THOUGHT.match(token)) and not token.isalpha()


# --- chats


def written(body: Mapping[str, Any], request: Request, begun: str = "") -> Reply:
    """What the model wrote; `begun` is taken off where it wrote that, too."""
    choice = body["choices"][0]
    message = choice.get("message")
    if not isinstance(message, dict) or not message.keys() & _MESSAGE:
        raise UnreadableError(json.dumps(body))
    text = clean(_content(message.get("content"), body).removeprefix(begun))
    reason = str(choice.get("finish_reason")).lower()
    reason = _ENDS.get(reason, reason)
    if not text and message.get("refusal"):
        reason = "content_filter"
    counts = usage(body, prompt_text(request.prompt), text)
    return Reply(text, None, None, *counts, finish_reason=reason if reason in _FLAGS else None)


def _content(content: Any, body: Mapping[str, Any]) -> str:
    """The text of a message, which may come in parts, of which thoughts are none."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list) and all(isinstance(part, str | dict) for part in content):
        texts = [
            part if isinstance(part, str) else part.get("text")
            for part in content
            if isinstance(part, str) or part.get("type", "text") in ("text", "output_text")
        ]
        if all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
    raise UnreadableError(json.dumps(body))


def first_candidates(body: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The first token's candidates with their log-probabilities, of which zero is minus infinity; [] without any."""
    logprobs = body["choices"][0].get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    first = content[0] if isinstance(content, list) and content else None
    if not isinstance(first, dict):
        return []
    listed = first.get("top_logprobs")
    listed = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    listed = listed or [first]  # at least what was written
    return [(str(item["token"]), _log_prob(item.get("logprob"))) for item in listed if item.get("token") is not None]


def _log_prob(value: Any) -> float:
    """Never above 0; what a server leaves out, or calls NaN, is as good as impossible."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    return min(float(value), 0.0) if number else -math.inf


def letter_scores(candidates: Sequence[tuple[str, float]], letters: Sequence[str]) -> tuple[float, ...] | None:
    """Log-likelihoods of the letters as a reply's first token; None where fewer than two of them are in sight.

    A candidate is a letter once blanks, quotes, marks and beginnings of words are taken off; what comes in several
    forms is added up. A letter that is not among them is worth less than the least candidate; one that is among them
    at minus infinity is impossible.

    >>> [round(score, 2) for score in letter_scores([(" B", -0.2), ("B", -2.0), ("**A", -3.0)], "ABC")]
    [-3.0, -0.05, -3.69]
    """
    if not candidates or is_thought(max(candidates, key=lambda candidate: candidate[1])[0]):
        return None
    by_letter = {letter: [lp for token, lp in candidates if _bare(token) == _bare(letter)] for letter in letters}
    if sum(map(bool, by_letter.values())) < min(2, len(by_letter)):
        return None
    least = min((lp for _, lp in candidates if lp > IMPOSSIBLE), default=IMPOSSIBLE)
    scores = [max(_logsumexp(seen), IMPOSSIBLE) if seen else least - OUT_OF_SIGHT for seen in by_letter.values()]
    return tuple(scores) if max(scores) > IMPOSSIBLE else None


def _bare(token: str) -> str:
    plain = unicodedata.normalize("NFKC", token)
    return plain.strip(_MARKS) or token


def _logsumexp(values: Sequence[float]) -> float:
    finite = [value for value in values if value > -math.inf]
    if not finite:
        return -math.inf
    most = max(finite)
    return min(most + math.log(sum(math.exp(value - most) for value in finite)), 0.0) if len(finite) > 1 else most


# --- plain prompts


def echoed(body: Mapping[str, Any], request: Request) -> Reply:
    """Likelihoods of what follows a plain prompt; read alone, too, this tells by its length where that begins."""
    try:
        choices = sorted(body["choices"], key=lambda choice: choice["index"])
        scores = [choice["logprobs"]["token_logprobs"] for choice in choices]  # and one token that was written
        read, wrote = body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]
        if len(scores) != 1 + len(request.options) or sum(map(len, scores)) != read + wrote:
            raise UnreadableError(json.dumps(body))
        options = [values[len(scores[0]) - 1 : -1] for values in scores[1:]]
        likelihoods = [[max(float(value), IMPOSSIBLE) for value in values] for values in options]
    except (KeyError, TypeError, AttributeError):
        raise UnreadableError(json.dumps(body)) from None
    if not all(options) or any(map(math.isnan, map(sum, likelihoods))):
        raise UnreadableError(json.dumps(body))
    return Reply(None, tuple(map(sum, likelihoods)), tuple(map(len, options)), read, wrote)


# --- all


def usage(body: Mapping[str, Any], read: str, wrote: str) -> tuple[int, int]:
    """Tokens read and written as the server states them; where it states none, as many as the texts have at least."""
    stated = body.get("usage")
    counts = [stated.get(name) if isinstance(stated, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    valid = [count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 0 for count in counts]
    return valid[0] or least_tokens(read), valid[1] or least_tokens(wrote)


def clean(text: str) -> str:
    """A text that can be stored: half a character, which a bound of tokens may leave, is replaced."""
    return text.encode("utf-8", "replace").decode()
