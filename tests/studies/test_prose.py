"""What the README and the notebooks' texts say is on record: every number with an interval, every count of questions.

A sentence may round; it may not contradict. An interval in a text has to be that of an estimate in the records which
the text is about, together with its mean; or of one that is computed from them, by the function that tables call.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest

from dynagent.evaluation.statistics import Estimate
from dynagent.runs.record import Record
from studies.common.numbers import geometric_mean
from studies.crosswords.measure import CELLS
from studies.crosswords.tables import WorldRecord

ROOT = Path(__file__).resolve().parents[2]
# Texts, and the kinds of records that they are about, by how these begin. A run in a notebook's own text is seed 0's.
TEXTS = {
    "README.md": ("",),
    "notebooks/explore.ipynb": ("run",),
    "notebooks/gallery.ipynb": ("idea",),
    "notebooks/learner.ipynb": ("worlds", "benchmarks/tuning"),
    "notebooks/adversarial_agents.ipynb": ("table2/", "ledger"),
    "notebooks/specialized_agents.ipynb": ("table2/", "ledger"),
    "notebooks/edge_reduction.ipynb": ("table2/", "ledger"),
    "notebooks/table2.ipynb": ("table2/", "ledger"),
    "notebooks/crosswords.ipynb": ("crosswords",),
    "notebooks/embedding_ablation.ipynb": ("readings/embedding_ablation",),
    "notebooks/model_size.ipynb": ("readings/model_size",),
    "notebooks/as_released.ipynb": ("released/",),
    "notebooks/communication.ipynb": ("communication",),
    "notebooks/frontier.ipynb": ("frontier",),
}
# What is trained in the notebook itself, in front of the reader.
NOT_ON_RECORD = {"notebooks/your_own.ipynb", "notebooks/train.ipynb"}
NUMBER = r"[+−-]?\d*\.?\d+"
INTERVAL = re.compile(rf"\[({NUMBER}), ({NUMBER})\](?!\()")
BEFORE = 60  # characters before an interval, in which its mean stands
QUESTIONS = re.compile(r"\b(\d[\d,]*) (?:held-out|real|mixed training) (?:\w+ )?questions")


def text_of(name: str) -> str:
    """The text that people wrote: of a notebook its markdown."""
    path = ROOT / name
    if path.suffix == ".md":
        text = path.read_text(encoding="utf-8")
    else:
        cells = nbformat.read(path, 4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.sub(r"\s+", " ", text)


@cache
def records() -> tuple[Record, ...]:
    files = (path for path in (ROOT / "results").rglob("*.json") if path.parent.name not in ("policy", "recordings"))
    return tuple(Record.load(path) for path in files if "runs" not in path.relative_to(ROOT / "results").parts)


def about(kinds: tuple[str, ...]) -> list[Record]:
    return [record for record in records() if record.kind.startswith(kinds)]


def inside(value: Any) -> Iterator[Estimate]:
    if isinstance(value, Estimate):
        yield value
    elif isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from inside(entry)


def estimates(kinds: tuple[str, ...]) -> Iterator[Estimate]:
    """All that stand in the records, and what tables make of them."""
    for record in about(kinds):
        yield from inside(record.numbers)
        if record.kind == "frontier":
            for setting in record.numbers.values():
                spent = (row["spend"] for row in setting["wirings"].values())
                yield from (Estimate(1 - e.mean, 1 - e.ci_high, 1 - e.ci_low, e.n) for e in spent)
        if record.kind.startswith("table2/"):
            for name, values in record.numbers["per_seed"].items():
                if name.endswith("ratio") and None not in values:
                    yield geometric_mean(values)
        if record.kind == "crosswords":
            world = WorldRecord()
            yield from (world.gain(cell) for cell in CELLS)
            yield later_seeds(world)


def later_seeds(world: WorldRecord) -> Estimate:
    """The gain on seeds that nothing was chosen on: all but the first two."""
    dynamic, static = (world.scores("default, self_judged", policy)[2:, :, 0] for policy in ("dynamic", "static"))
    return world.estimate(dynamic - static)


def is_said(low: str, high: str, means: list[str], estimate: Estimate) -> bool:
    """Whether an interval as it is written, and one of the numbers before it, are the estimate's; in % or as it is."""
    return any(
        is_rounded(low, scale * estimate.ci_low)
        and is_rounded(high, scale * estimate.ci_high)
        and any(is_rounded(mean, scale * estimate.mean) for mean in means)
        for scale in (1, 100)
    )


def is_rounded(text: str, number: float) -> bool:
    """Whether the text is the number with as many digits as it has; of what lies in the middle either way."""
    half = 0.5 * 10 ** -len(text.partition(".")[2])
    return abs(float(text.replace("−", "-")) - number) <= half + 1e-9


@pytest.mark.parametrize("name", TEXTS)
def test_every_interval_in_a_text_is_on_record(name):
    text, known = text_of(name), list(estimates(TEXTS[name]))
    wrong = []
    for found in INTERVAL.finditer(text):
        before = text[max(0, found.start() - BEFORE) : found.start()]
        means = re.findall(rf"(?<![\d.,]){NUMBER}(?![\d,]*\d)", before)
        if not any(is_said(*found.groups(), means, estimate) for estimate in known):
            wrong.append(before[-30:] + found[0])
    assert wrong == []


@pytest.mark.parametrize("name", TEXTS)
def test_every_number_of_questions_in_a_text_is_on_record(name):
    known = {given.n for record in about(TEXTS[name]) for origin in (record, *record.parts.values())
             for given in origin.questions.values()}  # fmt: skip
    known |= {int(row["num_eval_questions"]) for record in about(TEXTS[name]) for row in record.numbers.get("rows", [])
              if "num_eval_questions" in row}  # fmt: skip
    said = {int(number.replace(",", "")) for number in QUESTIONS.findall(text_of(name))}
    assert said <= known


def test_texts_with_numbers_are_all_looked_at():
    """Where a notebook states an interval, it is among the texts above."""
    with_intervals = {
        f"notebooks/{path.name}"
        for path in (ROOT / "notebooks").glob("*.ipynb")
        if INTERVAL.search(text_of(f"notebooks/{path.name}"))
    }
    assert with_intervals <= set(TEXTS) | NOT_ON_RECORD


@pytest.mark.parametrize("wrong", ["+2.6 [+0.8, +4.5]", "+2.5 [+0.8, +4.4]", "0.025 [0.008, 0.046]"])
def test_a_number_that_is_not_on_record_is_found(wrong):
    """The gain of the specialists by our default recipe is +2.5 [+0.8, +4.5] points."""
    gain = Estimate(0.02471, 0.007896, 0.04478, 1000)
    found = INTERVAL.search(wrong)
    assert not is_said(*found.groups(), [wrong.split()[0]], gain)
    assert is_said("+0.8", "+4.5", ["+2.5"], gain)
    assert is_said("0.008", "0.045", ["20", ".025"], gain)
