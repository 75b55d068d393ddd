"""Which options a piece of prose names, and whether it states, denies or only mentions them.

An option is named by a letter that stands alone, or by its text; letters may be joined ("A or B"). What stands before
and after the name decides what is said of it:

- "the answer is B": stated, by a word such as "answer" and nothing but linking words between;
- "B seems right": stated, by a verb and praise;
- "B. Paris": stated, at the beginning, or on the last line alone;
- "it cannot be B": denied, by a negation and nothing but linking words between;
- "B is wrong", "选项B错误": denied;
- "is it B?": asked, no statement;
- "A noble gas": no name, since any letter before a small word that is no verb is a word of the sentence.

All letters are read alike. Each pattern runs over the text once or sees the `WINDOW` characters beside a name, so that
no text takes quadratic time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from dynagent.team import vocabulary as say

WINDOW = 80
DENIED, ASKED, MENTIONED, SET_OFF, STATED = range(5)


@dataclass(frozen=True)
class Mention:
    """One option that a text names.

    Attributes:
        option: its index, which may lie beyond the last option.
        strength: `STATED`, `SET_OFF` by brackets or bold type, `MENTIONED`, `ASKED` (or supposed) or `DENIED`.
        is_text: whether it is named by its text and not by its letter.
    """

    option: int
    strength: int
    is_text: bool = False


class OptionTexts:
    """The options' texts, to be found in a reply: whole words, in any case, the longest one first.

    >>> OptionTexts(["iron", "iron oxide"]).spans("It is iron oxide.")
    [(6, 16, 1)]
    """

    def __init__(self, texts: Sequence[str] = ()) -> None:
        normal = [_normal(text) for text in texts]
        # Two equal texts name no option, and a single letter is a letter.
        self._indices = {
            text: index
            for index, text in enumerate(normal)
            if normal.count(text) == 1 and not say.LETTER.fullmatch(text)
        }
        words = sorted(filter(None, self._indices), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_whole_words, words)), re.IGNORECASE) if words else None

    def index(self, text: str) -> int | None:
        """The option whose text this is."""
        return self._indices.get(_normal(text))

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Begin, end and option of every option's text in a longer one."""
        matches = self._pattern.finditer(text) if self._pattern else ()
        named = [(match.start(), match.end(), self.index(match[0])) for match in matches]
        return [(begin, end, option) for begin, end, option in named if option is not None]


def _normal(text: str) -> str:
    return " ".join(text.casefold().strip(" .").split())


def _whole_words(text: str) -> str:
    """A pattern for a text that is no part of a longer word or number; Chinese has no blanks between words."""
    before = rf"(?<![{say.JOINED}])" if re.match(rf"[{say.JOINED}]", text) else ""
    after = rf"(?![{say.JOINED}])" if re.search(rf"[{say.JOINED}]$", text) else ""
    before += r"(?<!\d[.,])(?<![-−])" if text[0].isdigit() else ""
    after += r"(?![.,]\d)" if text[-1].isdigit() else ""
    return before + r"\s+".join(map(re.escape, text.split())) + after


class Prose:
    """A text with the names of options in it.

    Args:
        num_options: letters beyond them are numbers of statements ("I is true"), units or names, unless stated.
        texts: of the options.
    """

    def __init__(self, text: str, num_options: int, texts: OptionTexts) -> None:
        self.text = text
        self.num_options = num_options
        self.spans = texts.spans(text)
        self._stated = _reached(say.STATED_BEFORE, text)
        self._denied = _reached(say.DENIED_BEFORE, text)
        self._last_line = text.rstrip().rfind("\n") + 1
        self._has_list = _lists_all(text, num_options)

    def mentions(self) -> list[Mention]:
        """All options that are named, letters first."""
        covered = bytearray(len(self.text))
        for begin, end, _ in self.spans:
            covered[begin:end] = b"\1" * (end - begin)
        text_ends = {(begin, option): end for begin, end, option in self.spans}
        named: list[Mention] = []
        for match in say.LETTERS_JOINED.finditer(self.text):
            if not covered[match.start()]:
                named += self._by_letters(match, text_ends, is_first=not named)
        by_text = [
            Mention(option, self._text_strength(begin, end, not named), True) for begin, end, option in self.spans
        ]
        return named + by_text

    def _by_letters(self, match: re.Match[str], text_ends: dict[tuple[int, int], int], is_first: bool) -> list[Mention]:
        begin, end = match.span()
        letters = [match[0][0], *(letter for letter in say.LETTER.findall(match[0][1:]) if letter.isupper())]
        options = [ascii_uppercase.index(letter.upper()) for letter in letters]
        gap = say.BETWEEN_LETTER_AND_TEXT.match(self.text, end, end + WINDOW)
        own_text = text_ends.get((gap.end() if gap else end, options[-1]), 0)  # where it ends, behind its letter
        end = own_text or end
        at_beginning = is_first and self._is_beginning(0, begin)
        if not own_text and not self._is_label(letters[0], begin, end, at_beginning):
            return []
        if (
            len(options) == 1
            and options[0] >= self.num_options
            and not self._is_stated_beyond(begin, end, at_beginning)
        ):
            return []
        after = self.text[end : end + WINDOW]
        stands = (at_beginning and bool(own_text or say.ENDS_AFTER.match(after))) or (
            0 < self._last_line <= begin
            and self._is_beginning(self._last_line, begin)
            and not after.strip(" *_`.()[]\"'$\n")
        )
        before: list[Mention] = []
        strength = self._strength(begin, end, stands and len(options) == 1 and not self._has_list)
        if len(options) > 1 and say.SINGULAR_AFTER.match(after) and not say.EITHER.search(match[0]):
            # "it is B, and A is wrong": what follows is said of the last one alone
            strength_of_others = self._strength(begin, len(self.text), False)
            before = [Mention(option, strength_of_others) for option in options[:-1]]
            strength = self._strength(end, end, False)
            options = options[-1:]
        if strength == DENIED and len(options) > 1 and not re.search(say.AND, match[0]):  # "not A, B"
            before = [Mention(option, MENTIONED) for option in options[1:]]
            options = options[:1]
        return before + [Mention(option, strength) for option in options]

    def _text_strength(self, begin: int, end: int, is_first: bool) -> int:
        after = self.text[end : end + WINDOW]
        stands = is_first and self._is_beginning(0, begin) and bool(say.ENDS_AFTER.match(after))
        strength = self._strength(begin, end, stands)
        return MENTIONED if strength == STATED and not _goes_on(after) else strength

    def _strength(self, begin: int, end: int, stands: bool) -> int:
        """How strongly an option is named there.

        Args:
            stands: whether it is where answers are, at the beginning or on the last line.
        """
        before, after = self.text[max(0, begin - WINDOW) : begin], self.text[end : end + WINDOW]
        if self._denied[begin] or say.DENIED_AFTER.match(after):
            return DENIED
        if say.SUPPOSED_BEFORE.search(before[-24:]) or say.ASKED_AFTER.match(after):
            return ASKED
        if stands or self._stated[begin] or say.STATED_AFTER.match(after):
            return STATED
        return SET_OFF if before.endswith(say.OPENING) and say.CLOSING.match(after) else MENTIONED

    def _is_beginning(self, line: int, begin: int) -> bool:
        """Whether nothing but marks, or a word such as "option", stands between the beginning of a line and a name."""
        return begin - line < WINDOW and bool(say.BEGINNING.match(self.text[line:begin]))

    def _is_label(self, letter: str, begin: int, end: int, at_beginning: bool) -> bool:
        """Whether a letter that stands alone names an option, and is no word or name of the sentence."""
        before, after = self.text[max(0, begin - 24) : begin], self.text[end : end + WINDOW]
        if before.endswith(say.OPENING) and say.CLOSING.match(after):
            return True
        called = bool(say.CALLED_BEFORE.search(before))
        if letter.isupper():
            return called or (_goes_on(after) and not say.NAMED_BEFORE.search(before))
        if called:
            return _goes_on(after)
        if at_beginning:
            return bool(re.match(r"[)\].:](?:\s|$)|$", after))
        ended = bool(re.match(r"[)\]\"'*_`}.:,;!。、，$]*(?:\s|$)", after))
        return ended and not say.NEXT_WORD.match(after) and bool(self._stated[begin])

    def _is_stated_beyond(self, begin: int, end: int, at_beginning: bool) -> bool:
        marked = at_beginning and bool(re.match(r"[).:](?:\s|$)", self.text[end : end + 2]))
        return self.text[begin].isupper() and (marked or bool(self._stated[begin]))


def _reached(pattern: re.Pattern[str], text: str) -> bytearray:
    """For every place whether such words lead up to it."""
    reached = bytearray(len(text) + 1)
    for match in pattern.finditer(text):
        begin, end = match.span("reach")
        reached[begin : end + 1] = b"\1" * (end + 1 - begin)
    return reached


def _goes_on(after: str) -> bool:
    """Whether a sentence goes on after the name of an option, and not after an article, a pronoun or part of a name."""
    word = say.NEXT_WORD.match(after)
    return word is None or bool(say.GOES_ON.match(after, word.end()))


def _lists_all(text: str, num_options: int) -> bool:
    """Whether the text repeats the list of options, "A) ... B) ... C) ...": then none is stated by its place."""
    labels = re.findall(r"(?:^|[\s(*])([A-Z])[*]{0,2}[).:]", text)
    return 1 < num_options <= len(labels) and "".join(labels[:num_options]) == ascii_uppercase[:num_options]
