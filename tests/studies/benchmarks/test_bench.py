"""The committed results/bench.json has the form that `make bench` gives it, and all that it has to have."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from dynagent.runs.paths import project_root
from studies.benchmarks.figure import PANELS, plot_costs
from studies.benchmarks.rows import MARKS, Row, between_marks, exponent, in_turn, markdown, meets, row, table
from studies.common.record import load_record

ROOT = project_root()
RECORD = load_record("benchmarks/costs")
ROWS = RECORD.numbers["rows"]
FIELDS = {"name", "value", "unit", "goal", "reference", "ratio", "low", "high", "num_samples", "compared_with"} | {
    "against", "at", "line", "met", "part",
}  # fmt: skip
# Beginning of the name, goal, and how many rows there are.
WITH_GOALS = (
    ("iteration, 16 agents: edges that matter", "<= 3", 3),
    ("iteration, 16 agents: all edges", "<= 15", 2),
    ("200 iterations, dynamic, 8 + 8 agents", "<= 3", 5),
    ("drawing one graph of 128 agents, all edges", "<= 20", 1),
    ("drawing one graph of two dense cliques, 44 agents", "<= 20", 1),
    ("LLM calls / distinct LLM calls, 8 + 8 agents", "== 1", 1),
    ("LLM calls / distinct LLM calls, 4 + 4 simulated agents that read", "== 1", 1),
    ("backbone forwards / distinct questions", "== 1", 2),
    ("features, tokens/s / a bare loop", ">= 0.95", 1),
    ("option scoring, tokens/s / a bare loop with the same shared prefixes", ">= 0.95", 1),
    ("option scoring, tokens/s / a bare loop over whole texts", "> 1", 1),
    ("memory of 1,000 questions x 64 agents", "<= 200", 4),
)
POINTS = {
    ("agents", "drawing a graph"): [8, 16, 32, 64, 128, 256],
    ("agents", "edges that matter, default recipe"): [4, 8, 16, 32, 64],
    ("agents", "all edges, one graph"): [4, 8, 16, 32, 64],
    ("questions", "training, one pass"): [100, 400, 800, 1600, 4000],
    ("questions", "evaluation"): [100, 400, 800, 1600, 4000],
    ("processes", "LoRA on SmolLM2-135M"): [1, 2],
    ("processes", "the head, features cached"): [1, 2],
}


def named(beginning: str) -> list[dict[str, Any]]:
    return [one for one in ROWS if one["name"].startswith(beginning)]


@pytest.mark.parametrize(("beginning", "goal", "number"), WITH_GOALS)
def test_every_goal_has_its_rows(beginning, goal, number):
    assert [one["goal"] for one in named(beginning)] == [goal] * number


def test_no_other_row_has_a_goal():
    assert sum(bool(one["goal"]) for one in ROWS) == sum(number for *_, number in WITH_GOALS)


@pytest.mark.parametrize(("against", "line"), POINTS)
def test_every_line_of_the_figure_has_its_points(against, line):
    found = [one for one in ROWS if (one["against"], one["line"]) == (against, line)]
    assert [one["at"] for one in found] == POINTS[against, line]
    assert all(one["low"] <= one["value"] <= one["high"] for one in found)


def test_the_figure_draws_lines_that_are_there():
    drawn = {(against, line) for _, against, _, lines in PANELS for line in lines}
    assert drawn <= {(one["against"], one["line"]) for one in ROWS}
    assert {against for against, _ in drawn} == {"agents", "questions", "processes"}


@pytest.mark.parametrize("one", ROWS, ids=lambda one: one["name"])
def test_a_row_is_whole(one):
    assert set(one) == FIELDS
    assert math.isfinite(one["value"])
    assert one["value"] > 0
    assert one["met"] == meets(one["value"], one["goal"])
    assert (one["reference"] is None) == (one["ratio"] is None) == (one["compared_with"] == "")
    if one["reference"] is not None:
        assert one["ratio"] == pytest.approx(one["value"] / one["reference"], rel=1e-2)
    if one["num_samples"] > 1:
        assert one["low"] <= one["value"] <= one["high"]


def test_names_are_unique():
    # The same option scoring is measured twice, beside two bare loops.
    names = [one["name"] for one in ROWS if one["name"] != "option scoring, tokens/s"]
    assert len(names) == len(set(names))


def test_the_record_says_where_it_comes_from():
    assert {"processor", "num_cpus", "memory_gb"} <= RECORD.environment.hardware.keys()
    assert {"torch", "transformers", "accelerate"} <= RECORD.environment.packages.keys()
    assert {one["part"] for one in ROWS} == set(RECORD.parts)


@pytest.mark.parametrize("part", RECORD.parts)
def test_a_part_says_when_it_was_measured_and_how(part):
    found = RECORD.parts[part]
    assert found.parameters["clock"] in ("wall", "cpu")
    assert re.fullmatch("[0-9a-f]{40}", found.code.commit)
    assert re.match(r"\d{4}-\d\d-\d\dT", found.timing["saved_at"])
    assert found.timing["load_before"] >= 0


def test_the_documented_table_is_the_record_s():
    found = between_marks((ROOT / "docs/benchmarks.md").read_text(encoding="utf-8"))
    assert found == markdown(ROWS), "`make bench` writes the table; it was changed by hand, or the record was"


# --- how rows are made


@pytest.mark.parametrize(
    ("value", "goal", "verdict"),
    [(3.0, "<= 3", True), (3.01, "<= 3", False), (0.95, ">= 0.95", True), (0.94, ">= 0.95", False),
     (1.0, "== 1", True), (1.001, "== 1", False), (1.001, "> 1", True), (1.0, "> 1", False), (7.0, "", None)],
)  # fmt: skip
def test_verdicts(value, goal, verdict):
    assert meets(value, goal) is verdict


@pytest.mark.parametrize("goal", ["< 3", "3", "<=3", "about 3", ">= x"])
def test_a_goal_that_cannot_be_read_is_an_error(goal):
    with pytest.raises(ValueError, match="A goal is written like"):
        meets(1.0, goal)


def test_a_row_has_the_median_and_the_quartiles():
    found = row("name", [5.0, 1.0, 3.0, 2.0, 4.0], "ms", goal="<= 2", reference=6.0)
    assert (found.value, found.low, found.high, found.num_samples) == (3.0, 2.0, 4.0, 5)
    assert found.ratio == 0.5
    assert found.to_dict()["met"] is False
    assert Row("name", 1 / 3, "").to_dict()["value"] == 0.3333


def test_functions_are_timed_in_turn():
    order: list[str] = []
    took = in_turn([lambda: order.append("a"), lambda: order.append("b")], repeats=3)
    assert order == ["a", "b"] * 4
    assert took.shape == (3, 2)
    assert (took >= 0).all()


def test_the_exponent_of_a_power_is_found():
    sizes = np.array([8, 16, 32, 256])
    assert exponent(sizes, 0.3 * sizes**1.7) == pytest.approx(1.7)


def made() -> Sequence[dict[str, Any]]:
    met = Row("fast", 2.0, "ms", "<= 3", reference=15_500.0, compared_with="the released code")
    return [one.to_dict() for one in (met, Row("slow", 4.0, "ms", "<= 3"), Row("without a goal", 1.0, "s"))]


def test_tables_show_verdicts():
    text = table(made())
    assert ["met" in line for line in text.splitlines()] == [True, False, False]
    assert ["MISSED" in line for line in text.splitlines()] == [False, True, False]
    assert markdown(made()).splitlines()[2:] == ["| fast | ≤ 3 | 2 ms | 15,500 |", "| slow | ≤ 3 | 4 ms (missed) |  |"]


def test_the_table_is_put_between_its_marks():
    text = f"before\n{MARKS[0]}old\n{MARKS[1]}\nafter"
    assert between_marks(text) == "old\n"
    assert between_marks(text, "new\n") == f"before\n{MARKS[0]}new\n{MARKS[1]}\nafter"
    assert between_marks("no marks", "new") is None


def test_the_figure_shows_medians_and_the_released_code():
    panels = plot_costs(ROWS).axes
    assert [ax.get_xlabel() for ax in panels] == ["agents", "agents", "questions", "processes"]
    shown = panels[0].get_lines()
    drawn = {one["at"]: one for one in ROWS if one["line"] == "drawing a graph"}
    for line in (shown[0], shown[-1]):
        field = "reference" if line is shown[-1] else "value"
        assert [*line.get_xdata()] == [*drawn]
        assert [*line.get_ydata()] == [one[field] for one in drawn.values()]
