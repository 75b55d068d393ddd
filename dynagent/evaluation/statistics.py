"""Means with their intervals, and what they allow to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor  # records are read where there is no torch


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval over n questions."""

    mean: float
    ci_low: float
    ci_high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.ci_low:.3f}, {self.ci_high:.3f}], n = {self.n}"


def mean_interval(values: Tensor | Sequence[float], *, num_resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean with a 95 % bootstrap percentile interval."""
    from scipy import stats  # takes seconds to import, and who reads a record needs none of it

    options: dict[str, Any] = {"n_resamples": num_resamples, "batch": 100, "method": "percentile", "rng": seed}
    return _interval(values, lambda sample: stats.bootstrap((sample,), np.mean, **options).confidence_interval)


def seed_interval(values: Sequence[float]) -> Estimate:
    """Mean over seeds with a 95 % interval of Student's t: seeds are few, where a bootstrap is too sure of itself."""
    from scipy import stats

    return _interval(values, lambda x: stats.t.interval(0.95, len(x) - 1, loc=x.mean(), scale=stats.sem(x)))


def _interval(values: Tensor | Sequence[float], bounds: Callable[[np.ndarray], tuple[float, float]]) -> Estimate:
    """Without spread there is nothing to resample, and the interval is the mean."""
    sample = np.asarray(values, dtype=float)
    mean = float(sample.mean())
    low, high = (mean, mean) if len(sample) < 2 or np.ptp(sample) == 0 else bounds(sample)
    return Estimate(mean, float(low), float(high), len(sample))


def conclusion(effect: Estimate) -> str:
    """What a difference allows to say: nothing, where its interval contains zero."""
    if effect.ci_low > 0:
        return f"gains {effect.mean:+.3f} (95 % interval above zero)"
    if effect.ci_high < 0:
        return f"loses {effect.mean:+.3f} (95 % interval below zero)"
    return f"makes no difference that {effect.n} questions can show ({effect.mean:+.3f}, the interval contains zero)"
