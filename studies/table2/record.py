"""Records of the cells of Table 2, each with its arrays, in results/experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynagent.evaluation.controls import CONTROLS, explanation
from dynagent.evaluation.statistics import Estimate, clustered_interval, seed_interval
from dynagent.runs.record import Record
from studies.common.numbers import plain
from studies.common.record import load_record, record_path
from studies.common.study import Measured
from studies.table2.cell import Cell
from studies.table2.measure import GRAPHS, Measurement

FOLDER = "results/experiments"
# Differences of accuracy, paired on the same questions.
_PAIRS = (("dynamic", "static"), ("dynamic", "untrained"), ("static", "untrained"))
DIFFERENCES = (
    *((f"{one}, {kind}", f"{other}, {kind}") for kind in GRAPHS for one, other in _PAIRS),
    ("dynamic, most probable", "full graph"),
    ("truthful agents only (told)", "static, most probable"),
)


class CellRecord:
    """What is on record of a cell, with its arrays.

    Attributes:
        name: of the cell.
        record: parameters, seeds and numbers, and where they are from.
        scores: wiring -> [seeds, n].
        utility: policy -> [seeds, iterations].
        subjects: [n], language and subject of every evaluation question.
    """

    def __init__(self, record: Record, arrays: Mapping[str, np.ndarray]) -> None:
        self.record = record
        self.name = record.kind.removeprefix("table2/")
        self.scores, self.utility = (
            {key.removeprefix(part): array.astype(float) for key, array in arrays.items() if key.startswith(part)}
            for part in ("scores|", "utility|")
        )
        self.subjects = arrays["subjects"]

    @classmethod
    def load(cls, name: str, folder: str | Path = "") -> CellRecord:
        """Read a cell's record and its arrays.

        Raises:
            ValueError: if they are missing, damaged, or not of one run.
        """
        kind = f"table2/{name}"
        record = load_record(kind, folder)
        return cls(record, record.read_arrays(record_path(kind, folder).parent))

    @property
    def numbers(self) -> dict[str, Any]:
        """What came out: metrics, values of each seed, mean edge probabilities."""
        return self.record.numbers

    @property
    def num_seeds(self) -> int:
        return self.record.num_seeds

    @property
    def num_questions(self) -> int:
        """Of the held-out questions."""
        return self.record.questions["evaluation"].n

    def accuracy(self, wiring: str, language: str = "") -> Estimate:
        """Accuracy of a wiring with its interval over seeds and subjects; in one language, if given."""
        return interval(self.scores[wiring], self.subjects, language)

    def difference(self, one: str, other: str, language: str = "") -> Estimate:
        """Accuracy of one wiring minus that of another, paired on the same questions."""
        return interval(self.scores[one] - self.scores[other], self.subjects, language)

    def value(self, name: str) -> Estimate:
        """A number that each seed gives once: mean and interval over seeds."""
        return seed_interval(self.numbers["per_seed"][name])


def interval(values: np.ndarray, subjects: np.ndarray, language: str = "") -> Estimate:
    """Mean of [seeds, n] with its interval over seeds and subjects; in one language, if given."""
    chosen = np.char.startswith(subjects, f"{language}/" if language else "")
    return clustered_interval(values[:, chosen], subjects[chosen].tolist())


def parameters_of(cell: Cell) -> dict[str, Any]:
    """What a cell's seeds have in common."""
    return {name: value for name, value in cell.config().identity().items() if name != "seed"}


def write(measured: Measured) -> None:
    """Write the record of a cell."""
    ((cell, measurements),) = measured.outcomes.items()
    write_cell(cell, measurements, measured)


def write_cell(cell: Cell, measurements: Sequence[Measurement], measured: Measured) -> None:
    """Write a cell's record and its arrays, both or none."""
    about = measurements[0].about
    subjects = np.array(about["subjects"])
    scores = _stacked([one.scores for one in measurements])
    utility = _stacked([one.utility for one in measurements])
    values = {name: [one.values[name] for one in measurements] for name in measurements[0].values}
    usage = {name: [one.usage[name] for one in measurements] for name in measurements[0].usage}
    numbers = {
        "recipe": cell.recipe,
        "groups": about["groups"],
        "metrics": metrics(scores, subjects, values),
        "per_seed": values,
        "utility": {name: _band(value) for name, value in utility.items()},
        "edge_probs": _mean_of_nested([one.edge_probs for one in measurements]),
        "by_votes": _mean_of_nested([{"accuracy": one.by_votes} for one in measurements])["accuracy"],
        "usage_of_a_seed": {name: round(float(np.mean(of_seeds))) for name, of_seeds in usage.items()},
    }
    record = Record.make(
        **measured.origin(),
        parameters=parameters_of(cell),
        inputs=about["inputs"],
        questions=about["questions"],
        numbers=plain(numbers),
    )
    arrays = {f"scores|{name}": value.astype(np.float16) for name, value in scores.items()}
    arrays |= {f"utility|{name}": value.astype(np.float16) for name, value in utility.items()}
    record.save(measured.path, {"subjects": subjects} | arrays)


def metrics(
    scores: Mapping[str, np.ndarray], subjects: np.ndarray, values: Mapping[str, list[float]]
) -> dict[str, Any]:
    """Accuracies and differences with intervals over seeds and subjects; other numbers with intervals over seeds.

    Args:
        scores: wiring -> [seeds, n].
        subjects: [n], language and subject of every question.
    """

    def difference(one: str, other: str) -> Estimate:
        return interval(scores[one] - scores[other], subjects)

    languages = sorted({subject.split("/")[0] for subject in subjects.tolist()})
    found: dict[str, Any] = {"accuracy": {name: interval(of, subjects) for name, of in scores.items()}}
    if len(languages) > 1:
        found["accuracy by language"] = {
            name: {language: interval(of, subjects, language) for language in languages} for name, of in scores.items()
        }
    found["differences"] = {
        f"{one} - {other}": difference(one, other) for one, other in DIFFERENCES if one in scores and other in scores
    }
    if f"{CONTROLS[0]}, sampled" in scores:
        gains = {
            kind: {name: difference(f"dynamic, {kind}", f"{name}, {kind}") for name in CONTROLS} for kind in GRAPHS
        }
        found["gains over controls"] = gains
        found["explanation"] = {kind: explanation(of) for kind, of in gains.items()}
    return found | {"values": {name: seed_interval(of) for name, of in values.items()}}


def _stacked(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def _band(utility: np.ndarray) -> dict[str, list[float]]:
    """Mean of every iteration over seeds, with its interval: from [seeds, iterations]."""
    estimates = [seed_interval(column) for column in utility.T]
    return {name: [getattr(e, name) for e in estimates] for name in ("mean", "ci_low", "ci_high")}


def _mean_of_nested(parts: Sequence[Mapping[str, Mapping[str, np.ndarray]]]) -> dict[str, dict[str, Any]]:
    return {
        outer: {inner: np.mean([part[outer][inner] for part in parts], axis=0).tolist() for inner in of}
        for outer, of in parts[0].items()
    }
