"""Equal spend: two neighbouring wirings mixed at random cost exactly as much as a third."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def at_spend(curve: Sequence[tuple[float, np.ndarray]], spend: float) -> tuple[np.ndarray, float]:
    """Expected scores at this expected spend, from wirings in the order of rising spend.

    Each question is given the cheaper of two neighbours or the dearer one, with probabilities that make the expected
    spend equal. Below the first wiring the question is not asked with the rest of the probability, which scores zero;
    above the last one there is no more to buy, and the last one stands.

    Args:
        curve: (spend, scores of any one shape), rising.

    Returns:
        Scores and the spend that they take.

    >>> at_spend([(100.0, np.array([0.4, 0.0])), (200.0, np.array([0.6, 1.0]))], 150.0)
    (array([0.5, 0.5]), 150.0)
    """
    if not curve or any(one >= other for (one, _), (other, _) in pairwise(curve)):
        raise ValueError("A curve has at least one point, and its points rise in spend.")
    points = [(0.0, np.zeros_like(curve[0][1])), *curve]
    for (low, cheaper), (high, dearer) in pairwise(points):
        if spend <= high:
            share = (spend - low) / (high - low)
            return (1 - share) * cheaper + share * dearer, spend
    return points[-1][1], points[-1][0]
