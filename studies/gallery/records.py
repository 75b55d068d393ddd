"""Which records each figure shows, by their paths."""

from __future__ import annotations

from studies.table2.settings import (
    MOST_ADVERSARIES,
    PAPER_SPARSITY,
    RECIPES,
    SPARSITIES,
    TEMPERATURES,
    adversaries_cell,
    sparsity_cell,
    temperature_cell,
)
from studies.table2.study import FOLDER


def files_of(*cells: str) -> tuple[str, ...]:
    """The two files of each cell of Table 2."""
    return tuple(f"{FOLDER}/{cell}{suffix}" for cell in dict.fromkeys(cells) for suffix in (".json", ".npz"))


_ADVERSARIAL = {recipe: f"adversarial-constant-{recipe}" for recipe in RECIPES}
_SPECIALIZED = {recipe: f"specialized-{recipe}" for recipe in RECIPES}
_EDGE_REDUCTION = {recipe: sparsity_cell(recipe, PAPER_SPARSITY) for recipe in RECIPES}
FIGURE_RECORDS: dict[str, tuple[str, ...]] = {
    "idea": ("results/idea.json",),
    "claims": ("results/claims.json",),
    "learner_headroom": ("results/learner.json",),
    "learner_sparsity": ("results/learner.json",),
    "adversarial_curves": files_of(*_ADVERSARIAL.values()),
    "adversarial_heatmaps_paper": files_of(_ADVERSARIAL["paper"]),
    "adversarial_heatmaps_default": files_of(_ADVERSARIAL["default"]),
    "adversaries": files_of(*map(adversaries_cell, range(MOST_ADVERSARIES + 1))),
    "specialized_curves": files_of(*_SPECIALIZED.values()),
    "specialized_heatmaps_paper": files_of(_SPECIALIZED["paper"]),
    "specialized_heatmaps_default": files_of(_SPECIALIZED["default"]),
    "temperatures": files_of(*map(temperature_cell, TEMPERATURES)),
    "edge_reduction": files_of(*(sparsity_cell(recipe, sparsity) for recipe in RECIPES for sparsity in SPARSITIES)),
    "edge_reduction_curves": files_of(*_EDGE_REDUCTION.values()),
    "edge_reduction_heatmaps": files_of(_EDGE_REDUCTION["default"]),
    "crosswords_curves": ("results/crosswords.json",),
    "embedding_scale": ("results/ablations/embedding_ablation.json",),
    "pretraining_specialized": ("results/ablations/model_size.json",),
    "pretraining_mixture": ("results/ablations/model_size.json",),
    "released_effects": ("results/ablations/as_released.json",),
    "released_heard": ("results/ablations/as_released.json",),
    "communication": ("results/communication.json",),
    "frontier": ("results/frontier.json",),
    "cost": ("results/bench.json",),
}
