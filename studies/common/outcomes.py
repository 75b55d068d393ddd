"""What the seeds of a setting give, and their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from dynagent.evaluation.statistics import Estimate, clustered_interval


@dataclass
class Outcome:
    """What the seeds of a setting give.

    Attributes:
        scores: wiring -> [seeds, n], each evaluation question's probability of a right answer.
        values: name -> one number a seed.
    """

    scores: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)

    def take(self, name: str, scores: Mapping[str, Tensor]) -> None:
        """Scores [seeds, n] by kind of graph."""
        self.scores |= {f"{name}, {kind}": of.float().numpy() for kind, of in scores.items()}


class Results:
    """The outcomes of all settings, with intervals over seeds and subjects.

    Args:
        subjects: of the evaluation questions.
    """

    def __init__(self, outcomes: Mapping[Any, Outcome], subjects: Sequence[str]) -> None:
        self.outcomes = outcomes
        self.subjects = list(subjects)

    def scores(self, setting: Any, wiring: str) -> np.ndarray:
        """[seeds, n]; "one - other" is a difference, paired on the same questions."""
        one, _, other = wiring.partition(" - ")
        scores = self.outcomes[setting].scores[one].astype(float)
        return scores - self.scores(setting, other) if other else scores

    def values(self, setting: Any, name: str) -> list[float]:
        return self.outcomes[setting].values[name]

    def interval(self, scores: np.ndarray) -> Estimate:
        return clustered_interval(scores, self.subjects)
