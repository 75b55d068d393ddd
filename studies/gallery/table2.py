"""Figures of Table 2's teams: training curves, edge probabilities, accuracy by adversaries, temperature and edges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dynagent.viz.plots import plot_heatmaps
from studies.common.plots import plot_intervals, plot_sparsity, plot_utilities
from studies.common.tables import in_words, listed
from studies.gallery.drawn import OVER_SEEDS_AND_SUBJECTS, WINDOW, Drawn
from studies.table2.record import CellRecord
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
from studies.table2.tables import accuracy_lines, sparsity_rows

LEARNED, TRUTHFUL = "dynamic, most probable", "truthful agents only (told)"
WIRINGS = (LEARNED, "static, most probable", "full graph", TRUTHFUL)
# The cells of the paper's three experiments on votes.
CELLS: dict[str, Callable[[str], str]] = {
    "adversarial": lambda recipe: f"adversarial-constant-{recipe}",
    "specialized": lambda recipe: f"specialized-{recipe}",
    "edge reduction": lambda recipe: sparsity_cell(recipe, PAPER_SPARSITY),
}
QUESTIONS = {"adversarial": "MMLU", "specialized": "MMLU and CMMLU", "edge reduction": "MMLU and CMMLU"}
LOWEST_ACCURACY = 0.15  # that the figure of edges shows


def cells_of(task: str) -> dict[str, CellRecord]:
    """The records of a task by recipe."""
    return {recipe: CellRecord.load(CELLS[task](recipe)) for recipe in RECIPES}


def seeds_in(records: Mapping[Any, CellRecord]) -> str:
    """How many seeds each record has: "20", or "10 to 20"."""
    counts = sorted({record.num_seeds for record in records.values()})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def held_out_in(records: Mapping[Any, CellRecord]) -> str:
    """How many held-out questions the records are judged on."""
    (count,) = {record.num_questions for record in records.values()}
    return f"{count:,}"


def curves(task: str, records: Mapping[str, CellRecord] | None = None) -> Drawn:
    """Training curves of both recipes and policies."""
    records = records or cells_of(task)
    lines = {f"{name}, {policy}": r.utility[policy] for name, r in records.items() for policy in ("dynamic", "static")}
    sizes = {record.record.parameters["batch_size"] for record in records.values()}
    default = records["default"].record.parameters
    passes = "The default recipe makes one pass over the questions" if default["num_iterations"] == "auto" else ""
    exact = "its utility is an expectation over all graphs" if default["estimator"] == "exact" else ""
    return Drawn(
        plot_utilities(lines, WINDOW),
        f"Training on the {task} team ({QUESTIONS[task]}): utility, the share of right answers, as a running mean over "
        f"{WINDOW} iterations of {listed(sizes)} questions. Mean and band of two standard errors over "
        f"{seeds_in(records)} seeds. {'; '.join(filter(None, (passes, exact)))}.",
    )


def heatmaps(task: str, recipe: str, record: CellRecord | None = None) -> Drawn:
    """Figure 2 of the paper: edge probabilities by policy and language."""
    record = record or CellRecord.load(CELLS[task](recipe))
    probs = record.numbers["edge_probs"]
    by_language = {"dynamic, MMLU": "en", "dynamic, CMMLU": "zh"} if task != "adversarial" else {"dynamic": "all"}
    panels = {name: probs["dynamic"][of] for name, of in by_language.items()} | {"static": probs["static"]["all"]}
    return Drawn(
        plot_heatmaps(panels, record.numbers["groups"]),
        f"Edge probabilities on the {task} team by the {recipe} recipe, averaged over {record.num_seeds} "
        f"seeds and n = {record.num_questions:,} held-out questions ({QUESTIONS[task]}). Rows speak, columns listen, "
        "0 is the decision; frames mark the groups' edges into it; white pairs have no edge that is decided.",
    )


def adversaries() -> Drawn:
    """Accuracy against the number of adversaries."""
    cells: dict[float, str] = {number: adversaries_cell(number) for number in range(MOST_ADVERSARIES + 1)}
    records, lines = {number: CellRecord.load(name) for number, name in cells.items()}, accuracy_lines(cells, WIRINGS)
    (truthful,) = {record.record.parameters["num_truthful"] for record in records.values()}
    apart = max(abs(lines[LEARNED][number].mean - lines[TRUTHFUL][number].mean) for number in cells)
    return Drawn(
        plot_intervals(lines, f"adversaries beside {in_words(truthful)} truthful agents", "accuracy"),
        f'From {in_words(0)} to {in_words(MOST_ADVERSARIES)} agents that always say "A" beside '
        f"{in_words(truthful)} that try to be right, default recipe, MMLU, {seeds_in(records)} seeds a point, "
        f"n = {held_out_in(records)} held-out questions. The learned graph is never further than "
        f"{100 * apart:.1f} points from the truthful agents alone. {OVER_SEEDS_AND_SUBJECTS}",
    )


def temperatures() -> Drawn:
    """Accuracy against the temperature at which the agents draw their answers."""
    cells = {t: temperature_cell(t) for t in TEMPERATURES}
    figure = plot_intervals(accuracy_lines(cells, WIRINGS), "sampling temperature", "accuracy")
    ax = figure.axes[0]
    ax.set_xscale("log")
    ax.set_xticks(TEMPERATURES, [f"{t:g}" for t in TEMPERATURES])
    ax.minorticks_off()
    records = {t: CellRecord.load(name) for t, name in cells.items()}
    return Drawn(
        figure,
        "Specialists for English and Chinese that draw their answers at different temperatures, default recipe, "
        f"{seeds_in(records)} seeds, n = {held_out_in(records)} held-out questions. {OVER_SEEDS_AND_SUBJECTS}",
    )


def edge_reduction() -> Drawn:
    """Accuracy against edges into the decision."""
    rows = sparsity_rows()
    figure = plot_sparsity(rows)
    ax = figure.axes[0]
    ax.set(ylim=(LOWEST_ACCURACY, 0.48), xlim=(0, 7))
    records = {(r, s): CellRecord.load(sparsity_cell(r, s)) for r in RECIPES for s in SPARSITIES}
    below = [f"{row['recipe']}, δ = {row['sparsity']:g}" for row in rows if row["accuracy"].mean < LOWEST_ACCURACY]
    return Drawn(
        figure,
        "Accuracy against the number of agents that are heard, one point for each weight δ of the sparsity penalty "
        f"(the small numbers), {seeds_in(records)} seeds, n = {held_out_in(records)} held-out questions. "
        f"{OVER_SEEDS_AND_SUBJECTS} The best possible is no learner: it is told the language and chosen on the "
        f"evaluation answers. Below the figure: {'; '.join(below) or 'nothing'}.",
    )
