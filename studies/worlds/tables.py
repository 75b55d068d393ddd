"""The rows of the known-answer worlds as a table, and those of training the language model itself."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dynagent.evaluation.statistics import Estimate
from dynagent.runs.record import Record


def frame(record: Record) -> pd.DataFrame:
    """One row a row of the record, each with the commit that measured it.

    Of "headroom", "gain" and other estimates the mean has the estimate's name; the bounds of the interval are in the
    columns "ci_low" and "ci_high", and with the prefix "sampled_" those of the sampled graphs.
    """
    rows = []
    for row in record.numbers["rows"]:
        cells: dict[str, Any] = {}
        for name, value in row.items():
            if isinstance(value, Estimate):
                prefix = "sampled_" if name.startswith("sampled_") else ""
                cells |= {name: value.mean, f"{prefix}ci_low": value.ci_low, f"{prefix}ci_high": value.ci_high}
            else:
                cells[name] = value
        rows.append(cells | {"commit": record.parts[row["origin"]].code.commit})
    return pd.DataFrame(rows)
