"""The interval of what was measured with several seeds on the same questions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from dynagent.evaluation.statistics import Estimate


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
