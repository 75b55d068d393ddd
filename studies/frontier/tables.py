"""Tables and figures of the notebooks on communication and on the frontier, from their records alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dynagent.evaluation.statistics import Estimate
from dynagent.viz.plots import LEGEND, colours_of
from studies.common.plots import plot_votes, with_errors
from studies.common.tables import percent


def frontier_table(setting: Mapping[str, Any], num_votes: int) -> pd.DataFrame:
    """Spend, accuracy and differences of every wiring in a setting; of the votes, one, half and all agents."""
    kept = {f"vote of {k}" for k in (1, 2, num_votes // 2, num_votes)}
    rows = {}
    for name, row in setting["wirings"].items():
        if name.startswith("vote") and name not in kept:
            continue
        cells = {"spend, % of full": f"{100 * row['spend'].mean:.0f}", "accuracy, %": percent(row["accuracy"])}
        for key in ("minus full graph", "minus vote at equal spend", "minus static at equal spend"):
            cells[key] = percent(row[key]) if key in row else ""
        rows[name] = cells
    return pd.DataFrame.from_dict(rows, orient="index")


KINDS = ("vote", "best single", "static", "dynamic")


def savings_table(settings: Mapping[str, Any], margin: float | None = None) -> pd.DataFrame:
    """Tokens saved, in %, by the cheapest wiring of each kind that is not below the full graph's accuracy.

    Args:
        settings: the numbers of the record.
        margin: the interval of the difference reaches at most so far below zero; by default it only has to contain
            zero or lie above it, which a wide interval does easily.
    """
    rows: dict[str, dict[str, str]] = {}
    for setting, data in settings.items():
        rows[setting] = {}
        for kind in KINDS:
            equal = {}
            for name, row in data["wirings"].items():
                loss = row["minus full graph"]
                if name.startswith(kind) and (loss.ci_high >= 0 if margin is None else loss.ci_low >= -margin):
                    equal[name] = row["spend"]
            cheapest = min(equal, key=lambda name: equal[name].mean, default="none")
            rows[setting][kind] = cheapest
            if equal:
                spend = equal[cheapest]
                saving = Estimate(1 - spend.mean, 1 - spend.ci_high, 1 - spend.ci_low, spend.n)
                rows[setting][kind] = f"{percent(saving)} ({cheapest})"
    return pd.DataFrame.from_dict(rows, orient="index")


def plot_frontier(settings: Mapping[str, Any]) -> Figure:
    """Accuracy against spend with intervals, a panel a setting: votes as a line and a band, other wirings as points."""
    figure, panels = plt.subplots(
        1, len(settings), figsize=(3.4 * len(settings), 3.4), layout="constrained", squeeze=False
    )
    for panel, (setting, data) in zip(panels[0], settings.items(), strict=True):
        wirings = data["wirings"]
        plot_votes(panel, wirings, lambda row: 100 * row["spend"].mean, "vote of k")
        kinds = ("static", "dynamic", "best single")
        for marker, (kind, colour) in zip("so^", colours_of(kinds).items(), strict=True):
            rows = [row for name, row in wirings.items() if name.startswith(kind)]
            means, errors = with_errors(rows)
            panel.errorbar(
                [100 * row["spend"].mean for row in rows], means, errors, color=colour, marker=marker, markersize=5,
                linestyle="--" if len(rows) > 1 else "", elinewidth=1, label=kind,
            )  # fmt: skip
        panel.set(title=setting, xlabel="tokens, % of the full graph")
    panels[0][0].set_ylabel("accuracy, %")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, **LEGEND)
    sns.despine(figure)
    return figure
