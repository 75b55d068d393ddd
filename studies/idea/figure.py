"""The idea as a figure: two questions on record, from their text to the vote."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynagent.graph import AgentGraph
from dynagent.tasks.multiple_choice import LETTERS
from dynagent.team.agents import Specialist
from dynagent.team.votes import MajorityVote
from dynagent.viz.plots import LEGEND, colours_of, draw_graph

COLUMNS = ("question", "edge LLM", "edge probabilities", "most probable graph", "answers and vote")
WIDTHS = (2.8, 0.9, 2.0, 2.3, 1.5)


def plot_idea(idea: Mapping[str, Any]) -> Figure:
    """Each question of the record's numbers in a row: text, reading, edge probabilities, graph, answers and vote."""
    graph = AgentGraph([Specialist(None, domain=group) for group in idea["groups"]], MajorityVote())
    questions = idea["shown"]
    figure, rows = plt.subplots(
        len(questions), len(COLUMNS), figsize=(12, 3.2 * len(questions) + 0.3), layout="constrained",
        width_ratios=WIDTHS, squeeze=False,
    )  # fmt: skip
    for axes, question in zip(rows, questions, strict=True):
        _write_question(axes[0], question)
        _draw_reading(axes[1], question["reading"])
        _draw_probabilities(axes[2], question, idea["groups"])
        edges = torch.zeros(graph.num_edges)
        edges[graph.decision_edges] = torch.tensor(question["edge_probs"])
        draw_graph(axes[3], edges, graph)
        _write_answers(axes[4], question, idea["groups"])
    for ax, title in zip(rows[0], COLUMNS, strict=True):
        ax.set_title(title, fontsize=10, fontweight="bold")
    colours = colours_of(graph.groups)
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=colours[g], label=readable(g)) for g in graph.groups]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), **LEGEND)
    sns.despine(figure)
    return figure


def readable(name: str) -> str:
    """A subject or an area in words."""
    return name.replace("_", " ")


def _write_question(ax: Axes, question: Mapping[str, Any]) -> None:
    lines = [*textwrap.wrap(question["text"], 34), ""]
    for letter, option in zip(LETTERS, question["options"], strict=True):
        lines += textwrap.wrap(f"{letter}  {option}", 34, subsequent_indent="    ")
    lines += ["", *textwrap.wrap(f"({readable(question['subject'])}: {readable(question['area'])})", 34)]
    ax.text(0, 0.5, "\n".join(lines), va="center", fontsize=10, linespacing=1.4, transform=ax.transAxes)
    ax.set_axis_off()


def _draw_reading(ax: Axes, reading: list[float]) -> None:
    """The hidden state as shades of grey, sixteen numbers a row, clipped at two standard deviations."""
    state = np.array(reading)
    ax.imshow((state - state.mean()).reshape(-1, 16) / state.std(), cmap="Greys", vmin=-2, vmax=2)
    ax.set(xticks=[], yticks=[], xlabel=f"its reading:\n{len(reading)} numbers")


def _draw_probabilities(ax: Axes, question: Mapping[str, Any], groups: list[str]) -> None:
    colours, places = colours_of(groups), np.arange(len(groups))
    bars = ax.barh(places, question["edge_probs"], color=[colours[group] for group in groups])
    for bar, heard in zip(bars, question["heard"], strict=True):
        bar.set_alpha(1.0 if heard else 0.35)
    ax.axvline(0.5, color="0.3", linestyle=":", linewidth=1)
    ax.set(yticks=places, yticklabels=places + 1, xlim=(0, 1), ylabel="agent")
    ax.invert_yaxis()
    ax.set_xlabel("P(heard by the decision)")


def _write_answers(ax: Axes, question: Mapping[str, Any], groups: list[str]) -> None:
    votes = Counter(LETTERS[a] for a, heard in zip(question["answers"], question["heard"], strict=True) if heard)
    for number, (answer, heard) in enumerate(zip(question["answers"], question["heard"], strict=True)):
        text = f"{number + 1}   {LETTERS[answer]}" + ("" if heard else "   not heard")
        place = 0.97 - 0.085 * number
        ax.text(0, place, text, color="black" if heard else "0.6", va="top", fontsize=9, transform=ax.transAxes)
    outcome = "or".join(LETTERS[i] for i, p in enumerate(question["outcome"]) if p == max(question["outcome"]))
    right = question["outcome"][question["answer"]] == 1
    counted = ", ".join(f"{count} × {letter}" for letter, count in votes.most_common())
    verdict = f"{counted}\nvote: {outcome}, {'right' if right else 'wrong: ' + LETTERS[question['answer']]}"
    ax.text(0, 0.24, verdict, va="top", fontsize=10, fontweight="bold", linespacing=1.4, transform=ax.transAxes)
    ax.set_axis_off()
