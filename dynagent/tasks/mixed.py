"""Questions of two languages: MMLU and CMMLU, half and half."""

from __future__ import annotations

from itertools import chain

from dynagent.tasks.multiple_choice import Questions


def half_and_half(english: Questions, chinese: Questions, limit: int | None = None) -> Questions:
    """English and Chinese questions in turn, as many of each as the smaller set has, and no more than `limit`."""
    pairs = zip(english, chinese, strict=False)
    items = tuple(chain.from_iterable(pairs))
    return Questions("mixed", english.split, (*english.sources, *chinese.sources), items[:limit])
