"""Numbers as records and tables have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dynagent.evaluation.statistics import Estimate, seed_interval
from dynagent.runs.record import describe


def geometric_mean(ratios: Sequence[float] | np.ndarray) -> Estimate:
    """Mean over seeds of a ratio with its interval: those of its logarithm, turned back."""
    log = seed_interval(np.log(ratios).tolist())
    return Estimate(float(np.exp(log.mean)), float(np.exp(log.ci_low)), float(np.exp(log.ci_high)), log.n)


def plain(value: Any) -> Any:
    """As JSON has it: four significant digits of every number with a fraction, and null for what is not a number."""
    value = describe(value)
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value
