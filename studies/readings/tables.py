"""Tables and figures from the records of the ablations, as the notebooks show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dynagent.viz.plots import LEGEND, colours_of

Row = Mapping[str, Any]
POLICIES = ("static", "dynamic", "dynamic - static")


def shown(estimate: Row, scale: float = 1.0, digits: int = 2, sign: str = "") -> str:
    """A number with its interval."""
    mean, low, high = (f"{scale * estimate[name]:{sign}.{digits}f}" for name in ("mean", "ci_low", "ci_high"))
    return f"{mean} [{low}, {high}]"


def points(estimate: Row) -> str:
    """An accuracy in %, or a difference of two in points with its sign."""
    return shown(estimate, 100, 1)


def gained(estimate: Row) -> str:
    """A difference of accuracies in points, with its sign."""
    return shown(estimate, 100, 1, "+")


def chosen(rows: Sequence[Row], **values: Any) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row.get(name, "") == value for name, value in values.items())]


def only(rows: Sequence[Row], **values: Any) -> Row:
    """The one row that has these values."""
    (row,) = chosen(rows, **values)
    return row


# --- readings of the question -------------------------------------------------------------------------------------


def features_of(row: Row) -> str:
    """How a policy reads the question, in words."""
    scale = f"raw x norm of {row['norm_of']}" if row.get("norm_of") else "standardized" if row["standardize"] else "raw"
    return f"{row['readout']}, {scale}".replace("_", " ")


def by_reading(record: Row, task: str, cell: Any) -> pd.DataFrame:
    """One row a way to read the question, one column a recipe and learning rate; `cell` is from a row to a text."""
    table: dict[str, dict[str, str]] = {}
    for row in chosen(record["rows"], task=task):
        column = f"{row['recipe']} recipe, rate {row['learning_rate']:g}"
        table.setdefault(features_of(row), {})[column] = cell(row)
    return pd.DataFrame.from_dict(table, orient="index")


def judged(row: Row) -> Row:
    """A policy's numbers on the graphs that its recipe is judged on."""
    found: Row = row["drawn" if row["recipe"] == "paper" else "most probable"]
    return found


def variation(record: Row, task: str) -> pd.DataFrame:
    """Standard deviation of an edge's probability over questions, mean over edges: before -> after training."""
    before, after = "untrained: deviation over questions", "trained: deviation over questions"
    if task == "routing":
        return by_reading(record, task, lambda row: f"{row[after]['mean']:.3f}")
    return by_reading(record, task, lambda row: f"{row[before]['mean']:.3f} -> {row[after]['mean']:.3f}")


def accuracy(record: Row, task: str) -> pd.DataFrame:
    """Accuracy in %, or headroom in a world."""
    if task == "routing":
        return by_reading(record, task, lambda row: shown(judged(row)["headroom"]))
    return by_reading(record, task, lambda row: points(judged(row)["accuracy"]))


def gain(record: Row, task: str, over: str) -> pd.DataFrame:
    """Points gained over the static policy, the untrained one, or a control."""
    return by_reading(record, task, lambda row: gained(judged(row)[f"over {over}"]))


def ratios(record: Row, task: str) -> pd.DataFrame:
    """Variation with mean embeddings over that with the last hidden state, each arm in a row."""
    table: dict[str, dict[str, str]] = {}
    for row in chosen(record["ratios"], task=task):
        column = f"{row['recipe']} recipe, rate {row['learning_rate']:g}"
        table.setdefault(row["embeddings"], {})[column] = shown(row["ratio"], digits=3)
    return pd.DataFrame.from_dict(table, orient="index").fillna("")


# --- edge LLMs ----------------------------------------------------------------------------------------------------


def qualities(record: Row, recipe: str = "default") -> pd.DataFrame:
    """Accuracy in % on the recorded team, headroom in the worlds: one row an edge LLM and readout."""
    table: dict[tuple[str, str], dict[str, str]] = {}
    for row in chosen(record["rows"], recipe=recipe):
        number = points(row["quality"]) if row["task"] == "specialized" else shown(row["quality"])
        table.setdefault((row["readout"].replace("_", " "), row["edge_llm"]), {})[row["task"]] = number
    frame = pd.DataFrame.from_dict(table, orient="index")
    return frame.sort_index(level=0, sort_remaining=False)


def differences(record: Row) -> pd.DataFrame:
    """Differences between groups of edge LLMs: points on the recorded team, headroom in the worlds."""
    table: dict[str, dict[str, str]] = {}
    for row in record["comparisons"]:
        name = f"{row['comparison']}, {row['readout']}, {row['recipe']} recipe".replace("_", " ")
        number = gained if row["task"] == "specialized" else lambda found: shown(found, sign="+")
        table.setdefault(name, {})[row["task"]] = number(row["difference"])
    return pd.DataFrame.from_dict(table, orient="index").fillna("")


def plot_estimates(
    series: Mapping[str, Mapping[str, Row]], xlabel: str, scale: float = 1.0, names: Sequence[str] = ()
) -> Figure:
    """Means with their intervals as dots beside their names: series -> name -> estimate, one colour a series.

    Args:
        names: in the order in which they are drawn, if not that of their first appearance.
    """
    names = list(names or dict.fromkeys(name for of in series.values() for name in of))
    figure, ax = plt.subplots(figsize=(7, 1.2 + 0.36 * len(names)), layout="constrained")
    offsets = np.linspace(-0.22, 0.22, len(series)) if len(series) > 1 else [0.0]
    colours = colours_of(series)
    for marker, offset, (label, of) in zip(cycle("os^Dv"), offsets, series.items(), strict=False):
        places = [names.index(name) + offset for name in of]
        means, low, high = (np.array([scale * e[end] for e in of.values()]) for end in ("mean", "ci_low", "ci_high"))
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


def origin(record: Row) -> str:
    """Where a record's numbers are from, as one line of text."""
    return f"{record['seeds']} seeds, commit {record['code']['commit'][:12]}, `{record['command']}`"
