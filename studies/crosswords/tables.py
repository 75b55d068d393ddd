"""Tables and figures of the crosswords, from their records."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from dynagent.evaluation.statistics import Estimate, clustered_interval, mean_interval
from dynagent.graph import AgentGraph
from dynagent.tasks.crosswords import SIZE, Puzzle
from dynagent.viz.plots import LEGEND, colours_of, ink_on
from studies.common.record import load_record
from studies.common.tables import short

SCORES = ("words", "letters", "games")


class WorldRecord:
    """The record of the study: what every seed of every cell has learned in the simulated world."""

    def __init__(self, place: str = "") -> None:
        self.record = load_record("crosswords", place)
        self.numbers = self.record.numbers

    @property
    def num_seeds(self) -> int:
        return self.record.num_seeds

    def utility(self, cell: str, policy: str) -> np.ndarray:
        """[seeds, iterations]."""
        return np.array([seed[policy]["utility"] for seed in self.numbers["cells"][cell]])

    def scores(self, cell: str, policy: str, graphs: str = "most probable", judge: str = "") -> np.ndarray:
        """Words, letters and games of every seed and held-out puzzle: [seeds, n, 3]; by default by its own judge."""
        key = f"{graphs}, {judge or cell.rsplit(', ', 1)[1]}"
        return np.array([seed[policy]["scores"][key] for seed in self.numbers["cells"][cell]])

    def estimate(self, values: np.ndarray) -> Estimate:
        """Mean of [seeds, n] with its interval over seeds and puzzles."""
        return clustered_interval(values, self.numbers["puzzles"])

    def gain(self, cell: str, graphs: str = "most probable") -> Estimate:
        """Words of dynamic minus static, paired by seed and puzzle."""
        dynamic, static = (self.scores(cell, policy, graphs)[..., 0] for policy in ("dynamic", "static"))
        return self.estimate(dynamic - static)

    def optimum(self, judge: str) -> dict[str, float]:
        """Words of the best graph for all held-out puzzles, and with the best for each family."""
        found, families = self.numbers["optimum"]["judges"][judge]["climbed"], self.numbers["optimum"]["families"]
        each = sum(found[family]["words"] for family in families) / len(families)
        return {"best static": found["all"]["words"], "best for each family": each}

    def table(self, graphs: str = "most probable") -> pd.DataFrame:
        """Words, letters and games of each cell and policy, by the cell's own judge, and calls of a training."""
        rows = {}
        for cell, seeds in self.numbers["cells"].items():
            for policy in ("static", "dynamic"):
                scores = self.scores(cell, policy, graphs)
                row = {name: short(self.estimate(scores[..., i])) for i, name in enumerate(SCORES)}
                calls = round(np.mean([seed[policy]["calls"] for seed in seeds]))
                rows[cell, policy] = row | {"calls in training": calls}
        return pd.DataFrame(rows).T.rename_axis(["recipe, judge", "policy"])


def answers_table() -> pd.DataFrame:
    """What each fixed graph makes of the puzzles with real answers, by both judges."""
    rows = {}
    for name, found in load_record("crosswords/answers").numbers["graphs"].items():
        for judge, scores in found["scores"].items():
            columns = np.array(scores).T
            rows[name, judge] = {
                score: short(mean_interval(column)) for score, column in zip(SCORES, columns, strict=True)
            }
            rows[name, judge]["runs of operations"] = sum(found["num_runs"])
            usage = found["usage_so_far"]
            rows[name, judge] |= {"different calls so far": usage["distinct_calls"]}
            rows[name, judge] |= {"tokens so far": usage["prompt_tokens"] + usage["completion_tokens"]}
    return pd.DataFrame(rows).T.rename_axis(["graph", "judge"])


RIGHT, WRONG = "#7fb894", "#f1e8c0"  # dark and light green and sand, of which grey leaves dark and light


def plot_boards(boards: Sequence[str], puzzle: Puzzle, titles: Sequence[str]) -> Figure:
    """Boards side by side; a cell's colour says whether its letter is right."""
    figure, axes = plt.subplots(1, len(boards), figsize=(2.1 * len(boards), 2.5), layout="constrained", squeeze=False)
    for ax, board, title in zip(axes.flat, boards, titles, strict=True):
        for cell, letter in enumerate(board):
            row, column = divmod(cell, SIZE)
            colour = "white" if letter == "_" else RIGHT if letter == puzzle.letters[cell] else WRONG
            ax.add_patch(Rectangle((column, SIZE - 1 - row), 1, 1, facecolor=colour, edgecolor="0.4"))
            ax.text(column + 0.5, SIZE - 0.5 - row, letter.strip("_"), ha="center", va="center", fontsize=11)
        ax.set(xlim=(0, SIZE), ylim=(0, SIZE), aspect="equal")
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()
    return figure


def plot_wirings(taken: Tensor, edge_probs: Tensor, graph: AgentGraph, titles: Sequence[str]) -> Figure:
    """Realized graphs side by side: one column an agent, the decision below; grey, dotted edges are fixed.

    Args:
        taken: [n, E] bool, the potential edges that exist, drawn as wide as they are probable.
        edge_probs: [n, E].
    """
    figure, axes = plt.subplots(1, len(titles), figsize=(5 * len(titles), 4.6), layout="constrained", squeeze=False)
    colours = colours_of([*graph.groups, "decision"])
    places = {graph.decision_node: (0.5, -1.2)}
    for agent in range(len(graph.team)):
        nodes = [number for number, node in enumerate(graph.nodes) if node.agent == agent]
        places |= {node: (float(agent), 4 * (1 - row / (len(nodes) - 1))) for row, node in enumerate(nodes)}
    for ax, edges, probs, title in zip(axes.flat, taken, edge_probs, titles, strict=True):
        drawn = graph.to_networkx(edges * probs)
        fixed = [(i, j) for i, j in drawn.edges if graph.fixed_adjacency[i, j]]
        for chosen, colour, bend in ((fixed, "0.7", 0.0), ([e for e in drawn.edges if e not in fixed], "", 0.12)):
            nx.draw_networkx_edges(
                drawn, places, ax=ax, edgelist=chosen, node_size=500, connectionstyle=f"arc3,rad={bend}",
                style=":" if chosen is fixed else "-",
                width=[0.3 + 2.7 * drawn.edges[edge]["weight"] for edge in chosen],
                edge_color=[colour or colours[graph.nodes[source].group] for source, _ in chosen],
            )  # fmt: skip
        nx.draw_networkx_nodes(
            drawn, places, ax=ax, node_size=500, node_color=[colours[node.group] for node in graph.nodes]
        )
        labels = {node: 0 if node == graph.decision_node else node + 1 for node in drawn}
        inks = {number: ink_on(colours[node.group]) for number, node in enumerate(graph.nodes)}
        nx.draw_networkx_labels(drawn, places, labels, font_color=inks, font_size=9, ax=ax)
        ax.set_title(title, fontsize=10)
        ax.set_axis_off()
        ax.margins(0.12)
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=colours[g], label=g) for g in graph.groups]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), **LEGEND)
    return figure
