"""All figures of the experiments, from their records alone: `make figures` draws them into results/figures.

Each is a function that reads its record, or takes it, and returns a figure with its caption: what it shows, how many
questions and seeds are behind it, and what its intervals hold for. Notebooks and the gallery call the same functions.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import typer
from IPython.display import Markdown, display
from matplotlib.figure import Figure

from dynagent.runs.paths import resolve_path
from dynagent.viz.plots import LEGEND, plot_heatmaps, save_figure
from studies.benchmarks.figure import PANELS, plot_costs
from studies.common.plots import plot_headroom, plot_intervals, plot_sparsity, plot_utilities, with_accuracy_intervals
from studies.common.program import choose, program
from studies.common.study import load_record
from studies.communication.tables import plot_communication
from studies.crosswords.tables import WorldRecord
from studies.crosswords.tables import read as read_record
from studies.frontier.tables import load_record as load_spend
from studies.frontier.tables import plot_frontier
from studies.idea.figure import plot_idea
from studies.idea.measure import COMMAND as IDEA_COMMAND
from studies.idea.measure import OUTPUT as IDEA
from studies.readings.tables import chosen, plot_estimates
from studies.released.tables import heard_lines
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

FOLDER = "results/figures"
WIRINGS = ("dynamic, most probable", "static, most probable", "full graph", "truthful agents only (told)")
# The cells of the paper's three experiments on votes.
CELLS: dict[str, Callable[[str], str]] = {
    "adversarial": lambda recipe: f"adversarial-constant-{recipe}",
    "specialized": lambda recipe: f"specialized-{recipe}",
    "edge reduction": lambda recipe: sparsity_cell(recipe, PAPER_SPARSITY),
}
QUESTIONS = {"adversarial": "MMLU", "specialized": "MMLU and CMMLU", "edge reduction": "MMLU and CMMLU"}
OVER_SEEDS_AND_SUBJECTS = "Intervals: 95 %, over seeds and subjects."


class Drawn(NamedTuple):
    """A figure and what is to be said under it."""

    figure: Figure
    caption: str


def cells_of(task: str) -> dict[str, CellRecord]:
    """The records of a task by recipe."""
    return {recipe: CellRecord.load(CELLS[task](recipe)) for recipe in RECIPES}


def seeds_in(records: Mapping[Any, CellRecord]) -> str:
    """How many seeds each record has: "20", or "10 to 20"."""
    counts = sorted({len(record.data["seeds"]) for record in records.values()})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def held_out_in(records: Mapping[Any, CellRecord]) -> str:
    """How many held-out questions the records are judged on."""
    (count,) = {len(record.subjects) for record in records.values()}
    return f"{count:,}"


# --- the idea and the paper's claims


def idea() -> Drawn:
    """Figure 1 of the paper, with real questions."""
    record = read_record(IDEA, IDEA_COMMAND)
    gain = record["differences"]["learned, most probable - static, most probable"]
    return Drawn(
        plot_idea(record),
        "From a question to the team's answer. The edge LLM, SmolLM2-135M, reads the question; a linear head turns its "
        "reading into the probability that the decision (0) hears an agent; the agents of the most probable graph vote "
        "(solid edges; dotted ones are less probable than not). Agents 1 to 8, two for each area, are one language "
        "model, Qwen2.5-Coder-1.5B, that is asked for the right option in its area and for a wrong one outside. "
        f"Selection: {record['selection']}; an illustration, and no evidence. The evidence: over {record['seeds']} "
        f"seeds and n = {record['questions']['evaluation']:,} held-out questions the graphs that depend on the "
        f"question gain {100 * gain['mean']:+.1f} points [{100 * gain['ci_low']:+.1f}, {100 * gain['ci_high']:+.1f}] "
        f"over a learned static graph. {OVER_SEEDS_AND_SUBJECTS}",
    )


def claims() -> Drawn:
    """What the paper prints as differences of accuracy, beside ours."""
    rows = [
        row
        for row in _rows("results/claims.json", "make claims")
        if row["claim"].startswith(("Gain", "Change")) and row["ours"] is not None
    ]
    names = {row["claim"]: _wrapped(row["claim"]) for row in rows}

    def ours(found: Mapping[str, Any]) -> dict[str, float]:
        return {"mean": found["ours"], "ci_low": found["ci_low"], "ci_high": found["ci_high"]}

    figure = plot_estimates(
        {
            "published recipe, ours": {names[row["claim"]]: ours(row) for row in rows},
            "default recipe, ours": {names[row["claim"]]: ours(row["default"]) for row in rows},
        },
        "difference of accuracy, points",
    )
    figure.set_size_inches(8, 1.2 + 0.62 * len(rows))
    ax = figure.axes[0]
    ax.plot([row["paper"] for row in rows], range(len(rows)), "X", color="0.2", markersize=7, label="paper, one run")
    figure.legends.clear()
    figure.legend(loc="outside upper center", ncols=3, **LEGEND)
    seeds, questions = {row["seeds"] for row in rows}, {row["n"] for row in rows}
    return Drawn(
        figure,
        "Every difference of accuracy that the paper prints or that follows from its Table 2, and ours on smaller "
        f"language models ({_listed(seeds)} seeds, n = {_listed(questions)} held-out questions). "
        f"{OVER_SEEDS_AND_SUBJECTS} The paper's numbers are of one run and have none.",
    )


def _wrapped(claim: str) -> str:
    """A claim in lines of a figure's label."""
    short = claim.split(":")[0].replace(" (follows from the table)", "").replace("with 5 %", "5 %")
    return "\n".join(textwrap.wrap(short, 44))


def _listed(numbers: set[int]) -> str:
    return " or ".join(f"{number:,}" for number in sorted(numbers))


# --- Table 2's teams


def curves(task: str, records: Mapping[str, CellRecord] | None = None) -> Drawn:
    """Training curves of both recipes and policies."""
    records = records or cells_of(task)
    lines = {f"{name}, {policy}": r.utility[policy] for name, r in records.items() for policy in ("dynamic", "static")}
    return Drawn(
        plot_utilities(lines),
        f"Training on the {task} team ({QUESTIONS[task]}): utility, the share of right answers, as a running mean over "
        f"20 iterations of 4 questions. Mean and band of two standard errors over {seeds_in(records)} seeds. The "
        "default recipe makes one pass over the questions; its utility is an expectation over all graphs.",
    )


def heatmaps(task: str, recipe: str, record: CellRecord | None = None) -> Drawn:
    """Figure 2 of the paper: edge probabilities by policy and language."""
    record = record or CellRecord.load(CELLS[task](recipe))
    probs = record.data["edge_probs"]
    by_language = {"dynamic, MMLU": "en", "dynamic, CMMLU": "zh"} if task != "adversarial" else {"dynamic": "all"}
    panels = {name: probs["dynamic"][of] for name, of in by_language.items()} | {"static": probs["static"]["all"]}
    return Drawn(
        plot_heatmaps(panels, record.data["groups"]),
        f"Edge probabilities on the {task} team by the {recipe} recipe, averaged over {len(record.data['seeds'])} "
        f"seeds and n = {len(record.subjects):,} held-out questions ({QUESTIONS[task]}). Rows speak, columns listen, "
        "0 is the decision; frames mark the groups' edges into it; white pairs have no edge that is decided.",
    )


def adversaries() -> Drawn:
    """Accuracy against the number of adversaries."""
    cells: dict[float, str] = {number: adversaries_cell(number) for number in range(MOST_ADVERSARIES + 1)}
    records = {number: CellRecord.load(name) for number, name in cells.items()}
    return Drawn(
        plot_intervals(accuracy_lines(cells, WIRINGS), "adversaries beside eight truthful agents", "accuracy"),
        'From none to fifteen agents that always say "A" beside eight that try to be right, default recipe, MMLU, '
        f"{seeds_in(records)} seeds a point, n = {held_out_in(records)} held-out questions. The learned graphs "
        f"coincide with the truthful agents alone. {OVER_SEEDS_AND_SUBJECTS}",
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
    figure = plot_sparsity(sparsity_rows())
    ax = figure.axes[0]
    ax.set(ylim=(0.15, 0.48), xlim=(0, 7))
    records = {(r, s): CellRecord.load(sparsity_cell(r, s)) for r in RECIPES for s in SPARSITIES}
    return Drawn(
        figure,
        "Accuracy against the number of agents that are heard, one point for each weight δ of the sparsity penalty "
        f"(the small numbers), {seeds_in(records)} seeds, n = {held_out_in(records)} held-out questions. "
        f"{OVER_SEEDS_AND_SUBJECTS} The best possible is no learner: it is told the language and chosen on the "
        "evaluation answers. The static graph that nobody votes in lies below the figure.",
    )


# --- known-answer worlds


def learner_headroom(rows: Sequence[Mapping[str, Any]] | None = None) -> Drawn:
    """Headroom against calls of the agents."""
    rows = rows if rows is not None else _learner_rows("curve")
    return Drawn(
        plot_headroom(rows),
        "What is learned from how many answers of simulated agents (world *routing*, held-out questions, most "
        "probable graphs). Headroom is 0 for the best static graph and 1 for the best graph of each language. Mean "
        f"over {_listed({row['num_seeds'] for row in rows})} seeds with 95 % intervals over seeds, "
        f"n = {_listed({int(row['num_eval_questions']) for row in rows})} held-out questions.",
    )


def learner_sparsity(rows: Sequence[Mapping[str, Any]] | None = None) -> Drawn:
    """Accuracy against edges in a world whose best wiring is known at every price of an edge."""
    rows = rows if rows is not None else _learner_rows("sparsity")
    measured = [row for row in rows if row["recipe"] != "best possible"]
    figure = plot_sparsity(with_accuracy_intervals(rows))
    return Drawn(
        figure,
        "Exact accuracy against the number of agents that are heard in the world *routing* (simulated agents), one "
        "point for each weight δ of the sparsity penalty. Mean over "
        f"{_listed({int(row['num_seeds']) for row in measured})} seeds with 95 % intervals over seeds, "
        f"n = {_listed({int(row['num_eval_questions']) for row in measured})} held-out questions.",
    )


def _learner_rows(part: str) -> list[dict[str, Any]]:
    return [row for row in _rows("results/learner.json", "make learner") if row["part"] == part]


def _rows(path: str, command: str) -> list[dict[str, Any]]:
    rows: Any = read_record(path, command)
    return list(rows)


# --- what the numbers hang on


def released_effects(record: Mapping[str, Any] | None = None) -> Drawn:
    """What each behaviour of the released code changes by itself."""
    record = record or load_record("as_released")
    rows = [row for row in record["rows"] if row["recipe"] == "paper" and row["kind"] == "alone"]
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
        f"{record['seeds']} seeds, n = {_listed({row['dynamic']['effect']['n'] for row in rows})} held-out questions. "
        f"{OVER_SEEDS_AND_SUBJECTS}",
    )


def released_heard(record: Mapping[str, Any] | None = None) -> Drawn:
    """Accuracy by the number of agents that are heard, where some replies cannot be parsed."""
    record, rate = record or load_record("as_released"), 0.05
    lines = heard_lines(record, rate)
    return Drawn(
        plot_intervals(lines, "agents that are heard", f"accuracy with {100 * rate:g} % unparsable replies"),
        f"One reply in twenty cannot be parsed (simulated): it is no vote, a blank vote, or it voids the whole vote, "
        f"as released. {record['seeds']} seeds, n = {_listed({e.n for line in lines.values() for e in line.values()})} "
        f"held-out questions. {OVER_SEEDS_AND_SUBJECTS}",
    )


def embedding_scale(record: Mapping[str, Any] | None = None) -> Drawn:
    """How much probabilities vary over questions with mean embeddings, relative to hidden states."""
    record = record or load_record("embedding_ablation")
    rows = chosen(record["ratios"], task="specialized", recipe="paper", learning_rate=0.0001)
    figure = plot_estimates(
        {"published recipe": {row["embeddings"]: row["ratio"] for row in rows}},
        "variation over questions (last hidden state: 1)",
    )
    figure.axes[0].axvline(1, color="0.6", linestyle="--", linewidth=0.8)
    return Drawn(
        figure,
        "How much edge probabilities vary over questions when the edge LLM is read as a mean embedding, divided by "
        "the variation with its last hidden state; published recipe, specialists. Geometric mean over "
        f"{record['seeds']} seeds with 95 % intervals over seeds, 1,000 held-out questions.",
    )


def pretraining(task: str, record: Mapping[str, Any] | None = None) -> Drawn:
    """What pretraining and another model give: points of accuracy, or headroom in a world."""
    record = record or load_record("model_size")
    rows = [r for r in chosen(record["comparisons"], task=task, recipe="default") if "bits" not in r["comparison"]]
    scale, unit = (100, "points of accuracy") if task == "specialized" else (1, "headroom")
    figure = plot_estimates(
        {
            name: {r["readout"].replace("_", " "): r["difference"] for r in rows if r["comparison"] == name}
            for name in dict.fromkeys(r["comparison"] for r in rows)
        },
        f"{task}: {unit}",
        scale=scale,
    )
    n = {row["difference"]["n"] for row in rows}
    over = f"n = {_listed(n)} held-out questions" if task == "specialized" else f"n = {_listed(n)} paired seeds"
    return Drawn(
        figure,
        f"What pretraining of the edge LLM gives on *{task}*, and what another model gives, by where the model is read "
        f"(default recipe). Differences paired by seed, {record['seeds']} seeds, {over}, 95 % intervals.",
    )


# --- spend


def communication(record: Mapping[str, Any] | None = None) -> Drawn:
    """Accuracy against tokens of agents that read each other."""
    real = record or load_spend("results/communication.json")["real"]
    return Drawn(
        plot_communication(real["warm"]),
        "Voters that have read a sender's answer and reason, beside voters alone, at what they cost. "
        f"Qwen2.5-Coder-1.5B, replies on record, n = {real['questions']['n']} MMLU questions, {real['seeds']} seeds "
        f"(the voters' draws). {OVER_SEEDS_AND_SUBJECTS} They are wide: no wiring is shown to be better.",
    )


def frontier(record: Mapping[str, Any] | None = None) -> Drawn:
    """Accuracy against tokens of votes and learned wirings."""
    record = record or load_spend("results/frontier.json")
    seeds, questions = ({found(part) for part in record.values()} for found in (_seeds, _evaluated))
    return Drawn(
        plot_frontier(record),
        "Accuracy against tokens, in % of the full graph's: votes of k agents, the best single agent, and learned "
        "static and dynamic wirings at three prices of a token. *adversaries* and *languages* on recorded answers, "
        f"*routing* and *mixture* with simulated agents; {_listed(seeds)} seeds, n = {_listed(questions)} held-out "
        "questions. Intervals: 95 %, over seeds and subjects.",
    )


def _seeds(part: Mapping[str, Any]) -> int:
    return int(part["seeds"])


def _evaluated(part: Mapping[str, Any]) -> int:
    return int(part["evaluation"]["n"])


def crosswords_curves(record: WorldRecord | None = None) -> Drawn:
    """Training curves in the simulated crosswords world."""
    record = record or WorldRecord()
    lines = {
        f"{cell.split(',')[0]}, {policy}": record.utility(cell, policy)
        for cell in ("default, self_judged", "published, self_judged")
        for policy in ("dynamic", "static")
    }
    return Drawn(
        plot_utilities(lines),
        "Training on Mini Crosswords with a simulated solver, judged by the agents' own confidence: utility, the share "
        f"of right words, as a running mean over 20 iterations. Mean and band of two standard errors over "
        f"{record.num_seeds} seeds.",
    )


# --- what it costs


def cost() -> Drawn:
    """What a run costs beside its language models, as measured on one machine."""
    record = read_record("results/bench.json", "make bench")
    drawn = {line for *_, lines in PANELS for line in lines}
    counts = [row["num_samples"] for row in record["rows"] if row["line"] in drawn]
    machine, clocks = record["machine"], {part["clock"] for part in record["measured"].values()}
    clock = "wall clock" if clocks == {"wall"} else "time of the processor, with several processes wall clock"
    return Drawn(
        plot_costs(record["rows"]),
        "What a run costs beside its agents' language models, against the number of agents, questions and processes: "
        f"medians of n = {min(counts)} to {max(counts)} repeats ({clock}), bars from quartile to quartile. One "
        f"machine ({machine['processor']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB). Crosses: the "
        "released code on two cores, with agents that answer at once.",
    )


FIGURES: dict[str, Callable[[], Drawn]] = {
    "idea": idea,
    "claims": claims,
    "learner_headroom": learner_headroom,
    "learner_sparsity": learner_sparsity,
    "adversarial_curves": partial(curves, "adversarial"),
    "adversarial_heatmaps_paper": partial(heatmaps, "adversarial", "paper"),
    "adversarial_heatmaps_default": partial(heatmaps, "adversarial", "default"),
    "adversaries": adversaries,
    "specialized_curves": partial(curves, "specialized"),
    "specialized_heatmaps_paper": partial(heatmaps, "specialized", "paper"),
    "specialized_heatmaps_default": partial(heatmaps, "specialized", "default"),
    "temperatures": temperatures,
    "edge_reduction": edge_reduction,
    "edge_reduction_curves": partial(curves, "edge reduction"),
    "edge_reduction_heatmaps": partial(heatmaps, "edge reduction", "default"),
    "crosswords_curves": crosswords_curves,
    "embedding_scale": embedding_scale,
    "pretraining_specialized": partial(pretraining, "specialized"),
    "pretraining_mixture": partial(pretraining, "mixture"),
    "released_effects": released_effects,
    "released_heard": released_heard,
    "communication": communication,
    "frontier": frontier,
    "cost": cost,
}


def show(name: str) -> None:
    """Draw a figure in a notebook, its caption below."""
    drawn = FIGURES[name]()
    display(drawn.figure)
    plt.close(drawn.figure)
    display(Markdown(f"**{name}.** {drawn.caption}"))


@program
def main(
    names: Annotated[list[str] | None, typer.Argument(help="only these; by default all")] = None,
    output: Annotated[str, typer.Option(help="folder of the figures")] = FOLDER,
) -> None:
    """Draw the figures of the experiments as SVG and PNG, from their records."""
    for name in choose(names or (), list(FIGURES), "figure"):
        typer.echo(draw(name, resolve_path(output)))


def draw(name: str, folder: Path) -> str:
    """Draw a figure into a folder; returns where it is, and its caption."""
    matplotlib.use("Agg")
    drawn = FIGURES[name]()
    save_figure(drawn.figure, folder, name)
    plt.close(drawn.figure)
    return f"{folder / name}.svg and .png\n    {drawn.caption}"


if __name__ == "__main__":
    sys.exit(main())
