"""Figures from what a run leaves: training curve, heatmaps of edge probabilities, drawn graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from dynagent.graph import AgentGraph
from dynagent.intervals import Estimate
from dynagent.train import History

COLOURS = sns.color_palette("colorblind")
PROBABILITY_MAP = "vlag"  # diverging around one half, readable in grey at both ends


def group_colours(graph: AgentGraph) -> dict[str, Any]:
    """One colour a group, in order of first appearance."""
    return dict(zip(graph.groups, COLOURS, strict=False))


def plot_training(history: History, window: int = 20) -> Figure:
    """Utility of every iteration with its running mean, and the expected edges into the decision."""
    utility, edges = np.array(history.column("utility")), history.column("num_edges")
    window = min(window, len(utility))
    running = np.convolve(utility, np.ones(window) / window, mode="valid")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    left.plot(utility, color="0.8", linewidth=0.8, label="one batch")
    left.plot(np.arange(window - 1, len(utility)), running, color=COLOURS[0], label=f"mean of {window}")
    left.set(xlabel="iteration", ylabel="utility (share right)")
    left.legend(frameon=False)
    right.plot(edges, color=COLOURS[1])
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
    order = [graph.decision_node, *range(graph.decision_node)]
    figure, ax = plt.subplots(figsize=(5, 4.2), layout="constrained")
    labels = [0, *(node + 1 for node in range(graph.decision_node))]
    sns.heatmap(
        matrix[np.ix_(order, order)], vmin=0, vmax=1, cmap=PROBABILITY_MAP, square=True, ax=ax, linewidths=0.5,
        linecolor="0.9", xticklabels=labels, yticklabels=labels, cbar_kws={"label": "probability of the edge"},
    )  # fmt: skip
    colours, top = group_colours(graph), 1
    for group in graph.groups:
        height = sum(node.group == group for node in graph.nodes[:-1])
        ax.add_patch(Rectangle((0, top), 1, height, fill=False, edgecolor=colours[group], linewidth=3, clip_on=False))
        ax.annotate(group, (1.15, top + height / 2), va="center", color=colours[group], annotation_clip=False)
        top += height
    ax.set(xlabel="listens (0 is the decision)", ylabel="speaks", title=title)
    return figure


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
            rows, vmin=0, vmax=1, cmap=PROBABILITY_MAP, annot=True, fmt=".2f", ax=ax, xticklabels=names,
            yticklabels=areas, cbar=ax is axes[-1], annot_kws={"fontsize": 8},
        )  # fmt: skip
        ax.set(title=title, xlabel="agent that speaks to the decision")
        ax.tick_params(axis="x", rotation=45)
        ax.tick_params(axis="y", rotation=0)
    return figure


def plot_graphs(edge_probs: Tensor, graph: AgentGraph, titles: Sequence[str]) -> Figure:
    """The graphs of some questions side by side: agents by group, width of an edge by its probability.

    Edges below one half are dashed: they are not in the most probable graph.

    Args:
        edge_probs: [n, E], one row a panel.
    """
    figure, axes = plt.subplots(1, len(titles), figsize=(5 * len(titles), 4), layout="constrained", squeeze=False)
    colours = group_colours(graph) | {"decision": "0.3"}
    circle = nx.circular_layout(range(graph.decision_node))
    positions = circle | {graph.decision_node: np.zeros(2)}
    for ax, probs, title in zip(axes.flat, edge_probs, titles, strict=True):
        drawn = graph.to_networkx(probs * graph.effective)
        nx.draw_networkx_nodes(
            drawn, positions, ax=ax, node_size=500, node_color=[colours[node.group] for node in graph.nodes]
        )
        nx.draw_networkx_labels(
            drawn, positions, ax=ax, font_color="white", font_size=9,
            labels={node: 0 if node == graph.decision_node else node + 1 for node in drawn},
        )  # fmt: skip
        for sure, style in ((True, "-"), (False, (0, (1, 2)))):
            edges = [(i, j, w) for i, j, w in drawn.edges(data="weight") if (w >= 0.5) is sure]
            nx.draw_networkx_edges(
                drawn, positions, ax=ax, edgelist=[(i, j) for i, j, _ in edges], style=style, node_size=500,
                width=[0.3 + 4 * w for *_, w in edges], edge_color=[colours[graph.nodes[i].group] for i, *_ in edges],
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


def plot_headroom(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Headroom against the agents' calls that were paid, one line a recipe, with intervals over seeds.

    Args:
        rows: of the part "curve" of results/learner.json.
    """
    figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for colour, marker, recipe in zip(COLOURS, "os^Dv", dict.fromkeys(row["recipe"] for row in rows), strict=False):
        line = sorted((row for row in rows if row["recipe"] == recipe), key=lambda row: row["agent_calls"])
        calls, low, high, mean = (
            [row[name] for row in line] for name in ("agent_calls", "ci_low", "ci_high", "headroom")
        )
        ax.plot(calls, mean, marker=marker, color=colour, label=recipe)
        ax.fill_between(calls, low, high, color=colour, alpha=0.2, linewidth=0)
    for height, what in ((0, "best static graph"), (1, "best graph for each domain")):
        ax.axhline(height, color="0.4", linestyle=":", linewidth=1)
        ax.annotate(what, (1, height), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="0.3")
    ax.set(xlabel="calls of the agents", ylabel="headroom", xscale="log", ylim=(-3.2, 1.3))
    ax.set_xticks(calls, [f"{count:,.0f}" for count in calls])  # those of the last recipe
    ax.minorticks_off()
    ax.legend(frameon=False, loc="lower center")
    sns.despine(figure)
    return figure


def plot_sparsity(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy against edges into the decision, one line a recipe, one point for each weight of the penalty.

    Args:
        rows: of the part "sparsity" of results/learner.json.
    """
    figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for colour, marker, recipe in zip(COLOURS, "os^Dv", dict.fromkeys(row["recipe"] for row in rows), strict=False):
        line = sorted((row["num_votes"], row["accuracy"], row["sparsity"]) for row in rows if row["recipe"] == recipe)
        edges, accuracy, weights = zip(*line, strict=True)
        ax.plot(edges, accuracy, marker=marker, color=colour, label=recipe)
        for point in zip(edges, accuracy, weights, strict=True):
            ax.annotate(
                f"{point[2]:g}", point[:2], textcoords="offset points", xytext=(4, -9), fontsize=7, color=colour
            )
    ax.set(xlabel="edges into the decision", ylabel="accuracy (exact)")
    ax.legend(frameon=False, loc="lower right")
    sns.despine(figure)
    return figure


def plot_utilities(curves: Mapping[str, np.ndarray], window: int = 20) -> Figure:
    """Training curves: the running mean of the utility, as a mean and a band of two standard errors over seeds.

    Args:
        curves: name -> [seeds, iterations].
        window: iterations of the running mean.
    """
    figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for colour, (name, utility) in zip(COLOURS, curves.items(), strict=False):
        width = min(window, utility.shape[1])
        running = np.apply_along_axis(np.convolve, 1, utility, np.ones(width) / width, mode="valid")
        iterations, mean = np.arange(width, utility.shape[1] + 1), running.mean(0)
        ax.plot(iterations, mean, color=colour, label=f"{name} ({len(utility)} seeds)")
        if len(utility) > 1:
            band = 2 * running.std(0, ddof=1) / np.sqrt(len(utility))
            ax.fill_between(iterations, mean - band, mean + band, color=colour, alpha=0.2, linewidth=0)
    ax.set(xlabel="iteration", ylabel=f"utility (mean of {window} iterations)")
    ax.legend(frameon=False, fontsize=8)
    sns.despine(figure)
    return figure


def plot_heatmaps(matrices: Mapping[str, Sequence[Sequence[float | None]]], groups: Mapping[str, int]) -> Figure:
    """Heatmaps of recorded edge probabilities side by side, as `plot_edge_probs` draws one.

    Args:
        matrices: title -> [M, M], row and column 0 are the decision; None where no edge is decided.
        groups: name -> number of agents, in the order of the nodes.
    """
    figure, axes = plt.subplots(
        1, len(matrices), figsize=(4.6 * len(matrices) + 0.6, 4.4), layout="constrained", squeeze=False
    )
    for ax, (title, matrix) in zip(axes.flat, matrices.items(), strict=True):
        sns.heatmap(
            np.array(matrix, dtype=float), vmin=0, vmax=1, cmap=PROBABILITY_MAP, square=True, ax=ax, linewidths=0.5,
            linecolor="0.9", cbar=ax is axes.flat[-1], cbar_kws={"label": "probability of the edge", "shrink": 0.8},
        )  # fmt: skip
        top = 1
        for colour, height in zip(COLOURS, groups.values(), strict=False):
            ax.add_patch(Rectangle((0, top), 1, height, fill=False, edgecolor=colour, linewidth=3, clip_on=False))
            top += height
        ax.set(xlabel="listens (0 is the decision)", ylabel="speaks", title=title)
    frames = [
        Rectangle((0, 0), 1, 1, fill=False, edgecolor=c, linewidth=3) for c, _ in zip(COLOURS, groups, strict=False)
    ]
    figure.legend(frames, list(groups), loc="outside lower center", ncols=len(groups), frameon=False)
    return figure


def plot_intervals(lines: Mapping[str, Mapping[float, Estimate]], xlabel: str, ylabel: str) -> Figure:
    """Means with their intervals against a number, one line a name."""
    figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for colour, marker, dashes, (name, line) in zip(
        COLOURS, "os^DvX", ("-", "--", "-.", ":") * 2, lines.items(), strict=False
    ):
        means = [estimate.mean for estimate in line.values()]
        ax.plot(list(line), means, marker=marker, markersize=4, linestyle=dashes, color=colour, label=name)
        low, high = ([getattr(estimate, end) for estimate in line.values()] for end in ("ci_low", "ci_high"))
        ax.fill_between(list(line), low, high, color=colour, alpha=0.1, linewidth=0)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend(frameon=False, fontsize=8)
    sns.despine(figure)
    return figure
