"""results/learner.json: complete, consistent, and what it has to show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dynagent.evaluation.statistics import Estimate
from studies.common.record import load_record
from studies.common.tables import shown
from studies.worlds.measure import make_record, measure
from studies.worlds.settings import ABLATED, ABLATION, CURVE, RECIPES, SPARSITIES, UNSEEN, Setting, settings

RECORD = load_record("worlds")
ROWS = RECORD.numbers["rows"]
COLUMNS = "world recipe headroom sampled_headroom accuracy best_static best_per_domain num_seeds origin".split()  # noqa: SIM905
COLUMNS += ["expected_edges", "num_train_questions", "num_eval_questions", "agent_calls"]


def rows(part, **wanted):
    return [row for row in ROWS if row["part"] == part and all(row.get(k) == v for k, v in wanted.items())]


def row(part, **wanted):
    (found,) = rows(part, **wanted)
    return found


MEASURED = [row for row in ROWS if row["part"] not in ("controls",) and row["recipe"] != "best possible"]
ADVERSARIAL = [f"adversarial, kind {kind}" for kind in ("colluding", "constant", "wrong")]


def test_every_setting_has_its_row():
    expected = {(s.part, s.world_name, s.recipe, s.sparsity) for s in settings()}
    assert {(r["part"], r["world"], r["recipe"], r["sparsity"]) for r in MEASURED} == expected
    assert len(MEASURED) == len(settings())


@pytest.mark.parametrize("name", COLUMNS)
def test_columns(name):
    assert all(name in row for row in MEASURED)


def test_all_rows_are_of_a_clean_commit_and_ten_seeds():
    assert {row["origin"] for row in ROWS} == RECORD.parts.keys()
    for part in RECORD.parts.values():
        assert re.fullmatch("[0-9a-f]{40}", part.code.commit)
        assert part.code.dirty is False
        assert part.seeds == list(range(10))
    assert all(row["num_seeds"] >= 10 for row in MEASURED)


def test_headroom_is_that_of_the_accuracy():
    for r in MEASURED:
        if not r["world"].startswith("adversarial"):
            expected = (r["accuracy"] - r["best_static"]) / (r["best_per_domain"] - r["best_static"])
            assert r["headroom"].mean == pytest.approx(expected, abs=0.02), (r["world"], r["recipe"])
        assert r["headroom"].ci_low <= r["headroom"].mean <= r["headroom"].ci_high
        assert r["accuracy"] <= r["best_per_domain"] + 1e-9


@pytest.mark.parametrize("world", ["routing", "routing, correlation 0.3", "mixture", "scale"])
def test_there_is_something_to_learn_from_the_question(world):
    r = row("worlds", world=world, recipe="default")
    assert r["best_per_domain"] - r["best_static"] >= 0.05


@pytest.mark.parametrize("world", ["routing", "routing, correlation 0.3", "mixture", "scale", *ADVERSARIAL])
def test_no_recipe_pays_more_than_the_papers(world):
    paper = row("worlds", world=world, recipe="paper")["agent_calls"]
    for recipe in ("sampling", "default"):
        r = row("worlds", world=world, recipe=recipe)
        assert r["agent_calls"] <= paper
        assert r["num_train_questions"] <= 800


TARGETS = [
    ("routing", "default", 0.95),
    ("routing", "sampling", 0.85),
    ("routing, correlation 0.3", "default", 0.85),
    ("mixture", "default", 0.6),
    ("scale", "default", 0.6),
    *((world, "default", 0.95) for world in ADVERSARIAL),
]


@pytest.mark.parametrize(("world", "recipe", "headroom"), TARGETS)
def test_what_has_to_be_learned(world, recipe, headroom):
    assert row("worlds", world=world, recipe=recipe)["headroom"].mean >= headroom


def test_the_right_agents_are_heard():
    r = row("worlds", world="routing", recipe="default")
    assert r["right_edges"] >= 0.9
    assert r["wrong_edges"] <= 0.1
    assert all(row("worlds", world=world, recipe="default")["highest_wrong_edge"] <= 0.1 for world in ADVERSARIAL)


def test_few_questions_suffice():
    assert sorted(r["num_train_questions"] for r in rows("curve", recipe="default")) == [2 * (n // 2) for n in CURVE]
    for r in rows("curve", recipe="default"):
        assert r["num_train_questions"] < 200 or r["headroom"].mean >= 0.9, r["num_train_questions"]


@pytest.mark.parametrize("team", UNSEEN)
def test_unseen_teams_are_served_without_training(team):
    assert row("unseen", world=f"routing, {team}")["headroom"].mean >= 0.8


def test_default_is_nowhere_significantly_below_the_paper():
    for sparsity in SPARSITIES:
        default, paper = (row("sparsity", recipe=recipe, sparsity=sparsity) for recipe in ("default", "paper"))
        assert default["headroom"].ci_high >= paper["headroom"].ci_low


def test_the_ablation_has_its_reference():
    for world in ABLATED:
        assert {r["recipe"] for r in rows("ablation", world=world)} == {"default", *ABLATION}


def test_a_part_that_is_measured_again_leaves_the_others_and_their_origin():
    row = {"part": "curve", "origin": "curve", "headroom": Estimate(0.5, 0.4, 0.6, 3)}
    record = make_record([row], 3, "curve", kept=RECORD)
    assert record.numbers["rows"] == [other for other in ROWS if other["part"] != "curve"] + [row]
    assert record.parts["curve"].command == record.command == "make learner ARGS='--seeds 3 --part curve'"
    assert {name: part for name, part in record.parts.items() if name != "curve"} == {
        name: part for name, part in RECORD.parts.items() if name != "curve"
    }


def test_a_setting_can_be_measured_again():
    setting = Setting("curve", "routing", "default", 50)
    once, again = measure(setting, 3), measure(setting, 3)
    assert once == again
    assert once["agent_calls"] == 8 * 48  # one pass of batches of 4 over 50 questions, each put to 8 agents once


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["default", "sampling", "agent_aware"])
def test_the_routing_world_is_learned_here_too(recipe):
    assert recipe in RECIPES
    assert measure(Setting("worlds", "routing", recipe, 640), 0)["headroom"] >= 0.85


def test_the_documentation_prints_what_is_on_record():
    page = (Path(__file__).resolve().parents[3] / "docs/results.md").read_text(encoding="utf-8").replace("−", "-")
    table = [line.strip("| ").split(" | ") for line in page.splitlines() if re.match(r"\| \w.*\d / \d", line)]
    assert len(table) == 5
    for world, *cells, calls in table:
        for recipe, cell in zip(("paper", "paper, static", "sampling", "default"), cells, strict=True):
            r = row("worlds", world=world, recipe=recipe)
            assert cell == shown(r["headroom"])
        paid = [row("worlds", world=world, recipe=recipe)["agent_calls"] for recipe in ("paper", "default")]
        assert calls == f"{paid[0]:,.0f} / {paid[1]:,.0f}"


def test_the_readme_prints_the_headroom_of_the_routing_world():
    readme = " ".join((Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8").split())
    for recipe in ("default", "paper"):
        assert shown(row("worlds", world="routing", recipe=recipe)["headroom"]) in readme.replace("−", "-")
