"""Which records the ledger of the paper's claims reads, by their paths."""

from __future__ import annotations

from studies.gallery.records import files_of
from studies.table2.settings import PAPER_SPARSITY, RECIPES, readout_cell, sparsity_cell

LEDGER_RECORDS = (
    *files_of(
        *(
            cell
            for recipe in RECIPES
            for cell in (
                f"adversarial-constant-{recipe}",
                f"specialized-{recipe}",
                sparsity_cell(recipe, PAPER_SPARSITY),
                readout_cell(recipe, "mean_embedding"),
                readout_cell(recipe, "last_hidden"),
            )
        )
    ),
    "results/ablations/embedding_ablation.json",
    "results/ablations/as_released.json",
    "results/crosswords_answers.json",
)
LEDGER = ("results/claims.json", "results/claims.md")
