"""Tables and figures of the notebooks on communication and on the frontier, from their records alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynagent.runs.paths import resolve_path
from dynagent.viz.plots import GROUP_COLOURS, LEGEND, colours_of
from studies.common.tables import percent


def load_record(path: str) -> dict[str, Any]:
    """A record of `make communication` or `make frontier`.

    Raises:
        ValueError: if it is not there.
    """
    place = resolve_path(path)
    if not place.exists():
        raise ValueError(f"There is no record {path}: `make {place.stem}` makes it.")
    return dict(json.loads(place.read_text(encoding="utf-8")))


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
    """Accuracy against spend with intervals, a panel a setting: votes as a line and a band, other wirings as points."""
    figure, panels = plt.subplots(1, len(record), figsize=(3.4 * len(record), 3.4), layout="constrained", squeeze=False)
    for panel, (setting, data) in zip(panels[0], record.items(), strict=True):
        wirings = data["wirings"]
        _plot_votes(panel, wirings, lambda row: 100 * row["spend"]["mean"], "vote of k")
        kinds = ("static", "dynamic", "best single")
        for marker, (kind, colour) in zip("so^", colours_of(kinds).items(), strict=True):
            rows = [row for name, row in wirings.items() if name.startswith(kind)]
            means, errors = _with_errors(rows)
            panel.errorbar(
                [100 * row["spend"]["mean"] for row in rows], means, errors, color=colour, marker=marker, markersize=5,
                linestyle="--" if len(rows) > 1 else "", elinewidth=1, label=kind,
            )  # fmt: skip
        panel.set(title=setting, xlabel="tokens, % of the full graph")
    panels[0][0].set_ylabel("accuracy, %")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, **LEGEND)
    sns.despine(figure)
    return figure


def _with_errors(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies in % [n], and how far their intervals reach below and above: [2, n]."""
    means, low, high = (
        100 * np.array([row["accuracy"][name] for row in rows]) for name in ("mean", "ci_low", "ci_high")
    )
    return means, np.array([means - low, high - means])


def _plot_votes(panel: Axes, wirings: Mapping[str, Any], spend: Callable[[Any], float], label: str) -> None:
    rows = [row for name, row in wirings.items() if name.startswith("vote")]
    means, (below, above) = _with_errors(rows)
    places = [spend(row) for row in rows]
    colour = GROUP_COLOURS["vote"]
    panel.plot(places, means, color=colour, marker=".", linestyle=":", label=label)
    panel.fill_between(places, means - below, means + above, color=colour, alpha=0.2, linewidth=0)
