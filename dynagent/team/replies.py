"""Which option a written reply names, and why."""

from __future__ import annotations

import json
import re
import unicodedata

from dynagent.tasks.multiple_choice import LETTERS

UNPARSABLE = -1
TIMED_OUT = -3  # there was no reply; -2 is `dynagent.team.votes.NOT_ASKED`


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


def parse_reason(text: str) -> str:
    """The reason that a written reply gives, on one line: the key "reason" of a JSON object, which may be cut off.

    A reply that is no such object is all reason; one with an answer alone has none.

    >>> [parse_reason(t) for t in ('{"answer": "B", "reason": "It shi', '{"answer": "B"}', "B. It\\nshines.")]
    ['It shi', '', 'B. It shines.']
    """
    found = re.search(r'"reason"\s*:\s*"((?:[^"\\]|\\.)*)', text)
    if found is None and '"answer"' in text:
        return ""
    reason = re.sub(r"\\(.)", r"\1", re.sub(r"\\[nrt]", " ", found[1])) if found else text
    return " ".join(reason.split())


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
