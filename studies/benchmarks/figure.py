"""What a run costs beside its language models, as a figure: from results/bench.json alone.

`make bench` draws it after measuring; `python -m studies.benchmarks.figure` draws it again from the record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynagent.runs.paths import project_root
from dynagent.runs.record import Record
from dynagent.viz.plots import COLOURS, save_figure
from studies.common.record import load_record

# Title, label below, label beside and lines of each panel. What a line is called in the record, and in the figure.
PANELS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("one graph, all edges decided", "agents", "ms", {"drawing a graph": "dynagent"}),
    ("one iteration, batch of 4", "agents", "ms", {
        "all edges, one graph": "all edges decided",
        "edges that matter, one graph": "edges that matter",
        "edges that matter, default recipe": "default recipe",
    }),
    ("all questions once, 16 agents, cached", "questions", "seconds", {
        "training, one pass": "training", "evaluation": "evaluation, 16 graphs each",
    }),
    ("one step, 16 agents, batch of 4", "processes", "ms", {
        "LoRA on SmolLM2-135M": "LoRA, SmolLM2-135M", "the head, features cached": "head, features cached",
    }),
)  # fmt: skip
MARKERS, DASHES = "os^D", ("-", "--", "-.", ":")


def plot_costs(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Cost against agents, questions and processes: medians with quartiles, and the released code where it is known.

    Args:
        rows: of results/bench.json.
    """
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
    for ax, (title, against, unit, lines) in zip(axes.flat, PANELS, strict=True):
        released: dict[int, float] = {}
        for colour, marker, dash, (line, label) in zip(COLOURS, MARKERS, DASHES, lines.items(), strict=False):
            points = [one for one in rows if (one["line"], one["against"]) == (line, against)]
            _plot_line(ax, points, label, color=colour, marker=marker, linestyle=dash)
            released |= {one["at"]: one["reference"] for one in points if one["reference"] is not None}
        if released:
            style = {"color": "black", "marker": "X", "linestyle": ":", "markersize": 7, "linewidth": 1}
            ax.plot(*zip(*sorted(released.items()), strict=True), label="released code", **style)
        at = sorted({one["at"] for one in rows if one["line"] in lines})
        ax.set(title=title, xlabel=against, ylabel=unit, xscale="log", yscale="log")
        ax.set_xticks(at, [f"{number:,}" for number in at])
        ax.xaxis.minorticks_off()
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        low, high = ax.get_ylim()
        ax.set_ylim(low, high * (high / low) ** 0.3)  # room for the legend
        ax.margins(x=0.12)
        ax.grid(axis="y", color="0.9", linewidth=0.6)
        ax.legend(frameon=False, fontsize=8, loc="upper left")
    sns.despine(figure)
    return figure


def _plot_line(ax: Axes, points: Sequence[Mapping[str, Any]], label: str, **style: Any) -> None:
    """Medians, with a bar from quartile to quartile."""
    at = [one["at"] for one in points]
    values = [one["value"] for one in points]
    down = [one["value"] - one["low"] for one in points]
    up = [one["high"] - one["value"] for one in points]
    ax.errorbar(at, values, (down, up), label=label, markersize=5, capsize=2, elinewidth=1, **style)


def save_cost_figure(record: Record, folder: Path) -> None:
    """Write cost.png and cost.svg from a record of `make bench`."""
    figure = plot_costs(record.numbers["rows"])
    save_figure(figure, folder, "cost")
    plt.close(figure)


if __name__ == "__main__":
    save_cost_figure(load_record("benchmarks/costs"), project_root() / "results" / "figures")
