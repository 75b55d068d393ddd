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

from dynagent.intervals import Estimate
from dynagent.plots import LEGEND, colours_of

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


# --- as released --------------------------------------------------------------------------------------------------


def effects(record: Row, task: str, kind: str, recipe: str = "paper", unchanged: Sequence[Row] = ()) -> pd.DataFrame:
    """What each switch changes, in points: one row a switch, one column a policy and the gain.

    Args:
        unchanged: rows of the switches that concern no vote.
    """
    rows = {
        row["switch"]: {policy: gained(row[policy]["effect"]) for policy in POLICIES}
        for row in chosen(record["rows"], task=task, kind=kind, recipe=recipe)
    }
    for row in chosen(unchanged, task=task, kind=kind, recipe=recipe):
        if not any(row[policy]["largest change of a probability"] for policy in POLICIES[:2]):
            rows[row["switch"]] = dict.fromkeys(POLICIES, "0 exactly")
    return pd.DataFrame.from_dict(dict(sorted(rows.items(), key=_number)), orient="index")


def _number(item: tuple[str, Any]) -> tuple[int, str]:
    first = item[0].split()[0]
    return (int(first) if first.isdigit() else 99, item[0])


def states(record: Row) -> pd.DataFrame:
    """Accuracy in % and the gain in points, with all switches off and with all of them on."""
    rows = {}
    for row in chosen(record["rows"], kind="all"):
        for state in ("off", "on"):
            rows[f"{row['task']}, all {state}"] = {
                policy: (points if policy in POLICIES[:2] else gained)(row[policy][state]) for policy in POLICIES
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def exact(record: Row) -> pd.DataFrame:
    """The largest change of any probability of an edge into the decision, and how many were compared."""
    rows = {
        f"{row['switch']}, {row['kind']} ({row['task']})": {
            f"{policy}: {name}": row[policy][name] for policy in POLICIES[:2] for name in row[policy]
        }
        for row in record["exact"]
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def heard(record: Row) -> pd.DataFrame:
    """Accuracy in % by the number of agents that are heard: one row a rule and rate."""
    rows = {}
    for row in record["heard"]:
        cells = {number: f"{100 * estimate['mean']:.1f}" for number, estimate in enumerate(row["accuracy"], 1)}
        rows[f"{row['rule']}, {row['rate']:g}"] = cells | {"8 minus 4 agents": gained(row["8 - 4"])}
    return pd.DataFrame.from_dict(rows, orient="index")


def heard_lines(record: Row, rate: float) -> dict[str, dict[float, Estimate]]:
    """rule -> number of agents -> accuracy."""
    return {
        row["rule"]: {number: Estimate(**estimate) for number, estimate in enumerate(row["accuracy"], 1)}
        for row in chosen(record["heard"], rate=rate)
    }


def sparsity(record: Row, recipe: str, policy: str) -> pd.DataFrame:
    """What the sparsity loss changes, in points, by the rate of unparsable replies and what is done with them."""
    rows = {}
    for row in chosen(record["sparsity"], recipe=recipe, policy=policy):
        edges = [row["no vote"][name]["mean"] for name in ("edges without", "edges with")]
        rows[f"{row['rate']:g}"] = {
            "no vote": gained(row["no vote"]["gain"]),
            "voids": gained(row["voids"]["gain"]),
            "voids - no vote": gained(row["voids - no vote"]),
            "edges, without -> with the loss": f"{edges[0]:.2f} -> {edges[1]:.2f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("rate of unparsable replies")


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
