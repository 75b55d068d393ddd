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


def clustered_interval(
    values: np.ndarray | Tensor, clusters: Sequence[str], *, num_resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Mean over seeds and questions, with a 95 % bootstrap interval that holds for other seeds and other subjects.

    Seeds are drawn anew, and so are clusters, each with all of its questions: questions on one subject are alike,
    and the same question is alike for all seeds, so that fewer things are independent than there are numbers.

    Args:
        values: [seeds, n], of n questions or of their paired differences.
        clusters: n names, a question's subject for example.

    Raises:
        ValueError: if there is not one cluster for every question.
    """
    table = np.asarray(values, dtype=float)
    if table.ndim != 2 or table.shape[1] != len(clusters):
        raise ValueError(f"Values of shape {table.shape} need as many clusters as columns, not {len(clusters)}.")
    names, cluster_of = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.stack([np.bincount(cluster_of, row, len(names)) for row in table])  # [seeds, clusters]
    sizes = np.bincount(cluster_of, minlength=len(names))
    generator = np.random.default_rng(seed)
    of_seeds, of_clusters = (
        generator.multinomial(count, np.full(count, 1 / count), num_resamples) for count in sums.shape
    )
    totals = np.einsum("rs,sc,rc->r", of_seeds, sums, of_clusters, optimize=True)
    low, high = np.quantile(totals / (len(table) * (of_clusters @ sizes)), (0.025, 0.975))
    return Estimate(float(table.mean()), float(low), float(high), table.shape[1])


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
