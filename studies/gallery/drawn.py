"""What a figure of the gallery is, and what all captions say."""

from __future__ import annotations

from typing import NamedTuple

from matplotlib.figure import Figure

OVER_SEEDS_AND_SUBJECTS = "Intervals: 95 %, over seeds and subjects."
WINDOW = 20  # iterations of a running mean


class Drawn(NamedTuple):
    """A figure and what is to be said under it."""

    figure: Figure
    caption: str
