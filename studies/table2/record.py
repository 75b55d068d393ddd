"""Records of the cells of Table 2: one JSON file and one file of arrays each, in results/experiments."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynagent.artefacts.downloads import write_file
from dynagent.evaluation.clustered import clustered_interval
from dynagent.evaluation.controls import CONTROLS, explanation
from dynagent.evaluation.statistics import Estimate, seed_interval
from dynagent.runs.paths import project_root, resolve_path
from dynagent.runs.record import code_version, environment
from studies.common.numbers import plain
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


@dataclass(frozen=True)
class CellRecord:
    """What is on record of a cell.

    Attributes:
        name: of the cell.
        data: the JSON file.
        scores: wiring -> [seeds, n].
        utility: policy -> [seeds, iterations].
        subjects: [n], language and subject of every evaluation question.
    """

    name: str
    data: dict[str, Any]
    scores: dict[str, np.ndarray]
    utility: dict[str, np.ndarray]
    subjects: np.ndarray

    @classmethod
    def load(cls, name: str, folder: Path | None = None) -> CellRecord:
        """Read a cell's two files.

        Raises:
            ValueError: if they are missing, damaged, or not of one run.
        """
        folder = folder or resolve_path(FOLDER)
        again = f"`python -m studies.table2 {name}` makes them"
        try:
            data = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            arrays = (folder / f"{name}.npz").read_bytes()
        except (OSError, ValueError):
            raise ValueError(f"The records of the cell {name} in {folder} are missing or damaged: {again}.") from None
        if hashlib.sha256(arrays).hexdigest() != data.get("arrays_sha256"):
            raise ValueError(f"The two records of the cell {name} in {folder} are not of one run: {again} anew.")
        with np.load(io.BytesIO(arrays)) as found:
            parts: dict[str, dict[str, np.ndarray]] = {"scores": {}, "utility": {}}
            for key in found.files:
                if "|" in key:
                    part, _, key_in_part = key.partition("|")
                    parts[part][key_in_part] = found[key].astype(float)
            return cls(name, data, parts["scores"], parts["utility"], found["subjects"])

    def accuracy(self, wiring: str, language: str = "") -> Estimate:
        """Accuracy of a wiring with its interval over seeds and subjects; in one language, if given."""
        return self._interval(self.scores[wiring], language)

    def difference(self, one: str, other: str, language: str = "") -> Estimate:
        """Accuracy of one wiring minus that of another, paired on the same questions."""
        return self._interval(self.scores[one] - self.scores[other], language)

    def _interval(self, values: np.ndarray, language: str) -> Estimate:
        chosen = np.char.startswith(self.subjects, f"{language}/" if language else "")
        return clustered_interval(values[:, chosen], self.subjects[chosen].tolist())

    def value(self, name: str) -> Estimate:
        """A number that each seed gives once: mean and interval over seeds."""
        return seed_interval(self.data["per_seed"][name])


def parameters_of(cell: Cell) -> dict[str, Any]:
    """What a cell's seeds have in common."""
    return {name: value for name, value in cell.config().identity().items() if name != "seed"}


def write(measured: Measured) -> None:
    """Write the record of a cell."""
    ((cell, measurements),) = measured.outcomes.items()
    write_cell(cell, measurements, measured.path.parent, measured.command, measured.seconds)


def write_cell(cell: Cell, measurements: Sequence[Measurement], folder: Path, command: str, seconds: float) -> None:
    """Write a cell's two files; the JSON file comes last and knows the other's hash, so that both are there or none."""
    folder.mkdir(parents=True, exist_ok=True)
    about = dict(measurements[0].about)
    subjects = np.array(about.pop("subjects"))
    scores = _stacked([one.scores for one in measurements])
    utility = _stacked([one.utility for one in measurements])
    buffer = io.BytesIO()
    arrays = {f"scores|{name}": value.astype(np.float16) for name, value in scores.items()}
    arrays |= {f"utility|{name}": value.astype(np.float16) for name, value in utility.items()}
    np.savez_compressed(buffer, allow_pickle=False, subjects=subjects, **arrays)
    record = CellRecord(cell.name, {}, scores, utility, subjects)
    values = {name: [one.values[name] for one in measurements] for name in measurements[0].values}
    data = {
        "cell": cell.name,
        "recipe": cell.recipe,
        "parameters": parameters_of(cell),
        "seeds": list(range(len(measurements))),
        "command": command,
        "code": code_version(),
        "environment": environment(),
        "arrays_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        **about,
        "metrics": metrics(record, values),
        "per_seed": values,
        "utility": {name: _band(value) for name, value in utility.items()},
        "edge_probs": _mean_of_nested([one.edge_probs for one in measurements]),
        "by_votes": _mean_of_nested([{"accuracy": one.by_votes} for one in measurements])["accuracy"],
        "usage_of_a_seed": {name: round(float(np.mean([one.usage[name] for one in measurements])))
                            for name in measurements[0].usage},
        "timing": {"seconds": round(seconds, 1)},
    }  # fmt: skip
    lines = [f" {json.dumps(key)}: {json.dumps(plain(value), ensure_ascii=False)}" for key, value in data.items()]
    write_file(folder / f"{cell.name}.npz", [buffer.getvalue()])
    write_file(folder / f"{cell.name}.json", [("{\n" + ",\n".join(lines) + "\n}\n").encode()])


def metrics(record: CellRecord, values: Mapping[str, list[float]]) -> dict[str, Any]:
    """Accuracies and differences with intervals over seeds and subjects; other numbers with intervals over seeds."""
    languages = sorted({subject.split("/")[0] for subject in record.subjects.tolist()})
    found: dict[str, Any] = {"accuracy": {name: record.accuracy(name) for name in record.scores}}
    if len(languages) > 1:
        found["accuracy by language"] = {
            name: {language: record.accuracy(name, language) for language in languages} for name in record.scores
        }
    found["differences"] = {
        f"{one} - {other}": record.difference(one, other)
        for one, other in DIFFERENCES
        if one in record.scores and other in record.scores
    }
    if f"{CONTROLS[0]}, sampled" in record.scores:
        gains = {
            kind: {name: record.difference(f"dynamic, {kind}", f"{name}, {kind}") for name in CONTROLS}
            for kind in GRAPHS
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


def readable_record(name: str) -> str:
    """Where a cell's record is, from the project's root."""
    return str((resolve_path(FOLDER) / f"{name}.json").relative_to(project_root()))
