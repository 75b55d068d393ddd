"""Figures from what a run leaves: training curve, heatmaps of edge probabilities, drawn graphs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from dynagent.graph import AgentGraph
from dynagent.intervals import Estimate
from dynagent.train import History

COLOURS = sns.color_palette("colorblind")
# Probabilities, on a map that diverges around one half and is readable in grey at both ends.
HEATMAP: dict[str, Any] = {"vmin": 0, "vmax": 1, "cmap": "vlag"}


def group_colours(graph: AgentGraph) -> dict[str, Any]:
    """One colour a group, in order of first appearance."""
    return dict(zip(graph.groups, COLOURS, strict=False))


def plot_training(history: History, window: int = 20) -> Figure:
    """Utility of every iteration with its running mean, and the expected edges into the decision."""
    utility = np.array(history.column("utility"))
    running, last = running_mean(utility, window)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    left.plot(utility, color="0.8", linewidth=0.8, label="one batch")
    left.plot(last, running, color=COLOURS[0], label=f"mean of {min(window, len(utility))}")
    left.set(xlabel="iteration", ylabel="utility (share right)")
    left.legend(frameon=False)
    right.plot(history.column("num_edges"), color=COLOURS[1])
    right.set(xlabel="iteration", ylabel="expected edges into the decision", ylim=(0, None))
    sns.despine(figure)
    return figure


def plot_edge_probs(edge_probs: Tensor, graph: AgentGraph, title: str = "") -> Figure:
    """Heatmap of mean edge probabilities in the manner of the paper's figure 2.

    Rows speak, columns listen; node 0 is the decision. Frames in the groups' colours mark their edges into the
    decision. Pairs without a potential edge, and edges without effect, which are never decided, stay blank.

    Args:
        edge_probs: [E], or [n, E], then averaged over the questions.
    """
    mean = edge_probs.reshape(-1, graph.num_edges).mean(0)
    matrix = np.where(graph.adjacency(graph.effective).numpy(), graph.adjacency(mean).numpy(), np.nan)
    return plot_heatmaps({title: np.roll(matrix, 1, (0, 1))}, Counter(node.group for node in graph.nodes[:-1]))


def plot_by_area(edge_probs: Tensor, shuffled: Tensor, graph: AgentGraph, questions: Sequence[Any]) -> Figure:
    """Mean probability of every agent's edge into the decision for each area of knowledge, beside the control.

    Args:
        edge_probs: [n, E] of the questions.
        shuffled: [n, E], the same rows in another order: each question with another one's probabilities.
    """
    areas = sorted({question.area for question in questions})
    into = graph.decision_edges
    names = [f"{source + 1} {graph.nodes[source].group}" for source in graph.potential_edges[into, 0].tolist()]
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.7 + 0.6 * len(areas) + 1.2), layout="constrained", sharey=True)
    for ax, probs, title in zip(axes, (edge_probs, shuffled), ("questions", "control: shuffled"), strict=True):
        rows = [probs[[question.area == area for question in questions]][:, into].mean(0).tolist() for area in areas]
        sns.heatmap(
            rows, **HEATMAP, annot=True, fmt=".2f", ax=ax, xticklabels=names, yticklabels=areas, cbar=ax is axes[-1],
            annot_kws={"fontsize": 8},
        )  # fmt: skip
        ax.set(title=title, xlabel="agent that speaks to the decision")
        ax.tick_params(axis="x", rotation=45)
        ax.tick_params(axis="y", rotation=0)
    return figure


def plot_graphs(edge_probs: Tensor, graph: AgentGraph, titles: Sequence[str]) -> Figure:
    """The graphs of some questions side by side: agents by group, width of an edge by its probability.

    Edges below one half are dashed: they are not in the most probable graph. Edges into the decision have the colour
    of who speaks; those between agents are grey.

    Args:
        edge_probs: [n, E], one row a panel.
    """
    figure, axes = plt.subplots(1, len(titles), figsize=(5 * len(titles), 4), layout="constrained", squeeze=False)
    colours = group_colours(graph) | {"decision": "0.3"}
    circle = nx.circular_layout(range(graph.decision_node))
    positions = circle | {graph.decision_node: np.zeros(2)}
    for ax, probs, title in zip(axes.flat, edge_probs, titles, strict=True):
        drawn = graph.to_networkx(probs * graph.effective)
        shades = [colours[node.group] for node in graph.nodes]
        labels = {node: (node + 1) % graph.num_nodes for node in drawn}  # the decision, the last node, is 0
        nx.draw_networkx_nodes(drawn, positions, ax=ax, node_size=500, node_color=shades)
        nx.draw_networkx_labels(drawn, positions, labels, ax=ax, font_color="white", font_size=9)
        for sure, style in ((True, "-"), (False, (0, (1, 2)))):
            edges = [(i, j, w) for i, j, w in drawn.edges(data="weight") if (w >= 0.5) is sure]
            nx.draw_networkx_edges(
                drawn, positions, ax=ax, edgelist=[(i, j) for i, j, _ in edges], style=style, node_size=500,
                width=[0.3 + 4 * w for *_, w in edges],
                edge_color=[shades[i] if j == graph.decision_node else "0.6" for i, j, _ in edges],
            )  # fmt: skip
        ax.set_title(title, fontsize=10)
        ax.set_axis_off()
        ax.margins(0.15)
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=colours[g], label=g) for g in graph.groups]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """As SVG and PNG; the SVG carries no date and no random names, so that equal figures are equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    figure.savefig(folder / f"{name}.png", dpi=150)


def _plot_lines(
    lines: Mapping[str, Sequence[tuple[Any, ...]]], markers: Sequence[str] = "os^DvX", dashes: Sequence[str] = "-"
) -> tuple[Figure, Axes]:
    """A line for each name through its points (x, y) or, with a band around it, (x, y, low, high)."""
    figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    styles = zip(COLOURS, itertools.cycle(markers), itertools.cycle(dashes), lines.items(), strict=False)
    for colour, marker, dash, (name, points) in styles:
        x, y, *band = zip(*sorted(points), strict=True)
        ax.plot(x, y, marker=marker, markersize=5, linestyle=dash, color=colour, label=name)
        if band:
            ax.fill_between(x, *band, color=colour, alpha=0.15, linewidth=0)
    ax.legend(frameon=False, fontsize=8)
    sns.despine(figure)
    return figure, ax


def _points(rows: Sequence[Mapping[str, Any]], *names: str) -> dict[str, list[tuple[Any, ...]]]:
    """The columns of these names, for every recipe."""
    recipes = dict.fromkeys(row["recipe"] for row in rows)
    return {one: [tuple(row[name] for name in names) for row in rows if row["recipe"] == one] for one in recipes}


def plot_headroom(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Headroom against the agents' calls that were paid, one line a recipe, with intervals over seeds.

    Args:
        rows: of the part "curve" of results/learner.json.
    """
    lines = _points(rows, "agent_calls", "headroom", "ci_low", "ci_high")
    figure, ax = _plot_lines(lines)
    for height, what in ((0, "best static graph"), (1, "best graph for each domain")):
        ax.axhline(height, color="0.4", linestyle=":", linewidth=1)
        ax.annotate(what, (1, height), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="0.3")
    ax.set(xlabel="calls of the agents", ylabel="headroom", xscale="log", ylim=(-3.2, 1.3))
    calls = [point[0] for point in list(lines.values())[-1]]
    ax.set_xticks(calls, [f"{count:,.0f}" for count in calls])
    ax.minorticks_off()
    ax.legend(frameon=False, loc="lower center")
    return figure


def plot_sparsity(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy against edges into the decision, one line a recipe, one point for each weight of the penalty.

    Args:
        rows: of the part "sparsity" of results/learner.json.
    """
    figure, ax = _plot_lines(_points(rows, "num_votes", "accuracy"))
    for colour, points in zip(COLOURS, _points(rows, "num_votes", "accuracy", "sparsity").values(), strict=False):
        for edges, accuracy, weight in points:
            ax.annotate(f"{weight:g}", (edges, accuracy), (4, -9), textcoords="offset points", fontsize=7, color=colour)
    ax.set(xlabel="edges into the decision", ylabel="accuracy (exact)")
    ax.legend(frameon=False, loc="lower right")
    return figure


def running_mean(utility: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of so many iterations, or of all if there are fewer, along the last axis; and the last one's index."""
    window = min(window, utility.shape[-1])
    return sliding_window_view(utility, window, -1).mean(-1), np.arange(window - 1, utility.shape[-1])


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
        lines[f"{name} ({len(running)} seeds)"] = [
            *zip(last + 1, mean, mean - 2 * error, mean + 2 * error, strict=True)
        ]
    figure, ax = _plot_lines(lines, markers=[""])
    ax.set(xlabel="iteration", ylabel=f"utility (mean of {window} iterations)")
    return figure


def plot_heatmaps(matrices: Mapping[str, Any], groups: Mapping[str, int]) -> Figure:
    """Heatmaps of edge probabilities side by side: rows speak, columns listen, node 0 is the decision.

    Frames in the groups' colours mark their edges into the decision.

    Args:
        matrices: title -> [M, M], row and column 0 are the decision; None or not a number where no edge is decided.
        groups: name -> number of agents, in the order of the nodes.
    """
    size = (4.6 * len(matrices) + 0.6, 4.4)
    figure, axes = plt.subplots(1, len(matrices), figsize=size, layout="constrained", squeeze=False)
    for ax, (title, matrix) in zip(axes.flat, matrices.items(), strict=True):
        sns.heatmap(
            np.array(matrix, dtype=float), **HEATMAP, square=True, ax=ax, linewidths=0.5, linecolor="0.9",
            cbar=ax is axes.flat[-1], cbar_kws={"label": "probability of the edge", "shrink": 0.8},
        )  # fmt: skip
        top = 1
        for colour, height in zip(COLOURS, groups.values(), strict=False):
            ax.add_patch(Rectangle((0, top), 1, height, fill=False, edgecolor=colour, linewidth=3, clip_on=False))
            top += height
        ax.set(xlabel="listens (0 is the decision)", ylabel="speaks", title=title)
    frames = axes.flat[-1].patches
    figure.legend(frames, list(groups), loc="outside lower center", ncols=len(groups), frameon=False)
    return figure


def plot_intervals(lines: Mapping[str, Mapping[float, Estimate]], xlabel: str, ylabel: str) -> Figure:
    """Means with their intervals against a number, one line a name."""
    points = {name: [(x, e.mean, e.ci_low, e.ci_high) for x, e in line.items()] for name, line in lines.items()}
    figure, ax = _plot_lines(points, dashes=("-", "--", "-.", ":"))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return figure
