"""All figures of the experiments, from their records alone: `make figures` draws them into results/figures.

Each is a function that reads its record, or takes it, and returns a figure with its caption: what it shows, how many
questions and seeds are behind it, and what its intervals hold for. Notebooks and the gallery call the same functions.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
from IPython.display import Markdown, display
from matplotlib.figure import Figure

from dynagent.evaluation.statistics import Estimate
from dynagent.parameters import nearest
from dynagent.runs.paths import resolve_path
from dynagent.runs.record import Record
from dynagent.viz.plots import LEGEND, plot_heatmaps, save_figure
from studies.benchmarks.figure import PANELS, plot_costs
from studies.common.plots import (
    plot_estimates,
    plot_headroom,
    plot_intervals,
    plot_sparsity,
    plot_utilities,
    with_accuracy_intervals,
)
from studies.common.program import program
from studies.common.record import load_record
from studies.common.tables import chosen, gained, in_words, listed
from studies.communication.tables import plot_communication
from studies.crosswords.tables import WorldRecord
from studies.frontier.tables import plot_frontier
from studies.idea.figure import plot_idea
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
LEARNED, TRUTHFUL = "dynamic, most probable", "truthful agents only (told)"
WIRINGS = (LEARNED, "static, most probable", "full graph", TRUTHFUL)
# The cells of the paper's three experiments on votes.
CELLS: dict[str, Callable[[str], str]] = {
    "adversarial": lambda recipe: f"adversarial-constant-{recipe}",
    "specialized": lambda recipe: f"specialized-{recipe}",
    "edge reduction": lambda recipe: sparsity_cell(recipe, PAPER_SPARSITY),
}
QUESTIONS = {"adversarial": "MMLU", "specialized": "MMLU and CMMLU", "edge reduction": "MMLU and CMMLU"}
OVER_SEEDS_AND_SUBJECTS = "Intervals: 95 %, over seeds and subjects."
WINDOW = 20  # iterations of a running mean
LOWEST_ACCURACY = 0.15  # that the figure of edges shows
MODELS = {"qwen2.5-coder-1.5b-instruct": "Qwen2.5-Coder-1.5B", "smollm2-135m-instruct": "SmolLM2-135M"}


class Drawn(NamedTuple):
    """A figure and what is to be said under it."""

    figure: Figure
    caption: str


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


# --- the idea and the paper's claims


def idea() -> Drawn:
    """Figure 1 of the paper, with real questions."""
    record = load_record("idea")
    numbers, groups = record.numbers, record.numbers["groups"]
    gain = numbers["differences"]["learned, most probable - static, most probable"]
    (edge_llm,) = [used.name for used in record.inputs if str(used.location).endswith(".safetensors")]
    each = in_words(len(groups) // len(set(groups)))
    return Drawn(
        plot_idea(numbers),
        f"From a question to the team's answer. The edge LLM, {MODELS[edge_llm]}, reads the question; a linear head "
        "turns its reading into the probability that the decision (0) hears an agent; the agents of the most probable "
        "graph vote (solid edges; dotted ones are less probable than not). Agents 1 to "
        f"{len(groups)}, {each} for each area, are one language model, {MODELS[record.parameters['agent_llm']]}, that "
        "is asked for the right option in its area and for a wrong one outside. "
        f"Selection: {numbers['selection']}; an illustration, and no evidence. The evidence: over {record.num_seeds} "
        f"seeds and n = {record.questions['evaluation'].n:,} held-out questions the graphs that depend on the "
        f"question gain {gained(gain).replace(' [', ' points [')} over a learned static graph. "
        f"{OVER_SEEDS_AND_SUBJECTS}",
    )


def claims() -> Drawn:
    """What the paper prints as differences of accuracy, beside ours."""
    rows = [
        row
        for row in load_record("ledger").numbers["rows"]
        if row["claim"].startswith(("Gain", "Change")) and row["ours"] is not None
    ]
    names = {row["claim"]: _wrapped(row["claim"]) for row in rows}

    figure = plot_estimates(
        {
            "published recipe, ours": {names[row["claim"]]: row["ours"] for row in rows},
            "default recipe, ours": {names[row["claim"]]: row["default"]["ours"] for row in rows},
        },
        "difference of accuracy, points",
    )
    figure.set_size_inches(8, 1.2 + 0.62 * len(rows))
    ax = figure.axes[0]
    ax.plot([row["paper"] for row in rows], range(len(rows)), "X", color="0.2", markersize=7, label="paper, one run")
    figure.legends.clear()
    figure.legend(loc="outside upper center", ncols=3, **LEGEND)
    seeds, questions = ({row[name] for row in rows} for name in ("seeds", "questions"))
    return Drawn(
        figure,
        "Every difference of accuracy that the paper prints or that follows from its Table 2, and ours on smaller "
        f"language models ({listed(seeds)} seeds, n = {listed(questions)} held-out questions). "
        f"{OVER_SEEDS_AND_SUBJECTS} The paper's numbers are of one run and have none.",
    )


def _wrapped(claim: str) -> str:
    """A claim in lines of a figure's label."""
    short = claim.split(":")[0].replace(" (follows from the table)", "").replace("with 5 %", "5 %")
    return "\n".join(textwrap.wrap(short, 44))


# --- Table 2's teams


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
    cells = {number: adversaries_cell(number) for number in range(MOST_ADVERSARIES + 1)}
    records, lines = {number: CellRecord.load(name) for number, name in cells.items()}, accuracy_lines(cells, WIRINGS)
    (truthful,) = {record.record.parameters["num_truthful"] for record in records.values()}
    apart = max(abs(lines[LEARNED][number].mean - lines[TRUTHFUL][number].mean) for number in cells)
    return Drawn(
        plot_intervals(lines, f"adversaries beside {in_words(truthful)} truthful agents", "accuracy"),
        f'From {in_words(min(records))} to {in_words(max(records))} agents that always say "A" beside '
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


# --- known-answer worlds


def learner_headroom() -> Drawn:
    """Headroom against calls of the agents."""
    rows = chosen(load_record("worlds").numbers["rows"], part="curve")
    return Drawn(
        plot_headroom(rows),
        "What is learned from how many answers of simulated agents (world *routing*, held-out questions, most "
        "probable graphs). Headroom is 0 for the best static graph and 1 for the best graph of each language. Mean "
        f"over {listed({row['num_seeds'] for row in rows})} seeds with 95 % intervals over seeds, "
        f"n = {listed({int(row['num_eval_questions']) for row in rows})} held-out questions.",
    )


def learner_sparsity() -> Drawn:
    """Accuracy against edges in a world whose best wiring is known at every price of an edge."""
    rows = chosen(load_record("worlds").numbers["rows"], part="sparsity")
    measured = [row for row in rows if row["recipe"] != "best possible"]
    figure = plot_sparsity(with_accuracy_intervals(rows))
    return Drawn(
        figure,
        "Exact accuracy against the number of agents that are heard in the world *routing* (simulated agents), one "
        "point for each weight δ of the sparsity penalty. Mean over "
        f"{listed({int(row['num_seeds']) for row in measured})} seeds with 95 % intervals over seeds, "
        f"n = {listed({int(row['num_eval_questions']) for row in measured})} held-out questions.",
    )


# --- what the numbers hang on


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
    return Drawn(
        plot_intervals(lines, "agents that are heard", f"accuracy with {100 * rate:g} % unparsable replies"),
        f"One reply in {in_words(round(1 / rate))} cannot be parsed (simulated): it is no vote, a blank vote, or it voids the whole vote, "
        f"as released. {record.num_seeds} seeds, n = {listed({e.n for line in lines.values() for e in line.values()})} "
        f"held-out questions. {OVER_SEEDS_AND_SUBJECTS}",
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


# --- spend


def communication(record: Record | None = None) -> Drawn:
    """Accuracy against tokens of agents that read each other."""
    record = record or load_record("communication")
    real, origin = record.numbers["real"], record.parts["real"]
    gains = [row["gain"] for row in real["warm"]["wirings"].values() if "gain" in row]
    return Drawn(
        plot_communication(real["warm"]),
        "Voters that have read a sender's answer and reason, beside voters alone, at what they cost. "
        f"{MODELS[origin.inputs[0].name]}, replies on record, n = {origin.questions['evaluation'].n} MMLU questions, "
        f"{len(origin.seeds or ())} seeds (the voters' draws). {OVER_SEEDS_AND_SUBJECTS} {shown_better(gains)}",
    )


def shown_better(gains: Sequence[Estimate]) -> str:
    """How many gains over voting alone have an interval above zero, as a sentence."""
    better = sum(gain.ci_low > 0 for gain in gains)
    verb = "is" if better < 2 else "are"
    return (
        f"Of the {in_words(len(gains))} wirings with the sender, {in_words(better)} {verb} shown to be better than "
        "voters alone for the same tokens."
    )


def frontier(record: Record | None = None) -> Drawn:
    """Accuracy against tokens of votes and learned wirings."""
    record = record or load_record("frontier")
    seeds = {len(part.seeds or ()) for part in record.parts.values()}
    questions = {part.questions["evaluation"].n for part in record.parts.values()}
    (prices,) = {len(part.parameters["cost weights"]) for part in record.parts.values()}
    return Drawn(
        plot_frontier(record.numbers),
        "Accuracy against tokens, in % of the full graph's: votes of k agents, the best single agent, and learned "
        f"static and dynamic wirings at {in_words(prices)} prices of a token. *adversaries* and *languages* on "
        f"recorded answers, *routing* and *mixture* with simulated agents; {listed(seeds)} seeds, "
        f"n = {listed(questions)} held-out questions. Intervals: 95 %, over seeds and subjects.",
    )


def crosswords_curves(record: WorldRecord | None = None) -> Drawn:
    """Training curves in the simulated crosswords world."""
    record = record or WorldRecord()
    lines = {
        f"{cell.split(',')[0]}, {policy}": record.utility(cell, policy)
        for cell in ("default, self_judged", "published, self_judged")
        for policy in ("dynamic", "static")
    }
    return Drawn(
        plot_utilities(lines, WINDOW),
        "Training on Mini Crosswords with a simulated solver, judged by the agents' own confidence: utility, the share "
        f"of right words, as a running mean over {WINDOW} iterations. Mean and band of two standard errors over "
        f"{record.num_seeds} seeds.",
    )


# --- what it costs


def cost() -> Drawn:
    """What a run costs beside its language models, as measured on one machine."""
    record = load_record("benchmarks/costs")
    rows = record.numbers["rows"]
    drawn = {line for *_, lines in PANELS for line in lines}
    counts = [row["num_samples"] for row in rows if row["line"] in drawn]
    machine = record.environment.hardware if record.environment else {}
    clocks = {part.parameters["clock"] for part in record.parts.values()}
    clock = "wall clock" if clocks == {"wall"} else "time of the processor, with several processes wall clock"
    return Drawn(
        plot_costs(rows),
        "What a run costs beside its agents' language models, against the number of agents, questions and processes: "
        f"medians of n = {min(counts)} to {max(counts)} repeats ({clock}), bars from quartile to quartile. One "
        f"machine ({machine['processor']}, {machine['num_cpus']} cores, {machine['memory_gb']:.0f} GB). Crosses: the "
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
def main(arguments: list[str] | None = None) -> int:
    """Draw the figures of the experiments as SVG and PNG, from their records."""
    parser = argparse.ArgumentParser(prog="python -m studies.gallery.figures", description=main.__doc__)
    parser.add_argument("names", nargs="*", help="only these; by default all")
    parser.add_argument("--output", default=FOLDER, help="default: %(default)s")
    options = parser.parse_args(arguments)
    matplotlib.use("Agg")
    folder: Path = resolve_path(options.output)
    for name in options.names or FIGURES:
        if name not in FIGURES:
            raise ValueError(f"There is no figure {name!r}; {nearest(name, FIGURES)}")
        drawn = FIGURES[name]()
        save_figure(drawn.figure, folder, name)
        plt.close(drawn.figure)
        print(f"{folder / name}.svg and .png\n    {drawn.caption}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
