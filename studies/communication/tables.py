"""Tables and the figure of the study on communication, from its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dynagent.runs.record import Record
from dynagent.viz.plots import COLOURS, LEGEND
from studies.common.plots import plot_votes, with_errors
from studies.common.tables import percent


def world_table(world: Mapping[str, Any]) -> pd.DataFrame:
    """Accuracy in % in the world of hints: what is possible, and what is learned, with and without edges."""
    best, learned = world["best possible"], world["learned"]
    rows = {
        ("best possible", "votes alone"): {"accuracy, %": f"{100 * best['votes alone']['dynamic']:.1f}"},
        ("best possible", "edges, one graph for all questions"): {
            "accuracy, %": f"{100 * best['edges']['static']:.1f}"
        },
        ("best possible", "edges, a graph for each language"): {"accuracy, %": f"{100 * best['edges']['dynamic']:.1f}"},
    }
    for name in ("dynamic, votes alone", "static, edges", "dynamic, edges"):
        edges = learned[f"{name}: edges between agents"].mean if "votes" not in name else 0.0
        rows["learned", name] = {"accuracy, %": percent(learned[name]), "edges between agents": f"{edges:.1f}"}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def wirings_table(part: Mapping[str, Any]) -> pd.DataFrame:
    """Every wiring of the recorded team: tokens a question, accuracy, and its gain over votes of equal tokens."""
    rows = {}
    for name, row in part["wirings"].items():
        cells = {"tokens": f"{row['tokens']:.0f}", "accuracy, %": percent(row["accuracy"])}
        cells["votes alone, same tokens, %"] = percent(row["votes alone, accuracy"]) if "gain" in row else ""
        cells["gain, points"] = percent(row["gain"]) if "gain" in row else ""
        rows[name] = cells
    return pd.DataFrame.from_dict(rows, orient="index")


def origins(record: Record) -> str:
    """Where each part's numbers are from, a line each."""
    return "\n".join(
        f"{name}: {len(part.seeds or ())} seeds, commit {(part.code.commit or 'unknown')[:10]}, {part.command}"
        for name, part in record.parts.items()
    )


def hearing_table(hearing: Mapping[str, Any]) -> pd.DataFrame:
    """What hearing does to a voter: accuracy and agreement with the sender, before and after, in %."""
    rows = {}
    for kind in ("all", "sender right", "sender wrong"):
        cells = {name: percent(value) for name, value in hearing[kind].items() if name != "n"}
        rows[kind] = {"questions": hearing[kind]["n"]} | cells
    return pd.DataFrame.from_dict(rows, orient="index").T


def plot_communication(part: Mapping[str, Any]) -> Figure:
    """Accuracy against tokens a question, with intervals: votes alone, and wirings with edges between agents."""
    figure, panel = plt.subplots(figsize=(6, 3.6), layout="constrained")
    plot_votes(panel, part["wirings"], lambda row: row["tokens"], "votes alone")
    for prefix, label, colour, marker in (
        ("sender", "the sender alone", COLOURS[3], "^"),
        ("1 heard", "voters have read the sender", COLOURS[0], "o"),
    ):
        rows = [row for name, row in part["wirings"].items() if name.startswith(prefix)]
        means, errors = with_errors(rows)
        panel.errorbar([row["tokens"] for row in rows], means, errors, color=colour, fmt=marker, elinewidth=1,
                       markersize=5, label=label)  # fmt: skip
    panel.set(xlabel="tokens a question", ylabel="accuracy, %")
    figure.legend(loc="outside upper center", ncols=3, **LEGEND)
    sns.despine(figure)
    return figure
