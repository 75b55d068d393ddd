"""Figures of what drives the results: the released code, the scale of a reading, and pretraining."""

from __future__ import annotations

from dynagent.runs.record import Record
from studies.common.plots import plot_estimates, plot_intervals
from studies.common.record import load_record
from studies.common.tables import chosen, in_words, listed
from studies.gallery.drawn import OVER_SEEDS_AND_SUBJECTS, Drawn
from studies.released.tables import heard_lines


def released_effects(record: Record | None = None) -> Drawn:
    """What each behaviour of the released code changes by itself."""
    record = record or load_record("released/as_released")
    rows = chosen(record.numbers["rows"], recipe="paper", kind="alone")
    tasks = dict.fromkeys(row["task"] for row in rows)
    figure = plot_estimates(
        {task: {row["switch"]: row["dynamic"]["effect"] for row in rows if row["task"] == task} for task in tasks},
        "effect on the dynamic graph's accuracy, points",
        scale=100,
        names=sorted({row["switch"] for row in rows}, key=lambda name: int(name.split()[0])),
    )
    return Drawn(
        figure,
        "What each behaviour of the released code changes by itself, published recipe, dynamic graph. "
        f"{record.num_seeds} seeds, n = {listed({row['dynamic']['effect'].n for row in rows})} held-out questions. "
        f"{OVER_SEEDS_AND_SUBJECTS}",
    )


def released_heard(record: Record | None = None) -> Drawn:
    """Accuracy by the number of agents that are heard, where some replies cannot be parsed."""
    record = record or load_record("released/as_released")
    rate = record.parameters["unparsable rate"]
    lines = heard_lines(record, rate)
    questions = {estimate.n for line in lines.values() for estimate in line.values()}
    return Drawn(
        plot_intervals(lines, "agents that are heard", f"accuracy with {100 * rate:g} % unparsable replies"),
        f"One reply in {in_words(round(1 / rate))} cannot be parsed (simulated): it is no vote, a blank vote, or it "
        f"voids the whole vote, as released. {record.num_seeds} seeds, n = {listed(questions)} held-out questions. "
        f"{OVER_SEEDS_AND_SUBJECTS}",
    )


def embedding_scale(record: Record | None = None) -> Drawn:
    """How much probabilities vary over questions with mean embeddings, relative to hidden states."""
    record = record or load_record("readings/embedding_ablation")
    rows = chosen(record.numbers["ratios"], task="specialized", recipe="paper", learning_rate=0.0001)
    figure = plot_estimates(
        {"published recipe": {row["embeddings"]: row["ratio"] for row in rows}},
        "variation over questions (last hidden state: 1)",
    )
    figure.axes[0].axvline(1, color="0.6", linestyle="--", linewidth=0.8)
    return Drawn(
        figure,
        "How much edge probabilities vary over questions when the edge LLM is read as a mean embedding, divided by "
        "the variation with its last hidden state; published recipe, specialists. Geometric mean over "
        f"{record.num_seeds} seeds with 95 % intervals over seeds, "
        f"{record.questions['specialized, evaluation'].n:,} held-out questions.",
    )


def pretraining(task: str, record: Record | None = None) -> Drawn:
    """What pretraining and another model give: points of accuracy, or headroom in a world."""
    record = record or load_record("readings/model_size")
    rows = [
        r for r in chosen(record.numbers["comparisons"], task=task, recipe="default") if "bits" not in r["comparison"]
    ]
    scale, unit = (100, "points of accuracy") if task == "specialized" else (1, "headroom")
    figure = plot_estimates(
        {
            name: {r["readout"].replace("_", " "): r["difference"] for r in rows if r["comparison"] == name}
            for name in dict.fromkeys(r["comparison"] for r in rows)
        },
        f"{task}: {unit}",
        scale=scale,
    )
    n = {row["difference"].n for row in rows}
    over = f"n = {listed(n)} held-out questions" if task == "specialized" else f"n = {listed(n)} paired seeds"
    return Drawn(
        figure,
        f"What pretraining of the edge LLM gives on *{task}*, and what another model gives, by where the model is read "
        f"(default recipe). Differences paired by seed, {record.num_seeds} seeds, {over}, 95 % intervals.",
    )
