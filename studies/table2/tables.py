"""Tables from the records of Table 2's cells, as the notebooks show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from dynagent.evaluation.statistics import Estimate
from studies.common.numbers import geometric_mean
from studies.common.tables import percent, shown, significant
from studies.table2.record import CellRecord
from studies.table2.settings import JUDGED_ON, RECIPES, SPARSITIES, sparsity_cell


def accuracies(records: Mapping[str, CellRecord], wirings: Sequence[str], by_language: bool = False) -> pd.DataFrame:
    """Accuracy in % with its interval: one row a record (and language), one column a wiring."""
    rows = {}
    for name, record in records.items():
        accuracy = record.numbers["metrics"]["accuracy"]
        rows[name] = {wiring: percent(accuracy[wiring]) for wiring in wirings}
        if by_language:
            by = record.numbers["metrics"]["accuracy by language"]
            for language in by[wirings[0]]:
                rows[f"{name}, {language}"] = {wiring: percent(by[wiring][language]) for wiring in wirings}
    return pd.DataFrame.from_dict(rows, orient="index")


def differences(records: Mapping[str, CellRecord], pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Differences of accuracy in points, paired on the same questions: one row a record, one column a pair."""
    rows = {
        name: {f"{one} - {other}": percent(record.numbers["metrics"]["differences"][f"{one} - {other}"])
               for one, other in pairs}
        for name, record in records.items()
    }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def values(records: Mapping[str, CellRecord], names: Sequence[str], digits: int = 2) -> pd.DataFrame:
    """Numbers that each seed gives once, with their intervals: one row a record, one column a number."""
    rows = {}
    for name, record in records.items():
        row = {}
        for value in names:
            found = record.numbers["per_seed"][value]
            estimate = geometric_mean(found) if value.endswith("ratio") else record.value(value)
            row[value] = shown(estimate, digits=digits)
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def controls(record: CellRecord, graphs: str) -> pd.DataFrame:
    """What the dynamic policy gains over each of its controls."""
    gains = record.numbers["metrics"]["gains over controls"][graphs]
    rows = {name: {"gain, points": percent(gain), "beaten": gain.ci_low > 0} for name, gain in gains.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def usage(records: Mapping[str, CellRecord]) -> pd.DataFrame:
    """What one seed takes: answers of agents in training, distinct calls, tokens."""
    return pd.DataFrame.from_dict(
        {name: record.numbers["usage_of_a_seed"] for name, record in records.items()}, orient="index"
    )


def accuracy_lines(cells: Mapping[float, str], wirings: Sequence[str]) -> dict[str, dict[float, Estimate]]:
    """wiring -> number -> accuracy, from one cell for each number."""
    records = {number: CellRecord.load(name) for number, name in cells.items()}
    return {
        wiring: {number: record.numbers["metrics"]["accuracy"][wiring] for number, record in records.items()}
        for wiring in wirings
    }


def sparsity_rows() -> list[dict[str, Any]]:
    """Accuracy against edges into the decision, for every weight of the sparsity penalty, policy and recipe."""
    rows = []
    for recipe, policy, sparsity in product(RECIPES, ("dynamic", "static"), SPARSITIES):
        found = CellRecord.load(sparsity_cell(recipe, sparsity)).numbers["metrics"]
        wiring = f"{policy}, {JUDGED_ON[recipe]}"
        row = {"recipe": f"{recipe} recipe, {policy}", "sparsity": sparsity}
        edges = found["values"][f"{wiring}: edges"].mean
        rows.append(row | {"num_votes": edges, "accuracy": found["accuracy"][wiring]})
    return rows + best_possible(CellRecord.load("specialized-default"))


def best_possible(record: CellRecord) -> list[dict[str, Any]]:
    """The best numbers of English and Chinese votes where a vote costs so much accuracy, told the question's language.

    They are chosen on the evaluation answers themselves, which makes them an optimistic bound.
    """
    by_votes = {language: np.array(table) for language, table in record.numbers["by_votes"].items()}
    rows = []
    for sparsity in SPARSITIES:
        chosen = {}
        for language, table in by_votes.items():
            edges = np.add.outer(np.arange(table.shape[0]), np.arange(table.shape[1]))
            place = np.unravel_index(np.argmax(table - sparsity * edges), table.shape)
            chosen[language] = (table[place], edges[place])
        accuracy, votes = np.mean(list(chosen.values()), axis=0)
        bound = Estimate(float(accuracy), np.nan, np.nan, record.num_questions)
        row = {"recipe": "best possible, told the language", "sparsity": sparsity}
        rows.append(row | {"num_votes": float(votes), "accuracy": bound})
    return rows


def best_static(record: CellRecord) -> tuple[int, int, float]:
    """The numbers of English and Chinese votes that are best for all questions alike, and their accuracy.

    They are chosen on the evaluation answers themselves, too.
    """
    accuracy = np.mean([np.array(table) for table in record.numbers["by_votes"].values()], axis=0)
    english, chinese = np.unravel_index(np.argmax(accuracy), accuracy.shape)
    return int(english), int(chinese), float(accuracy.max())


def table_2(ledger: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The paper's table beside ours by each recipe, from the rows of results/claims.json: one row a column of it."""
    rows: dict[str, dict[str, Any]] = {}
    for row in ledger:
        part, _, policy = row["claim"].rpartition(", ")
        if policy in ("static", "dynamic"):
            cells = rows.setdefault(part, {})
            cells[f"{policy}, paper"] = row["paper"]
            for name, found in (("published recipe", row), ("default recipe", row["default"])):
                cells[f"{policy}, {name}"] = "not run" if found["ours"] is None else f"{found['ours'].mean:.3g}"
    return pd.DataFrame.from_dict(rows, orient="index")


def verdicts(ledger: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Every claim with its number, ours with intervals, and the verdicts by both recipes."""
    rows = {}
    for row in ledger:
        cells = {"paper": row["paper"]}
        for name, found in (("published recipe", row), ("default recipe", row["default"])):
            number = "" if found["ours"] is None else significant(found["ours"])
            cells |= {name: number, f"verdict, {name}": found["verdict"].split(":")[0]}
        rows[row["claim"]] = cells
    return pd.DataFrame.from_dict(rows, orient="index")
