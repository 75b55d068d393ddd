"""Figures from what a run leaves: training curve, heatmaps of edge probabilities, drawn graphs; one style for all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
from seaborn.utils import relative_luminance
from torch import Tensor

from dynagent.graph import AgentGraph
from dynagent.learning.loop import History
from dynagent.team.protocols import Question

LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8}  # of every figure, in the experiments and notebooks, too
# What a group, a policy or a recipe is called, and its colour; of a longer name the first line counts whose words it
# has. Groups that meet in a figure differ in lightness, too, and can be told apart in grey and with any colour vision
# (colours of seaborn's "colorblind" and Paul Tol's "muted"); what learned policies are compared with is grey.
GROUP_COLOURS = {
    "told": "0.2", "best possible": "0.2", "full graph": "0.55", "vote": "0.55", "decision": "0.3",
    "truthful": "#0173b2", "adversarial": "#de8f05", "en": "#44aa99", "zh": "#882255",
    "stem": "#332288", "humanities": "#aa4499", "social_sciences": "#ddcc77", "other": "#44aa99",
    "brute force": "#004488", "reflection": "#ddaa33",
    "paper static": "#e0a3ae", "published static": "#e0a3ae", "static": "#cc6677",
    "paper": "#77b38c", "published": "#77b38c", "dynamic": "#117733", "default": "#117733",
}  # fmt: skip
COLOURS = sns.color_palette("colorblind").as_hex()  # of names that are not in the table, in order of appearance
# Lightness falls with the probability, so that it can be read in grey; white is left for pairs without an edge.
HEATMAP: dict[str, Any] = {"vmin": 0, "vmax": 1, "cmap": "crest"}


def colours_of(names: Iterable[str]) -> dict[str, Any]:
    """The colour of every name, the same in all figures.

    >>> colours_of(["default recipe, static", "anything else"])["default recipe, static"]
    '#cc6677'
    """
    words = {name: set(re.split(r"\W+", name)) for name in names}
    known = {
        name: next((colour for key, colour in GROUP_COLOURS.items() if of >= set(key.split())), None)
        for name, of in words.items()
    }
    spare = iter(colour for colour in COLOURS if colour not in known.values())
    return {name: colour or next(spare) for name, colour in known.items()}


def group_colours(graph: AgentGraph) -> dict[str, Any]:
    """The colours of a team's groups."""
    return colours_of(graph.groups)


def plot_training(history: History, window: int = 20) -> Figure:
    """Utility of every iteration with its running mean, and the expected edges into the decision."""
    utility = np.array(history.column("utility"))
    running, last = running_mean(utility, window)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    left.plot(utility, color="0.8", linewidth=0.8, label="one batch")
    left.plot(last, running, color="0.2", label=f"mean of {min(window, len(utility))}")
    left.set(xlabel="iteration", ylabel="utility (share right)")
    left.legend(**LEGEND)
    right.plot(history.column("num_edges"), color="0.2")
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


def plot_by_area(edge_probs: Tensor, shuffled: Tensor, graph: AgentGraph, questions: Sequence[Question]) -> Figure:
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


def ink_on(colour: Any) -> str:
    """What can be read on a colour: white, or black on a light one."""
    return "white" if relative_luminance(colour) < 0.3 else "black"


def draw_graph(ax: Axes, edge_probs: Tensor, graph: AgentGraph) -> None:
    """One graph on its axes: agents in a circle, the decision, node 0, in the middle; see `plot_graphs`.

    Args:
        edge_probs: [E].
    """
    colours = colours_of([*graph.groups, "decision"])
    positions = nx.circular_layout(range(graph.decision_node)) | {graph.decision_node: np.zeros(2)}
    drawn = graph.to_networkx(edge_probs * graph.effective)
    shades = [colours[node.group] for node in graph.nodes]
    labels = {node: (node + 1) % graph.num_nodes for node in drawn}
    inks = {node: ink_on(shade) for node, shade in enumerate(shades)}
    nx.draw_networkx_nodes(drawn, positions, ax=ax, node_size=500, node_color=shades)
    nx.draw_networkx_labels(drawn, positions, labels, ax=ax, font_color=inks, font_size=9)
    for sure, style in ((True, "-"), (False, (0, (1, 2)))):
        edges = [(i, j, w) for i, j, w in drawn.edges(data="weight") if (w >= 0.5) is sure]
        nx.draw_networkx_edges(
            drawn, positions, ax=ax, edgelist=[(i, j) for i, j, _ in edges], style=style, node_size=500,
            width=[0.3 + 4 * w for *_, w in edges],
            edge_color=[shades[i] if j == graph.decision_node else "0.6" for i, j, _ in edges],
        )  # fmt: skip
    ax.set_axis_off()
    ax.margins(0.15)


def plot_graphs(edge_probs: Tensor, graph: AgentGraph, titles: Sequence[str]) -> Figure:
    """The graphs of some questions side by side: agents by group, width of an edge by its probability.

    Edges below one half are dotted: they are not in the most probable graph. Edges into the decision have the colour
    of who speaks; those between agents are grey.

    Args:
        edge_probs: [n, E], one row a panel.
    """
    figure, axes = plt.subplots(1, len(titles), figsize=(5 * len(titles), 4), layout="constrained", squeeze=False)
    for ax, probs, title in zip(axes.flat, edge_probs, titles, strict=True):
        draw_graph(ax, probs, graph)
        ax.set_title(title, fontsize=10)
    colours = group_colours(graph)
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=colours[g], label=g) for g in graph.groups]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), **LEGEND)
    return figure


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """As SVG and PNG; the SVG carries no date and no random names, so that equal figures are equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    figure.savefig(folder / f"{name}.png", dpi=150)


def running_mean(utility: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of so many iterations, or of all if there are fewer, along the last axis; and the last one's index."""
    window = min(window, utility.shape[-1])
    return sliding_window_view(utility, window, -1).mean(-1), np.arange(window - 1, utility.shape[-1])


def plot_heatmaps(matrices: Mapping[str, Any], groups: Mapping[str, int]) -> Figure:
    """Heatmaps of edge probabilities side by side: rows speak, columns listen, node 0 is the decision.

    Frames in the groups' colours mark their edges into the decision.

    Args:
        matrices: title -> [M, M], row and column 0 are the decision; None or not a number where no edge is decided.
        groups: name -> number of agents, in the order of the nodes.
    """
    size, colours = (4.2 * len(matrices) + 0.8, 4.8), colours_of(groups)
    figure, axes = plt.subplots(1, len(matrices), figsize=size, layout="compressed", squeeze=False)
    for ax, (title, matrix) in zip(axes.flat, matrices.items(), strict=True):
        sns.heatmap(
            np.array(matrix, dtype=float), **HEATMAP, square=True, ax=ax, linewidths=0.5, linecolor="0.9",
            cbar=ax is axes.flat[-1], cbar_kws={"label": "probability of the edge", "shrink": 0.8},
        )  # fmt: skip
        top = 1
        for name, height in groups.items():
            frame = {"fill": False, "edgecolor": colours[name], "linewidth": 3, "clip_on": False}
            ax.add_patch(Rectangle((0, top), 1, height, **frame))
            top += height
        ax.set(xlabel="listens (0 is the decision)", ylabel="speaks", title=title)
    frames = axes.flat[-1].patches
    figure.legend(frames, list(groups), loc="outside lower center", ncols=len(groups), **LEGEND)
    return figure
