"""The rules by which a claim is judged."""

from __future__ import annotations


def judge(paper: float, low: float, high: float, *, null: float = 0.0) -> str:
    """The verdict on an effect, from the 95 % interval of ours.

    It agrees if the interval leaves out the null and reaches the paper's effect or more of it. It contradicts if the
    effect is the other way round, or in the same direction but surely smaller (`direction` tells the two apart). An
    interval that contains the null contradicts, too, unless it is wider than the paper's effect: then it is
    underpowered.

    >>> judge(5.6, 1.0, 6.0), judge(5.6, 1.0, 4.0), judge(5.6, -1.0, 2.0), judge(5.6, -5.0, 6.0)
    ('agrees', 'contradicts', 'contradicts', 'underpowered')
    """
    if low <= null <= high:
        return "underpowered" if high - low > abs(paper - null) else "contradicts"
    reaches = high >= paper if paper > null else low <= paper
    return "agrees" if direction(paper, low, high, null=null) == "same" and reaches else "contradicts"


def direction(paper: float, low: float, high: float, *, null: float = 0.0) -> str:
    """Whether the interval lies on the paper's side of the null: "same", "opposite", or "none" if it contains it."""
    if low <= null <= high:
        return "none"
    return "same" if (low > null) == (paper > null) else "opposite"


def judge_level(paper: float, low: float, high: float, models: str) -> str:
    """The verdict on a number that is no effect: with other models it cannot be compared."""
    if models != "same":
        return "not comparable"
    return "agrees" if low <= paper <= high else "contradicts"
