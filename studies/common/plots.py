"""Figures of the experiments, from their records: lines with intervals, training curves, the learner's worlds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from dynagent.evaluation.statistics import Estimate
from dynagent.viz.plots import GROUP_COLOURS, LEGEND, colours_of, running_mean
from studies.common.tables import Row


def plot_lines(lines: Mapping[str, Sequence[tuple[Any, ...]]], *, bands: bool = False) -> tuple[Figure, Axes]:
    """A line for each name through its points (x, y) or, with intervals, (x, y, low, high), in the name's colour.

    Intervals are bars, beside each other where they would overlap, or bands, where points are dense. Lines of the
    published recipe and what learned policies are compared with are dashed.
    """
    figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    colours = colours_of(lines)
    for number, (marker, (name, points)) in enumerate(zip(itertools.cycle("os^DvX"), lines.items(), strict=False)):
        x, y, *bounds = zip(*sorted(points), strict=True)
        dashed = re.search(r"\b(paper|published)\b", name) or str(colours[name]).startswith("0.")
        style = {"color": colours[name], "linestyle": "--" if dashed else "-", "label": name}
        if bands:
            ax.plot(x, y, **style)
            ax.fill_between(x, *bounds, color=colours[name], alpha=0.2, linewidth=0)
        else:
            shift = ScaledTranslation((number - (len(lines) - 1) / 2) / 24, 0, figure.dpi_scale_trans)
            error = np.abs(np.subtract(bounds, y)) if bounds else None
            style |= {"marker": marker, "markersize": 5, "elinewidth": 1}
            ax.errorbar(x, y, error, transform=ax.transData + shift, **style)
            ax.update_datalim([(a, b) for values in (y, *bounds) for a, b in zip(x, values, strict=True) if b == b])
    ax.autoscale_view()
    sns.despine(figure)
    figure.legend(loc="outside upper center", ncols=2, **LEGEND)
    return figure, ax


def plot_intervals(lines: Mapping[str, Mapping[float, Estimate]], xlabel: str, ylabel: str) -> Figure:
    """Means with their intervals against a number, one line a name."""
    points = {name: [(x, e.mean, e.ci_low, e.ci_high) for x, e in line.items()] for name, line in lines.items()}
    figure, ax = plot_lines(points)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return figure


def plot_estimates(
    series: Mapping[str, Mapping[str, Estimate]], xlabel: str, scale: float = 1.0, names: Sequence[str] = ()
) -> Figure:
    """Means with their intervals as dots beside their names: series -> name -> estimate, one colour a series.

    Args:
        names: in the order in which they are drawn, if not that of their first appearance.
    """
    names = list(names or dict.fromkeys(name for of in series.values() for name in of))
    figure, ax = plt.subplots(figsize=(7, 1.2 + 0.36 * len(names)), layout="constrained")
    offsets = np.linspace(-0.22, 0.22, len(series)) if len(series) > 1 else [0.0]
    colours = colours_of(series)
    for marker, offset, (label, of) in zip(itertools.cycle("os^Dv"), offsets, series.items(), strict=False):
        places = [names.index(name) + offset for name in of]
        means, low, high = scale * np.array([(e.mean, e.ci_low, e.ci_high) for e in of.values()]).T
        ax.errorbar(
            means, places, xerr=[means - low, high - means], fmt=marker, color=colours[label], label=label,
            markersize=4.5, linewidth=1.2,
        )  # fmt: skip
    ax.axvline(0, color="0.6", linewidth=0.8)
    ax.set(xlabel=xlabel, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
    if len(series) > 1:
        figure.legend(loc="outside upper center", ncols=len(series), **LEGEND)
    sns.despine(figure)
    return figure


def plot_utilities(curves: Mapping[str, np.ndarray], window: int = 20) -> Figure:
    """Training curves: the running mean of the utility, as a mean and a band of two standard errors over seeds.

    Args:
        curves: name -> [seeds, iterations].
        window: iterations of the running mean.
    """
    lines = {}
    for name, utility in curves.items():
        running, last = running_mean(utility, window)
        mean, error = running.mean(0), running.std(0, ddof=min(1, len(running) - 1)) / np.sqrt(len(running))
        seeds = "1 seed" if len(running) == 1 else f"{len(running)} seeds"
        lines[f"{name} ({seeds})"] = [*zip(last + 1, mean, mean - 2 * error, mean + 2 * error, strict=True)]
    figure, ax = plot_lines(lines, bands=True)
    ax.set(xlabel="iteration", ylabel=f"utility (mean of {window} iterations)")
    return figure


def plot_headroom(rows: Sequence[Row]) -> Figure:
    """Headroom against the agents' calls that were paid, one line a recipe, with intervals over seeds.

    Args:
        rows: with recipe, agent_calls and headroom, an estimate.
    """
    lines = _points(rows, "agent_calls", "headroom")
    figure, ax = plot_lines(lines)
    for height, what in ((0, "best static graph"), (1, "best graph for each domain")):
        ax.axhline(height, color="0.4", linestyle=":", linewidth=1)
        ax.annotate(what, (1, height), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                    ha="right", color="0.3", fontsize=8)  # fmt: skip
    ax.set(xlabel="calls of the agents", ylabel="headroom", xscale="log", ylim=(-4.2, 1.5))
    calls = [point[0] for point in list(lines.values())[-1]]
    ax.set_xticks(calls, [f"{count:,.0f}" for count in calls])
    ax.minorticks_off()
    return figure


def plot_sparsity(rows: Sequence[Row]) -> Figure:
    """Accuracy against edges into the decision, one line a recipe; the numbers at its points are the penalty's weights.

    Args:
        rows: with recipe, sparsity, num_votes, and accuracy, which is an estimate, or a number without an interval.
    """
    figure, ax = plot_lines(_points(rows, "num_votes", "accuracy"))
    ax.set(xlabel="edges into the decision", ylabel="accuracy")
    figure.draw_without_rendering()  # so that places are final
    taken: list[np.ndarray] = []
    for row in reversed(rows):
        point = row["num_votes"], _interval(row["accuracy"])[0]
        place = ax.transData.transform(point) / figure.dpi  # inches
        if all((np.abs(place - other) > (0.35, 0.15)).any() for other in taken):
            taken.append(place)
            ax.annotate(
                f"{row['sparsity']:g}", point, (6, -10), textcoords="offset points", fontsize=7, color="0.25"
            )  # fmt: skip
    return figure


def with_accuracy_intervals(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of results/learner.json whose accuracy has the interval of the headroom, on its own scale.

    The two optima of a world are the same for all seeds, so that one is a linear function of the other.
    """
    return [row | {"accuracy": _accuracy(row)} if "headroom" in row else row for row in map(dict, rows)]


def _accuracy(row: Row) -> Estimate:
    headroom, scale = row["headroom"], row["best_per_domain"] - row["best_static"]
    low, high = (row["best_static"] + scale * bound for bound in (headroom.ci_low, headroom.ci_high))
    return Estimate(row["accuracy"], low, high, headroom.n)


def _points(rows: Sequence[Row], x: str, y: str) -> dict[str, list[tuple[Any, ...]]]:
    """For every recipe, (x, y, low, high) of its rows."""
    recipes = dict.fromkeys(row["recipe"] for row in rows)
    return {name: [(row[x], *_interval(row[y])) for row in rows if row["recipe"] == name] for name in recipes}


def _interval(value: Estimate | float) -> tuple[float, float, float]:
    """Mean and interval; not a number where a value has none."""
    return (value.mean, value.ci_low, value.ci_high) if isinstance(value, Estimate) else (value, np.nan, np.nan)


def with_errors(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies in % [n], and how far their intervals reach below and above: [2, n]."""
    estimates = [row["accuracy"] for row in rows]
    means, low, high = 100 * np.array([(e.mean, e.ci_low, e.ci_high) for e in estimates]).T
    return means, np.array([means - low, high - means])


def plot_votes(panel: Axes, wirings: Mapping[str, Any], spend: Callable[[Any], float], label: str) -> None:
    """Accuracy in % of votes of k against what they cost, as a line with a band."""
    rows = [row for name, row in wirings.items() if name.startswith("vote")]
    means, (below, above) = with_errors(rows)
    places = [spend(row) for row in rows]
    colour = GROUP_COLOURS["vote"]
    panel.plot(places, means, color=colour, marker=".", linestyle=":", label=label)
    panel.fill_between(places, means - below, means + above, color=colour, alpha=0.2, linewidth=0)
