"""Numbers as the records of studies hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dynagent.evaluation.statistics import Estimate, seed_interval
from dynagent.runs.values import plain_values


def geometric_mean(ratios: Sequence[float] | np.ndarray) -> Estimate:
    """Mean over seeds of a ratio with its interval: those of its logarithm, turned back."""
    log = seed_interval(np.log(ratios).tolist())
    return Estimate(float(np.exp(log.mean)), float(np.exp(log.ci_low)), float(np.exp(log.ci_high)), log.n)


def plain(value: Any) -> Any:
    """As JSON has it: four significant digits of every number with a fraction, and null for what is not a number."""
    return _rounded(plain_values(value))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {name: _rounded(entry) for name, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list) else value
