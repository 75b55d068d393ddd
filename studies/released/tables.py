"""Tables of what each part of the released code changes, from the record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dynagent.evaluation.statistics import Estimate
from dynagent.runs.record import Record
from studies.common.tables import Row, chosen, gained, percent

POLICIES = ("static", "dynamic", "dynamic - static")


def effects(record: Record, task: str, kind: str, recipe: str = "paper", unchanged: Sequence[Row] = ()) -> pd.DataFrame:
    """What each switch changes, in points: one row a switch, one column a policy and the gain.

    Args:
        unchanged: rows of the switches that concern no vote.
    """
    rows = {
        row["switch"]: {policy: gained(row[policy]["effect"]) for policy in POLICIES}
        for row in chosen(record.numbers["rows"], task=task, kind=kind, recipe=recipe)
    }
    for row in chosen(unchanged, task=task, kind=kind, recipe=recipe):
        if not any(row[policy]["largest change of a probability"] for policy in POLICIES[:2]):
            rows[row["switch"]] = dict.fromkeys(POLICIES, "0 exactly")
    return pd.DataFrame.from_dict(dict(sorted(rows.items(), key=_number)), orient="index")


def _number(item: tuple[str, Any]) -> tuple[int, str]:
    first = item[0].split()[0]
    return (int(first) if first.isdigit() else 99, item[0])


def states(record: Record) -> pd.DataFrame:
    """Accuracy in % and the gain in points, with all switches off and with all of them on."""
    rows = {}
    for row in chosen(record.numbers["rows"], kind="all"):
        for state in ("off", "on"):
            rows[f"{row['task']}, all {state}"] = {
                policy: (percent if policy in POLICIES[:2] else gained)(row[policy][state]) for policy in POLICIES
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def exact(record: Record) -> pd.DataFrame:
    """The largest change of any probability of an edge into the decision, and how many were compared."""
    rows = {
        f"{row['switch']}, {row['kind']} ({row['task']})": {
            f"{policy}: {name}": row[policy][name] for policy in POLICIES[:2] for name in row[policy]
        }
        for row in record.numbers["exact"]
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def heard(record: Record) -> pd.DataFrame:
    """Accuracy in % by the number of agents that are heard: one row a rule and rate."""
    rows = {}
    for row in record.numbers["heard"]:
        cells = {number: f"{100 * estimate.mean:.1f}" for number, estimate in enumerate(row["accuracy"], 1)}
        rows[f"{row['rule']}, {row['rate']:g}"] = cells | {"8 minus 4 agents": gained(row["8 - 4"])}
    return pd.DataFrame.from_dict(rows, orient="index")


def heard_lines(record: Record, rate: float) -> dict[str, dict[float, Estimate]]:
    """rule -> number of agents -> accuracy."""
    return {row["rule"]: dict(enumerate(row["accuracy"], 1)) for row in chosen(record.numbers["heard"], rate=rate)}


def sparsity(record: Record, recipe: str, policy: str) -> pd.DataFrame:
    """What the sparsity loss changes, in points, by the rate of unparsable replies and what is done with them."""
    rows = {}
    for row in chosen(record.numbers["sparsity"], recipe=recipe, policy=policy):
        edges = [row["no vote"][name].mean for name in ("edges without", "edges with")]
        rows[f"{row['rate']:g}"] = {
            "no vote": gained(row["no vote"]["gain"]),
            "voids": gained(row["voids"]["gain"]),
            "voids - no vote": gained(row["voids - no vote"]),
            "edges, without -> with the loss": f"{edges[0]:.2f} -> {edges[1]:.2f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("rate of unparsable replies")
