"""Tables and figures of the notebooks on communication and on the frontier, from their records alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dynagent.config import resolve_path
from dynagent.plots import COLOURS
from experiments.table2_tables import percent


def load_record(path: str) -> dict[str, Any]:
    """A record of `make communication` or `make frontier`.

    Raises:
        ValueError: if it is not there.
    """
    place = resolve_path(path)
    if not place.exists():
        raise ValueError(f"There is no record {path}: `make {place.stem}` makes it.")
    return dict(json.loads(place.read_text(encoding="utf-8")))


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
        edges = learned[f"{name}: edges between agents"]["mean"] if "votes" not in name else 0.0
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


def hearing_table(hearing: Mapping[str, Any]) -> pd.DataFrame:
    """What hearing does to a voter: accuracy and agreement with the sender, before and after, in %."""
    rows = {}
    for kind in ("all", "sender right", "sender wrong"):
        cells = {name: percent(value) for name, value in hearing[kind].items() if name != "n"}
        rows[kind] = {"questions": hearing[kind]["n"]} | cells
    return pd.DataFrame.from_dict(rows, orient="index").T


def frontier_table(setting: Mapping[str, Any], num_votes: int) -> pd.DataFrame:
    """Spend, accuracy and differences of every wiring in a setting; of the votes, one, half and all agents."""
    kept = {f"vote of {k}" for k in (1, 2, num_votes // 2, num_votes)}
    rows = {}
    for name, row in setting["wirings"].items():
        if name.startswith("vote") and name not in kept:
            continue
        cells = {"spend, % of full": f"{100 * row['spend']['mean']:.0f}", "accuracy, %": percent(row["accuracy"])}
        for key in ("minus full graph", "minus vote at equal spend", "minus static at equal spend"):
            cells[key] = percent(row[key]) if key in row else ""
        rows[name] = cells
    return pd.DataFrame.from_dict(rows, orient="index")


KINDS = ("vote", "best single", "static", "dynamic")


def savings_table(record: Mapping[str, Any], margin: float | None = None) -> pd.DataFrame:
    """Tokens saved, in %, by the cheapest wiring of each kind that is not below the full graph's accuracy.

    Args:
        margin: the interval of the difference reaches at most so far below zero; by default it only has to contain
            zero or lie above it, which a wide interval does easily.
    """
    rows: dict[str, dict[str, str]] = {}
    for setting, data in record.items():
        rows[setting] = {}
        for kind in KINDS:
            equal = {}
            for name, row in data["wirings"].items():
                low, high = (row["minus full graph"][bound] for bound in ("ci_low", "ci_high"))
                if name.startswith(kind) and (high >= 0 if margin is None else low >= -margin):
                    equal[name] = row["spend"]
            cheapest = min(equal, key=lambda name: equal[name]["mean"], default="none")
            rows[setting][kind] = cheapest
            if equal:
                spend = equal[cheapest]
                bounds = {"mean": spend["mean"], "ci_low": spend["ci_high"], "ci_high": spend["ci_low"]}
                saving = {name: 1 - value for name, value in bounds.items()}
                rows[setting][kind] = f"{percent(saving)} ({cheapest})"
    return pd.DataFrame.from_dict(rows, orient="index")


def plot_frontier(record: Mapping[str, Any]) -> Figure:
    """Accuracy against spend, a panel a setting: votes as a line, learned wirings as points with intervals."""
    figure, panels = plt.subplots(1, len(record), figsize=(3.6 * len(record), 3.3), layout="constrained", squeeze=False)
    for panel, (setting, data) in zip(panels[0], record.items(), strict=True):
        wirings = data["wirings"]
        votes = [row for name, row in wirings.items() if name.startswith("vote")]
        panel.plot(
            [100 * row["spend"]["mean"] for row in votes], [100 * row["accuracy"]["mean"] for row in votes],
            color="0.5", marker=".", label="vote of k",
        )  # fmt: skip
        for colour, marker, kind in zip(COLOURS, "so^", ("static", "dynamic", "best single"), strict=False):
            rows = [row for name, row in wirings.items() if name.startswith(kind)]
            panel.plot(
                [100 * row["spend"]["mean"] for row in rows], [100 * row["accuracy"]["mean"] for row in rows],
                color=colour, marker=marker, linestyle="--" if len(rows) > 1 else "", label=kind,
            )  # fmt: skip
        panel.set(title=setting, xlabel="tokens, % of the full graph")
    panels[0][0].set_ylabel("accuracy, %")
    panels[0][0].legend(frameon=False)
    sns.despine(figure)
    return figure


def plot_communication(part: Mapping[str, Any]) -> Figure:
    """Accuracy against tokens a question: votes alone as a line, wirings with edges between agents as points."""
    figure, panel = plt.subplots(figsize=(5, 3.3), layout="constrained")
    shown = (("vote", "votes alone", "0.5", ".", "-"), ("sender", "the sender alone", COLOURS[2], "^", ""),
             ("1 heard", "voters have read the sender", COLOURS[0], "o", ""))  # fmt: skip
    for prefix, label, colour, marker, line in shown:
        rows = [row for name, row in part["wirings"].items() if name.startswith(prefix)]
        means = [100 * row["accuracy"]["mean"] for row in rows]
        panel.plot([row["tokens"] for row in rows], means, color=colour, marker=marker, linestyle=line, label=label)
    panel.set(xlabel="tokens a question", ylabel="accuracy, %")
    panel.legend(frameon=False)
    sns.despine(figure)
    return figure
