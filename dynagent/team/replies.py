"""Which option a written reply names.

A reply is read in steps, and the first one that finds an answer decides; two different answers in it are none:

1. thoughts are left out (`dynagent.team.thoughts`); a reply that ends inside them is cut off;
2. an answer in a form: the value of a key such as "answer", a tag `<answer>`, a box `\\boxed{}`;
3. an option that is stated: after a word such as "answer", with a verb and praise, at the beginning, on the last line;
4. a letter that is set off by bold type or brackets;
5. the only option that is mentioned, by its letter or its text.

Steps 3 to 5, and what is denied there, are in `dynagent.team.statements`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from string import ascii_letters, ascii_lowercase

from dynagent.team.statements import DENIED, MENTIONED, SET_OFF, STATED, Mention, OptionTexts, Prose
from dynagent.team.thoughts import without_thoughts

UNPARSABLE = -1
TIMED_OUT = -3  # there was no reply; -2 is `dynagent.team.votes.NOT_ASKED`
CUT_OFF = -4  # the reply ended before an answer: in its thoughts, or at its token limit
REFUSED = -5  # a server's filter refused the question or the reply
CUT_OFF_ADVICE = "ended before an answer, in thoughts or at their token limit: raise max_new_tokens."
MOST_CHARACTERS = 3000  # of prose that are read at each end of a reply: answers stand there


def parse_reply(text: str, num_options: int, options: Sequence[str] = (), at_limit: bool = False) -> int:
    """The option that a written reply names, `UNPARSABLE`, or `CUT_OFF` where it ends before its answer.

    Args:
        options: their texts, where they are known; a reply may name one instead of a letter.
        at_limit: whether the reply ended at its token limit. Then an option that it only mentions is no answer, since
            it may have been about to weigh the others.

    >>> parse_reply("It is Paris.", 2, ["London", "Paris"])
    1
    >>> parse_reply("<think>London or", 2) == parse_reply("Let me look at option A", 2, at_limit=True) == CUT_OFF
    True
    """
    text, inside_thoughts = without_thoughts(_plain(text))
    if inside_thoughts:
        return CUT_OFF
    text = _NEXT_QUESTION.split(_without_style(text).strip(), maxsplit=1)[0]
    texts = _option_texts(tuple(options))
    answer = _formal(text, num_options, texts)
    if answer is None:
        if len(text) > 2 * MOST_CHARACTERS:
            text = f"{text[:MOST_CHARACTERS]}\n{text[-MOST_CHARACTERS:]}"
        answer = _corrected(text, num_options, texts)
        if answer is None:
            answer = _in_prose(text, num_options, texts, SET_OFF if at_limit else MENTIONED)
    if answer is not None and 0 <= answer < num_options:
        return answer
    return CUT_OFF if at_limit else UNPARSABLE


@lru_cache  # all agents are asked the same question
def _option_texts(options: tuple[str, ...]) -> OptionTexts:
    return OptionTexts([_without_style(_plain(option)) for option in options])


def parse_letter(text: str, num_options: int) -> int:
    """The option that a written reply names by its letter, or `UNPARSABLE`.

    >>> [parse_letter(t, 4) for t in ('{"answer": "b"}', "Answer: C", "(D).", "d", "A or B", "A cat sat down.")]
    [1, 2, 3, 3, -1, -1]
    >>> [parse_letter(t, 4) for t in ("B, not A.", "A is wrong.", "A seems right.", "<think>A?</think> B")]
    [1, -1, 0, 1]
    """
    return max(parse_reply(text, num_options), UNPARSABLE)


def parse_reason(text: str) -> str:
    """The reason that a written reply gives, on one line: the key "reason" of a JSON object, which may be cut off.

    A reply that is no such object is all reason; one with an answer alone has none.

    >>> [parse_reason(t) for t in ('{"answer": "B", "reason": "It shi', '{"answer": "B"}', "B. It\\nshines.")]
    ['It shi', '', 'B. It shines.']
    """
    text, _ = without_thoughts(text)
    found = re.search(r'"reason"\s*:\s*"((?:[^"\\]|\\.)*)', text)
    if found is None and '"answer"' in text:
        return ""
    reason = re.sub(r"\\(.)", r"\1", re.sub(r"\\[nrt]", " ", found[1])) if found else text
    return " ".join(reason.split())


class _Plain(dict[int, str]):
    """Full-width and bold letters as plain ones, curved quotes as straight ones, and nothing that is invisible.

    Character by character, since a long run of accents takes quadratic time to normalise.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        invisible = unicodedata.category(character) == "Cf"
        self[code] = "" if invisible else unicodedata.normalize("NFKC", character)
        return self[code]


_PLAIN = _Plain({ord(curved): "'" for curved in "‘’‛′"} | {ord(curved): '"' for curved in "“”„‟″"})
_STYLE = [
    (re.compile(r"<\|begin_of_box\|>"), r"\\boxed{"),
    (re.compile(r"<\|end_of_box\|>"), "}"),
    (re.compile(r"</?(?:b|strong|em|i|u|mark|code|span)>"), "**"),
    (re.compile(r"</?(?:br|p|div|li)\s?/?>"), "\n"),
    (re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>"), " "),  # special tokens that a server did not take off
    (re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathsf|mathit|emph)\s?\{([^{}]{0,300})\}"), r"\1"),
]

# A model that was not taught to end goes on with a question of its own.
_NEXT_QUESTION = re.compile(r"(?<=\S)\s*\n[ \t]*(?:question|q|human|user|问题|题目)\s?\d{0,4}\s?:", re.IGNORECASE)


def _plain(text: str) -> str:
    return text if text.isascii() else text.translate(_PLAIN)


def _without_style(text: str) -> str:
    for pattern, plain in _STYLE:
        text = pattern.sub(plain, text)
    return text


_KEY = (
    r"(?:(?:final|correct|right|best|my|the|selected|chosen|predicted|model)[ _-]?)*"
    r"(?:answer|choice|option|letter|selection|prediction|答案|选项|选择)(?:[ _-]?(?:letter|choice|option|key))?"
)
_PAIR = re.compile(
    rf"(?:[\"']|[{{,]\s{{0,20}}){_KEY}[\"']?\s*[:=]\s*"
    r"(?:\"(?P<double>(?:[^\"\\]|\\.)*)|'(?P<single>[^'\n]*)|\[(?P<list>[^\[\]]*)|(?P<bare>[^\s,}\]\"'{\[][^,}\n]*))",
    re.IGNORECASE | re.DOTALL,
)
_TAG = re.compile(rf"[<\[]{_KEY}(?:\s[^<>\[\]]{{0,40}})?[>\]]\s*(?P<value>[^<\[]*)", re.IGNORECASE)
_BOX = re.compile(
    r"\\?(?:f?boxed|fbox|framebox)\s?\{\s*(?P<braces>[^{}]*)|\\boxed\s+(?P<bare>[A-Z])\b|"
    r"\[\[(?P<double>[A-Z])\]\]|<<(?P<angle>[A-Z])>>|^####(?P<line>[^#\n]+)$",
    re.MULTILINE,
)


def _formal(text: str, num_options: int, texts: OptionTexts) -> int | None:
    """The answer in a form, `UNPARSABLE` for a form without one, or None where the text has no form."""
    pairs = [value for match in _PAIR.finditer(text) for value in _values(match)]
    tags = [match["value"] for match in _TAG.finditer(text)]
    boxes = [match[match.lastgroup or 0] for match in _BOX.finditer(text)]
    read = [_value(value, num_options, texts) for value in (*pairs, *tags, *boxes)]
    answers = {answer for answer in read if answer is not None}
    if answers:
        return answers.pop() if len(answers) == 1 else UNPARSABLE
    return UNPARSABLE if pairs or tags else None  # a box may also hold a number on the way


def _values(pair: re.Match[str]) -> Iterator[str]:
    """The value, or the values of a list."""
    kind = pair.lastgroup or "bare"
    if kind == "list":
        yield from (value.strip(" \n\"'") for value in pair["list"].split(","))
    else:
        yield re.sub(r"\\(.)", r"\1", pair[kind].replace(r"\n", "\n"))


def _value(text: str, num_options: int, texts: OptionTexts) -> int | None:
    option = texts.index(text)
    return option if option is not None else _in_prose(text[:MOST_CHARACTERS], num_options, texts, MENTIONED)


_CORRECTION = re.compile(
    r"\b(?:wait|no,|actually|correction|sorry|scratch that|let me (?:re\w+|correct|check)|on second thoughts?|"
    r"i misread|(?=final (?:answer|choice|decision)\b))|等等|更正|(?=最[终終后後]的?(?:答案|选择))",
    re.IGNORECASE,
)


def _corrected(text: str, num_options: int, texts: OptionTexts) -> int | None:
    """What is stated after the last correction, or as the final answer: it takes back what was stated before."""
    begins = [match.end() for match in _CORRECTION.finditer(text)]
    return _in_prose(text[begins[-1] :], num_options, texts, STATED) if begins else None


def _in_prose(text: str, num_options: int, texts: OptionTexts, least: int) -> int | None:
    """The option that prose names at least so strongly, `UNPARSABLE` where it names several, None for none."""
    bare = text.strip(" \n().*:`'\"[]{}$_!?,;。")
    if len(bare) == 1 and bare in ascii_letters:
        return ascii_lowercase.index(bare.lower())
    named = Prose(text, num_options, texts).mentions()
    denied = {mention.option for mention in named if mention.strength == DENIED}
    for strength in range(STATED, least - 1, -1):
        level = [m for m in named if m.strength == strength and (strength == STATED or m.option not in denied)]
        if level:
            return _single(level)
    return None


def _single(level: list[Mention]) -> int:
    """The one option of these mentions, or `UNPARSABLE`. Texts of several options are no answer beside one letter."""
    letters = {mention.option for mention in level if not mention.is_text}
    by_text = {mention.option for mention in level if mention.is_text}
    options = letters | by_text if len(by_text) == 1 or not letters else letters
    return options.pop() if len(options) == 1 else UNPARSABLE
