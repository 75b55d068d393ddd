"""Which options a piece of prose names, and whether it states, denies or only mentions them.

A *mention* is a letter that stands alone, several of them that are joined ("A or B"), or an option's text. What stands
to its left and right decides what it is:

    the answer is B         stated: a word such as "answer", and nothing but linking words between
    B seems right           stated: a verb and praise
    it cannot be B          denied: a negation, and nothing but linking words between
    B is wrong, 选项B错误    denied
    (is it B?)              asked: no statement
    A noble gas             no mention: any letter before a small word that is no verb is a word of the sentence

Every pattern is anchored at the mention and sees at most `WINDOW` characters, so that no text takes quadratic time.
All letters are read alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

WINDOW = 80
_JOINED = "0-9A-Za-zÀ-ɏ\u0300-\u036f"  # what a letter that stands alone does not touch: digits, Latin script, accents
_ALONE = rf"(?<![{_JOINED}])(?<![{_JOINED}]['_-]){{}}(?!['_-]?[{_JOINED}])"
_LETTER = re.compile(_ALONE.format("[A-Za-z]"))
_AND = r"(?:\s*(?:,\s*)?\b(?:and|or|nor|und|oder|et|ou|y|o)\s+|\s*(?:[/&、和与與及]|以及|或者?|还是)\s*)"
_MARK = r"""[\s"'*_`()\[\]{}<>$\\|~「」『』【】《》]"""
_MENTION = re.compile(
    _ALONE.format("[A-Za-z]")
    + rf"(?:[)\]\"'*]{{0,3}}(?:{_AND}|\s*,\s*)(?:(?:option|choice)\s+)?[(\[\"'*]{{0,3}}{_ALONE.format('[A-Z]')})*"
)

_NOUN = r"answers?|ans\b\.?|solution|conclusion|selection|guess|vote|verdict|prediction"
_OPTION = r"options?|choices?|letter|statement"
_GOOD = r"correct|right|best|final|proper|appropriate"
_VERB = (
    r"choos(?:e|ing)|chose|select(?:ed|ing)?|pick(?:ed|ing)?|(?:go|going|went) (?:for|with)|opt(?:ing)? for|"
    r"vot(?:e|ing) for|settl(?:e|ing) (?:on|for)|say|conclude"
)
_IT = r"(?:it|that|this)(?:'s| is)|(?:must|should|would|will|has to|have to|ought to) be|c'est"
_ABROAD = (
    r"réponse|respuesta|antwort|lösung|risposta|resposta|antwoord|svar|vastaus|odpowiedź|jawaban|cevap|đáp án|ответ|"
    r"відповідь|答案|答え|解答|回答|正解|정답|답|الإجابة|الجواب|उत्तर|(?:故|应|應|应该|因此|所以|我)?[选選](?![项項])[择擇]?|"
    r"[选選][项項](?=\s*(?:[:是为為]|应))|正确的?(?:是|为)"
)
_LINK = (
    r"(?:[\s:=>→⇒,.\"'*_`()\[\]{}「」『』【】《》<$\\|~#–—-]|\b(?:is|be|are|would|should|must|will|has|to|therefore|thus|then|hence|"
    r"clearly|obviously|definitely|certainly|likely|probably|most|indeed|simply|just|still|option|choice|letter|answer|"
    r"number|the|est|es|ist|è|é|adalah|это|text|textbf|mathrm|mathbf|boxed)\b|[是应應该該为為はが는은이]|选项|選項|هي|هو|है)*"
)
_STATED_LEFT = re.compile(
    rf"(?:\b(?:{_NOUN}|(?:{_GOOD}|my) (?:{_OPTION})|(?:{_OPTION})(?=\s*(?:[:=]|is\b|would\b|should\b|must\b))|{_VERB}|"
    rf"{_IT}|so|therefore|thus|hence)\b|∴|⇒|=>|→|(?:^|\n)[\s*-]*[✓✔✅]|{_ABROAD}){_LINK}$",
    re.IGNORECASE,
)
_FILLER = (
    r"(?:[\s:\"'*_`()\[\]]|\b(?:be|been|being|is|it|it's|the|answers?|an?|options?|choices?|letter|correct|right|best|"
    r"likely|really|think|believe|that|choos(?:e|ing)|select(?:ing)?|pick(?:ing)?|go(?:ing)?|with|say|any|of|both|"
    r"either|necessarily|possibly|have|would|could|for|es|la|die|der)\b|是|选|選|择|能|可能|应|该|答案|项)*"
)
_DENIED_LEFT = re.compile(
    r"(?:\b(?:not|never|cannot|neither|nor|without|except|excluding|exclude[sd]?|unlike|(?:rather|other) than|"
    r"instead of|as opposed to|rul(?:e|es|ed|ing) out|eliminat(?:e|es|ed|ing)|reject(?:s|ed|ing)?|"
    r"dismiss(?:es|ed|ing)?|discard(?:s|ed|ing)?|none of|anything but|all but|no way|(?<!no )doubt|pas|nicht|no es|не)\b|n't\b|"
    rf"不|非|排除|≠|!=|(?:^|\n)[\s*-]*[✗✘❌]|\b(?:wrong|incorrect|false) (?:{_NOUN}|{_OPTION})\b{_LINK}){_FILLER}$",
    re.IGNORECASE,
)
_BE = (
    r"(?:(?:is|are|was|were|seems?|looks?|appears?|sounds?|feels?|(?:must|should|would|will|could|can|may|might|"
    r"has to|have to) be|est|es|ist|это)\b\s*)"
)
_VERY = (
    r"(?:(?:also|clearly|obviously|both|all|definitely|simply|therefore|thus|hence|just|indeed|certainly|probably|"
    r"likely|very|quite|so|then|to be|like|the|an?|my|only|single|most|more|far|much|too|rather|plainly|itself|la|le|el|die|der)\s+)*"
)
_AFTER = r"^[)\]\"'*_`]*\s*(?:[:–—-]\s*)?(?:(?:选项|選項|项|項)\s*)?"
_DENIED_RIGHT = re.compile(
    rf"{_AFTER}(?:{_BE}{_VERY}(?:never\b|out\b(?! of)|not\b(?! (?:wrong|incorrect|only|bad)))|"
    rf"{_BE}?{_VERY}(?:wrong|incorrect|false|invalid|untrue|inaccurate|impossible|unlikely|implausible|"
    r"irrelevant|ruled out|eliminated|excluded|rejected|fausse?|falsch|falsa|incorrect[ao]|неверн|неправильн|не\b|✗|✘|❌)|(?:can|could|may|might|must|should) be "
    r"(?:ruled out|eliminated|excluded|rejected|dismissed|discarded)|\w{2,6}n't\b|n'est pas|no es|"
    r"(?:does|do|did|can|could|will|would|should|has|have|may|must)\s?not\b|(?:fails?|contradicts?|violates?)\b|"
    r"(?:是|为|都|均|也|明显|显然|的|说法|则|就|は)*(?:错|錯|不|有误|排除|非|未|无法|没有|間違|誤|違)|では?な[いく]|×)",
    re.IGNORECASE,
)
_STATED_RIGHT = re.compile(
    rf"{_AFTER}(?:{_BE}{_VERY}(?:right(?!-)|correct|true|best|better|answer|choice|accurate|likely|appropriate|"
    r"plausible|suitable|fitting|valid|option|solution|good|reasonable|sensible|closest|fine|richtig|juste|correct[ae])\b|"
    r"it is\b|[✓✔✅]|(?:是|为|的|说法|最|才|就|が|は)*(?:正确|正確|对|對|合适|符合|恰当|答案|正解|正し))",
    re.IGNORECASE,
)
_SINGULAR = re.compile(r"^[)\]\"'*_`]*\s*(?:is|was|seems|looks|appears|sounds|has|does|fails|contradicts|isn't)\b")
_IF = re.compile(r"\b(?:if|whether|suppose|supposing|assuming|were|could it be)\s+(?:it (?:is|were)\s+)?[(\[\"'*]*$", re.I)
_EITHER = re.compile(r"\b(?:n?or|oder|ou)\b")
_ASKED = re.compile(r"^[^.!?\n。！;]{0,80}\?")
# Small words that may follow a letter that names an option; "A cat", "I think" and "B flat" are none.
_GOES_ON = frozenset(
    "is are was were isn't aren't wasn't seems seem looks look appears appear sounds because since as due so but and or "
    "nor not while whereas if that which too also only alone best right wrong correct incorrect fits matches works "
    "makes states says describes means refers represents gives contains contradicts fails shows includes involves "
    "mentions suggests implies explains violates corresponds remains does doesn't can't cannot isn't won't has it here instead overall definitely clearly obviously probably "
    "likely for rather than es est ist".split()
)
_NEXT_WORD = re.compile(r"^[\"'*_`]{0,3}\s+([a-z][a-z']*)(?:\s+(?:not\s+)?(be|have|fit|make|match|work)\b)?")
_MODALS = frozenset("would should must will can could may might".split())
_NAMED_AFTER = re.compile(r"\b(?:vitamin|hepatitis|group|type|plan|figure|class|grade|schedule|section|part)\s+$", re.I)
_CALLED = re.compile(rf"(?:\b(?:{_OPTION}|answer)\s*|[选選][项項]?\s*)[(\[\"'*]*$", re.IGNORECASE)
_ENDS = re.compile(rf"^{_MARK}*(?:$|[\n.,:;!)。、，；=–—-](?!\d)|(?:because|since|as|due)\b)")
_BEGINS = re.compile(rf"^(?:{_MARK}|[#.:,>•–—-])*(?:(?:{_OPTION}|[选選][项項]?)\s*)?[\s(\[\"'*:]*$", re.IGNORECASE)
_OPENING = ("(", "[", '"', "'", "*", "`", "{", "「", "【", "《")
_CLOSING = re.compile(r"^[.):]?[)\]\"'*`}」】》]")
_TO_TEXT = re.compile(rf"(?:{_MARK}|[.:,–—-])*")


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


DENIED, ASKED, MENTIONED, SET_OFF, STATED = range(5)


class OptionTexts:
    """The options' texts, to be found in a reply: whole words, in any case, the longest one first."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        normal = [_normal(text) for text in texts]
        # Two equal texts name no option, and a single letter is a letter.
        self._indices = {
            text: index for index, text in enumerate(normal) if normal.count(text) == 1 and not _LETTER.fullmatch(text)
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
    before = rf"(?<![{_JOINED}])" if re.match(rf"[{_JOINED}]", text) else ""
    after = rf"(?![{_JOINED}])" if re.search(rf"[{_JOINED}]$", text) else ""
    before += r"(?<!\d[.,])(?<![-−])" if text[0].isdigit() else ""
    after += r"(?![.,]\d)" if text[-1].isdigit() else ""
    return before + r"\s+".join(map(re.escape, text.split())) + after


def mentions(text: str, num_options: int, texts: OptionTexts) -> list[Mention]:
    """All options that a piece of prose names, letters first, with how strongly it does."""
    spans = texts.spans(text)
    ends = {(begin, option): end for begin, end, option in spans}
    covered = bytearray(len(text))
    for begin, end, _ in spans:
        covered[begin:end] = b"\1" * (end - begin)
    last_line = text.rstrip().rfind("\n") + 1
    listed = _lists_all(text, num_options)
    named: list[Mention] = []

    for match in _MENTION.finditer(text):
        if covered[match.start()]:
            continue
        left, end = text[max(0, match.start() - WINDOW) : match.start()], match.end()
        letters = [match[0][0], *(letter for letter in _LETTER.findall(match[0][1:]) if letter.isupper())]
        options = [ascii_uppercase.index(letter.upper()) for letter in letters]
        own_text = end + len(_TO_TEXT.match(text[end : end + WINDOW])[0])
        if end_of_text := ends.get((own_text, options[-1])):
            end = end_of_text
        right = text[end : end + WINDOW]
        begins = not named and match.start() < WINDOW and bool(_BEGINS.match(text[: match.start()]))
        if not end_of_text and not _is_label(letters[0], left, right, begins):
            continue
        if len(options) == 1 and options[0] >= num_options:  # the number of a statement ("I is true"), a unit, a name
            labelled = (begins and re.match(r"[).:](?:\s|$)", right)) or _STATED_LEFT.search(left)
            if letters[0].islower() or not labelled:
                continue
        alone = len(options) == 1 and not listed
        stands = (begins and bool(end_of_text or _ENDS.match(right))) or (
            0 < last_line <= match.start()
            and bool(_BEGINS.match(text[last_line : match.start()][-WINDOW:]))
            and not right.strip(" *_`.()[]\"'$")
        )
        if len(options) > 1 and _SINGULAR.match(right) and not _EITHER.search(match[0]):  # "it is B, and A is wrong"
            named += [Mention(option, _strength(left, "", False)) for option in options[:-1]]
            left, options = "", options[-1:]
        strength = _strength(left, right, alone and stands)
        if strength == DENIED and len(options) > 1 and not re.search(_AND, match[0]):  # "not A, B"
            named += [Mention(option, MENTIONED) for option in options[1:]]
            options = options[:1]
        named += [Mention(option, strength) for option in options]

    for begin, end, option in spans:
        left, right = text[max(0, begin - WINDOW) : begin], text[end : end + WINDOW]
        stands = not named and begin < WINDOW and bool(_BEGINS.match(text[:begin]) and _ENDS.match(right))
        strength = _strength(left, right, stands)
        if strength == STATED and not _goes_on(right):
            strength = MENTIONED
        named.append(Mention(option, strength, is_text=True))
    return named


def _strength(left: str, right: str, stands: bool) -> int:
    """How strongly an option is named, from what is to the left and to the right of its name.

    Args:
        stands: whether it is where answers are, at the beginning or on the last line.
    """
    if _DENIED_LEFT.search(left) or _DENIED_RIGHT.match(right):
        return DENIED
    if _IF.search(left) or _ASKED.match(right):
        return ASKED
    if stands or _STATED_LEFT.search(left) or _STATED_RIGHT.match(right):
        return STATED
    if left.endswith(_OPENING) and _CLOSING.match(right):
        return SET_OFF
    return MENTIONED


def _is_label(letter: str, left: str, right: str, begins: bool) -> bool:
    """Whether a letter that stands alone names an option, and is no word or name of the sentence."""
    if left.endswith(_OPENING) and _CLOSING.match(right):
        return True
    called = bool(_CALLED.search(left))
    if letter.isupper():
        return called or (_goes_on(right) and not _NAMED_AFTER.search(left))
    if called:
        return _goes_on(right)
    ended = bool(re.match(r"[)\]\"'*_`}.:,;!。、，$]*(?:\s|$)", right))
    marked = bool(re.match(r"[)\].:](?:\s|$)|$", right))
    return (begins and marked) or (ended and not _NEXT_WORD.match(right) and bool(_STATED_LEFT.search(left)))


def _goes_on(right: str) -> bool:
    """Whether a sentence goes on after the name of an option, and not after an article, a pronoun or part of a name."""
    word = _NEXT_WORD.match(right)
    return word is None or word[1] in _GOES_ON or (word[1] in _MODALS and bool(word[2]))


def _lists_all(text: str, num_options: int) -> bool:
    """Whether the text repeats the list of options, "A) ... B) ... C) ...": then none is stated by its place."""
    labels = re.findall(r"(?:^|[\s(*])([A-Z])[*]{0,2}[).:]", text)
    return 1 < num_options <= len(labels) and "".join(labels[:num_options]) == ascii_uppercase[:num_options]
