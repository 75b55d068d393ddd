"""The words with which replies state and deny, as patterns; `dynagent.team.statements` says how they are used.

Patterns called `..._BEFORE` run up to a name of an option, those called `..._AFTER` begin behind it.
"""

from __future__ import annotations

import re


def _words(*lines: str) -> str:
    """A pattern for any of the words, separated by blanks; within one, "_" is a blank."""
    return f"(?:{'|'.join(word.replace('_', ' ') for line in lines for word in line.split())})"


JOINED = "0-9A-Za-zÀ-ɏ\u0300-\u036f"  # what a letter that stands alone does not touch: digits, Latin script, accents


def alone(letters: str) -> str:
    """A pattern for one of the letters where it stands alone."""
    return rf"(?<![{JOINED}])(?<![{JOINED}]['_-]){letters}(?!['_-]?[{JOINED}])"


MARK = r"""[\s"'*_`()\[\]{}<>$\\|~「」『』【】《》]"""
CLOSED = r"[)\]\"'*_`]"
AND = r"(?:\s*(?:,\s*)?\b(?:and|or|nor|und|oder|et|ou)\s+|\s*(?:[/&、和与與及]|以及|或者?|还是)\s*)"
LETTER = re.compile(alone("[A-Za-z]"))
LETTERS_JOINED = re.compile(
    alone("[A-Za-z]")
    + rf"(?:{CLOSED}{{0,3}}(?:{AND}|\s*,\s*)(?:(?:option|choice)\s+)?[(\[\"'*]{{0,3}}{alone('[A-Z]')})*"
)

# --- statements

_ANSWER = _words("answers? ans solution conclusion selection guess vote verdict prediction")
_OPTION = _words("options? choices? letter statement")
_GOOD = _words("correct right best final proper appropriate my")
_CHOOSE = _words(
    "choos(?:e|ing) chose select(?:ed|ing)? pick(?:ed|ing)? (?:go|going|went)_(?:for|with) opt(?:ing)?_for",
    "vot(?:e|ing)_for settl(?:e|ing)_(?:on|for) say conclude",
)
_IT_IS = _words("(?:it|that|this)(?:'s|_is) (?:must|should|would|will|has_to|have_to|ought_to)_be c'est")
_SO = _words("so therefore thus hence")
_ABROAD = _words(
    "réponse respuesta antwort lösung risposta resposta antwoord svar vastaus odpowiedź jawaban cevap đáp_án ответ",
    "відповідь 答案 答え 解答 回答 正解 정답 답 الإجابة الجواب उत्तर",
    r"(?:故|应|應|应该|因此|所以|我)?[选選](?![项項])[择擇]? [选選][项項](?=\s*[:是为為应]) 正确的?[是为]",
)
_LINKS = _words(
    "is be are would should must will has to therefore thus then hence clearly obviously definitely certainly likely",
    "probably most indeed simply just still option choice letter answer number the est es ist è é adalah это",
    "text textbf mathrm mathbf boxed",
)
_LINKED = (
    r"(?:[\s:=>→⇒,.\"'*_`()\[\]{}「」『』【】《》<$\\|~#–—-]|"
    rf"\b{_LINKS}\b|[是应應該该為为はが는은이]|选项|選項|هي|هو|है)*"
)
STATED_BEFORE = re.compile(
    rf"(?:\b(?:{_ANSWER}|{_GOOD} {_OPTION}|{_OPTION}(?=\s{{0,9}}(?:[:=]|is\b|would\b|should\b|must\b))|{_CHOOSE}|"
    rf"{_IT_IS}|{_SO})\b|∴|⇒|=>|→|(?:^|\n)[ *-]*[✓✔✅]|{_ABROAD})(?P<reach>{_LINKED})",
    re.IGNORECASE,
)
_BE = (
    r"(?:(?:is|are|was|were|seems?|looks?|appears?|sounds?|feels?|(?:must|should|would|will|could|can|may|might|has to|"
    r"have to) be|est|es|ist|это)\b\s*)"
)
_ADVERBS = _words(
    "also clearly obviously both all definitely simply therefore thus hence just indeed certainly probably likely very",
    "quite so then to_be like the an? my only single most more far much too rather plainly itself la le el die der",
)
_VERY = rf"(?:{_ADVERBS}\s+)*"
_BEHIND = rf"^{CLOSED}*\s*(?:[:–—-]\s*)?(?:(?:选项|選項|项|項)\s*)?"
_PRAISE = _words(
    "right(?!-) correct true best better answer choice accurate likely appropriate plausible suitable fitting valid",
    "option solution good reasonable sensible closest fine richtig juste correct[ae]",
)
STATED_AFTER = re.compile(
    rf"{_BEHIND}(?:{_BE}{_VERY}{_PRAISE}\b|it is\b|[✓✔✅]|"
    r"(?:是|为|的|说法|最|才|就|が|は)*(?:正确|正確|对|對|合适|符合|恰当|答案|正解|正し))",
    re.IGNORECASE,
)

# --- denials

_NOT = _words(
    "not never cannot neither nor without except excluding exclude[sd]? unlike (?:rather|other)_than instead_of",
    "as_opposed_to rul(?:e|es|ed|ing)_out eliminat(?:e|es|ed|ing) reject(?:s|ed|ing)? dismiss(?:es|ed|ing)?",
    "discard(?:s|ed|ing)? none_of anything_but all_but no_way (?<!no_)doubt pas nicht no_es не",
)
_WRONG = _words(
    "wrong incorrect false invalid untrue inaccurate impossible unlikely implausible irrelevant ruled_out eliminated",
    "excluded rejected fausse? falsch falsa incorrect[ao] неверн неправильн не\\b ✗ ✘ ❌",
)
_FILLERS = _words(
    "be been being is it it's the answers? options? choices? letter correct right best likely really think believe",
    "that choos(?:e|ing) select(?:ing)? pick(?:ing)? go(?:ing)? with say any of both either necessarily possibly have",
    "would could for es la die der",
)
_FILLED = rf"(?:[\s:\"'*_`()\[\]]|\b{_FILLERS}\b|是|选|選|择|能|可能|应|该|答案|项)*"
DENIED_BEFORE = re.compile(
    rf"(?:\b{_NOT}\b|n't\b|不|非|排除|≠|!=|(?:^|\n)[ *-]*[✗✘❌]|"
    rf"\b(?:wrong|incorrect|false) (?:{_ANSWER}|{_OPTION})\b{_LINKED})(?P<reach>{_FILLED})",
    re.IGNORECASE,
)
DENIED_AFTER = re.compile(
    rf"{_BEHIND}(?:{_BE}{_VERY}(?:never\b|out\b(?! of)|not\b(?! (?:wrong|incorrect|only|bad)))|{_BE}?{_VERY}{_WRONG}|"
    r"(?:can|could|may|might|must|should) be (?:ruled out|eliminated|excluded|rejected|dismissed|discarded)|"
    r"\w{2,6}n't\b|n'est pas|no es|(?:does|do|did|can|could|will|would|should|has|have|may|must)\s?not\b|"
    r"(?:fails?|contradicts?|violates?)\b|"
    r"(?:是|为|都|均|也|明显|显然|的|说法|则|就|は)*(?:错|錯|不|有误|排除|非|未|无法|没有|間違|誤|違)|では?な[いく]|×)",
    re.IGNORECASE,
)

# --- what is neither

SUPPOSED_BEFORE = re.compile(
    r"\b(?:if|whether|suppose|supposing|assuming|were|could it be)\s+(?:it (?:is|were)\s+)?[(\[\"'*]*$", re.IGNORECASE
)
ASKED_AFTER = re.compile(r"^[^.!?\n。！;]{0,80}\?")
SINGULAR_AFTER = re.compile(rf"^{CLOSED}*\s*(?:is|was|seems|looks|appears|sounds|has|does|fails|contradicts|isn't)\b")
EITHER = re.compile(r"\b(?:n?or|oder|ou)\b")

# --- labels

# Small words that may follow a letter that names an option; "A cat", "I think" and "B flat" name none.
GOES_ON = re.compile(
    _words(
        "is are was were isn't aren't wasn't seems? looks? appears? sounds because since as due so but and or nor not",
        "while whereas if that which too also only alone best right wrong correct incorrect fits matches works makes",
        "states says describes means refers represents gives contains contradicts fails shows includes involves",
        "mentions suggests implies explains violates corresponds remains does doesn't has it here instead overall",
        "definitely clearly obviously probably likely for rather than es est ist",
        "(?:would|should|must|will|can|could|may|might|can't|cannot|won't)_(?:not_)?"
        "(?:be|have|fit|make|match|work|explain)",
    )
    + r"(?![a-z'])"
)
NEXT_WORD = re.compile(r"^[\"'*_`]{0,3}\s+(?=[a-z])")
NAMED_BEFORE = re.compile(
    r"\b(?:vitamin|hepatitis|group|type|plan|figure|class|grade|schedule|section|part)\s+$", re.IGNORECASE
)
CALLED_BEFORE = re.compile(rf"(?:\b(?:{_OPTION}|answer)\s*|[选選][项項]?\s*)[(\[\"'*]*$", re.IGNORECASE)
BEGINNING = re.compile(rf"^(?:{MARK}|[#.:,>•–—-])*(?:(?:{_OPTION}|[选選][项項]?)\s*)?[\s(\[\"'*:]*$", re.IGNORECASE)
ENDS_AFTER = re.compile(rf"^{MARK}*(?:$|[\n.,:;!)。、，；=–—-](?!\d)|(?:because|since|as|due)\b)")
OPENING = ("(", "[", '"', "'", "*", "`", "{", "「", "【", "《")
CLOSING = re.compile(r"^[.):]?[)\]\"'*`}」】》]")
BETWEEN_LETTER_AND_TEXT = re.compile(rf"(?:{MARK}|[.:,–—-])*")
