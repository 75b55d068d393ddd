"""What a model writes to itself before it answers, and how to leave it out."""

from __future__ import annotations

import re

# Tags as models write them: <think>, </thinking>, <|begin_of_thought|>, <|END_THINKING|>, ◁think▷, [THINK],
# &lt;think&gt;, and any of them under another model's prefix.
_TAG = (
    r"(?:[<◁]|&lt;|\[(?=/?THINK\]))\s{0,3}\|?\s{0,3}"
    r"(?P<end>/|end_(?:of_)?)?(?:begin_(?:of_)?|start_(?:of_)?)?(?:\w{1,20}:)?"
    r"(?P<name>think(?:ing)?|thoughts?|reason(?:ing)?|reflect(?:ion)?|analysis|deliberation|scratchpad|(?:inner_|internal_)?"
    r"monologue|chain_of_thought|cot)(?P<last>_end)?(?:_start|_begin)?(?:\s[^<>]{0,80}?)?\s{0,3}(?P<empty>/)?\|?"
    r"\s{0,3}(?:[>▷]|&gt;|\])"
)
# Other marks by which a model begins its thoughts, and those that end the same thoughts.
_PAIRS = {
    "harmony": (r"<\|channel\|>\s*(?:analysis|commentary)", r"<\|channel\|>\s*final\b(?:\s*<\|message\|>)?"),
    "harmony_bare": (r"\A\s*analysis(?=[A-Z])", r"assistantfinal"),  # the same without its special tokens
    "ollama": (r"\A\s*Thinking\.\.\.\s*\n", r"\.\.\.\s*done thinking\."),
    "details": (r"<details\s+type=\W?reasoning\b[^<>]{0,80}>", r"</details>"),
    "medgemma": (r"<unused94>", r"<unused95>"),
    "granite": (r"\A\s*Here(?: is|'s) my thought process:", r"\bHere(?: is|'s) my response:"),
}
_MARKS = re.compile(
    "|".join([_TAG, *(f"(?P<{kind}>{begin})|(?P<{kind}_ends>{end})" for kind, (begin, end) in _PAIRS.items())]),
    re.IGNORECASE,
)


def without_thoughts(text: str) -> tuple[str, bool]:
    """A reply without its thoughts, and whether it ends inside them.

    What stands before an end without a beginning is thoughts, too: chat templates put the beginning into the prompt.

    >>> without_thoughts("<think>A? No.</think> B")
    (' B', False)
    >>> without_thoughts("It looks like A.</think> B")
    (' B', False)
    >>> without_thoughts("<think>It looks like A, but")
    ('', True)
    """
    kept: list[str] = []
    begun: list[str] = []  # names of the thoughts that have begun, the outer one first
    start = 0  # of what is kept next
    for mark in _MARKS.finditer(text):
        name, ends, empty = _kind(mark)
        if empty:
            continue
        if not ends:
            if not begun:
                kept.append(text[start : mark.start()])
            if name not in begun:  # a tag that is only mentioned in the thoughts has no end of its own
                begun.append(name)
            continue
        if name in begun:
            del begun[begun.index(name) :]
        else:
            kept = kept if begun else []
            begun = []
        start = mark.end()
    return ("".join(kept), True) if begun else ("".join([*kept, text[start:]]), False)


def _kind(mark: re.Match[str]) -> tuple[str, bool, bool]:
    """The name of thoughts, whether they end here, and whether they are empty (`<think/>`)."""
    if mark["name"]:
        return mark["name"].lower(), bool(mark["end"] or mark["last"]), bool(mark["empty"])
    kind = str(mark.lastgroup)
    return kind.removesuffix("_ends"), kind.endswith("_ends"), False
