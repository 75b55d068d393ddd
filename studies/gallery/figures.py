"""All figures of the experiments, from their records alone: `make figures` draws them into results/figures.

Each is a function that reads its record, or takes it, and returns a figure with its caption: what it shows, how many
questions and seeds are behind it, and what its intervals hold for. Notebooks and the gallery call the same functions.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from IPython.display import Markdown, display

from dynagent.evaluation.statistics import Estimate
from dynagent.parameters import nearest
from dynagent.runs.paths import resolve_path
from dynagent.runs.record import Record
from dynagent.viz.plots import LEGEND, save_figure
from studies.benchmarks.figure import PANELS, plot_costs
from studies.common.plots import (
    plot_estimates,
    plot_headroom,
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
from studies.gallery.ablations import embedding_scale, pretraining, released_effects, released_heard
from studies.gallery.drawn import OVER_SEEDS_AND_SUBJECTS, WINDOW, Drawn
from studies.gallery.table2 import adversaries, curves, edge_reduction, heatmaps, temperatures
from studies.idea.figure import plot_idea

FOLDER = "results/figures"
MODELS = {"qwen2.5-coder-1.5b-instruct": "Qwen2.5-Coder-1.5B", "smollm2-135m-instruct": "SmolLM2-135M"}


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
