"""Tables from the records of the ablations, as the notebooks show them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dynagent.runs.record import Record
from studies.common.tables import Row, chosen, gained, percent, shown

# --- readings of the question -------------------------------------------------------------------------------------


def features_of(row: Row) -> str:
    """How a policy reads the question, in words."""
    scale = f"raw x norm of {row['norm_of']}" if row.get("norm_of") else "standardized" if row["standardize"] else "raw"
    return f"{row['readout']}, {scale}".replace("_", " ")


def by_reading(record: Record, task: str, cell: Any) -> pd.DataFrame:
    """One row a way to read the question, one column a recipe and learning rate; `cell` is from a row to a text."""
    table: dict[str, dict[str, str]] = {}
    for row in chosen(record.numbers["rows"], task=task):
        column = f"{row['recipe']} recipe, rate {row['learning_rate']:g}"
        table.setdefault(features_of(row), {})[column] = cell(row)
    return pd.DataFrame.from_dict(table, orient="index")


def judged(row: Row) -> Row:
    """A policy's numbers on the graphs that its recipe is judged on."""
    found: Row = row["drawn" if row["recipe"] == "paper" else "most probable"]
    return found


def variation(record: Record, task: str) -> pd.DataFrame:
    """Standard deviation of an edge's probability over questions, mean over edges: before -> after training."""
    before, after = "untrained: deviation over questions", "trained: deviation over questions"
    if task == "routing":
        return by_reading(record, task, lambda row: f"{row[after].mean:.3f}")
    return by_reading(record, task, lambda row: f"{row[before].mean:.3f} -> {row[after].mean:.3f}")


def accuracy(record: Record, task: str) -> pd.DataFrame:
    """Accuracy in %, or headroom in a world."""
    if task == "routing":
        return by_reading(record, task, lambda row: shown(judged(row)["headroom"]))
    return by_reading(record, task, lambda row: percent(judged(row)["accuracy"]))


def gain(record: Record, task: str, over: str) -> pd.DataFrame:
    """Points gained over the static policy, the untrained one, or a control."""
    return by_reading(record, task, lambda row: gained(judged(row)[f"over {over}"]))


def ratios(record: Record, task: str) -> pd.DataFrame:
    """Variation with mean embeddings over that with the last hidden state, each arm in a row."""
    table: dict[str, dict[str, str]] = {}
    for row in chosen(record.numbers["ratios"], task=task):
        column = f"{row['recipe']} recipe, rate {row['learning_rate']:g}"
        table.setdefault(row["embeddings"], {})[column] = shown(row["ratio"], digits=3)
    return pd.DataFrame.from_dict(table, orient="index").fillna("")


# --- edge LLMs ----------------------------------------------------------------------------------------------------


def qualities(record: Record, recipe: str = "default") -> pd.DataFrame:
    """Accuracy in % on the recorded team, headroom in the worlds: one row an edge LLM and readout."""
    table: dict[tuple[str, str], dict[str, str]] = {}
    for row in chosen(record.numbers["rows"], recipe=recipe):
        number = percent(row["quality"]) if row["task"] == "specialized" else shown(row["quality"])
        table.setdefault((row["readout"].replace("_", " "), row["edge_llm"]), {})[row["task"]] = number
    frame = pd.DataFrame.from_dict(table, orient="index")
    return frame.sort_index(level=0, sort_remaining=False)


def differences(record: Record) -> pd.DataFrame:
    """Differences between groups of edge LLMs: points on the recorded team, headroom in the worlds."""
    table: dict[str, dict[str, str]] = {}
    for row in record.numbers["comparisons"]:
        name = f"{row['comparison']}, {row['readout']}, {row['recipe']} recipe".replace("_", " ")
        number = gained if row["task"] == "specialized" else lambda found: shown(found, sign="+")
        table.setdefault(name, {})[row["task"]] = number(row["difference"])
    return pd.DataFrame.from_dict(table, orient="index").fillna("")
