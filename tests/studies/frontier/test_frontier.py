"""Accuracy against tokens: equal spend, equal accuracy, and that a cost of tokens makes learned wirings cheaper."""

import numpy as np
import pytest
import torch

from dynagent.evaluation.statistics import Estimate
from studies.common.record import load_record
from studies.frontier.measure import PRESETS, SETTINGS, against, main, make_case
from studies.frontier.tables import savings_table

SUBJECTS = ["a", "b", "c", "d"]


def of(accuracy, tokens, seeds=3):
    """A wiring with this accuracy on every question of every seed."""
    return np.full((seeds, len(SUBJECTS)), accuracy), np.full(seeds, float(tokens))


WIRINGS = {
    "vote of 1": of(0.5, 100),
    "vote of 2": of(0.6, 200),
    "vote of 3": of(0.65, 300),
    "best single agent": of(0.5, 100),
    "static, cost 0": of(0.655, 240),
    "dynamic, cost 0": of(0.7, 220),
    "dynamic, cost 0.3": of(0.645, 150),
}
VOTES = [name for name in WIRINGS if name.startswith("vote")]


def test_a_wiring_is_compared_with_a_mixture_that_costs_the_same():
    gain, mismatch = against(WIRINGS, VOTES, *WIRINGS["dynamic, cost 0.3"], SUBJECTS)
    assert (gain.mean, mismatch) == pytest.approx((0.645 - 0.55, 0))
    gain, mismatch = against(WIRINGS, ["static, cost 0"], *WIRINGS["dynamic, cost 0"], SUBJECTS)
    assert (gain.mean, mismatch) == pytest.approx((0.7 - 0.655 * 220 / 240, 0))  # one question in twelve unasked
    gain, mismatch = against(WIRINGS, ["vote of 1"], *WIRINGS["vote of 2"], SUBJECTS)
    assert (gain.mean, mismatch) == pytest.approx((0.1, 0.5))  # there is no more to buy, and it says so


def row(difference, spend):
    return {
        "minus full graph": Estimate(*difference, n=4),
        "spend": Estimate(spend, spend - 0.1, spend + 0.1, 4),
    }


def test_the_cheapest_wiring_of_equal_accuracy_is_found():
    wirings = {
        "vote of 1": row((-0.05, -0.07, -0.03), 0.5),
        "vote of 2": row((0.0, 0.0, 0.0), 1.0),
        "static, cost 0": row((0.01, -0.02, 0.04), 0.4),
        "static, cost 0.3": row((-0.01, -0.05, 0.03), 0.2),
    }
    table = savings_table({"here": {"wirings": wirings}})
    assert table.loc["here", "vote"] == "0.0 [-10.0, 10.0] (vote of 2)"
    assert table.loc["here", "static"] == "80.0 [70.0, 90.0] (static, cost 0.3)"
    assert table.loc["here", "dynamic"] == "none"
    strict = savings_table({"here": {"wirings": wirings}}, margin=0.02)
    assert strict.loc["here", "static"] == "60.0 [50.0, 70.0] (static, cost 0)"


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "price"), [("adversaries", 0.6), ("routing", 2.0)])
def test_a_cost_of_tokens_makes_learned_wirings_cheaper(setting, price):
    case = make_case(setting, 0)
    spend = {}
    for cost_weight in (0.0, price):
        votes = case.learn(True, cost_weight)
        scores, tokens = case.value(votes)
        assert scores.shape == tokens.shape == (len(case.eval_questions),)
        spend[cost_weight] = float(tokens.double().mean())
    assert spend[price] < 0.9 * spend[0.0]
    everybody = torch.ones(len(case.eval_questions), len(case.graph.team), dtype=torch.bool)
    assert (case.value(everybody)[1] >= tokens).all()


def test_an_unknown_setting_is_one_sentence(capsys):
    assert main(["--settings", "ruting"]) == 2
    assert capsys.readouterr().err.startswith("dynagent: There is no setting 'ruting'; did you mean 'routing'?")


def test_the_committed_record_has_every_setting_with_twenty_seeds():
    record = load_record("frontier")
    assert set(record.numbers) == set(record.parts) == set(SETTINGS)
    for name, part in record.parts.items():
        assert len(part.seeds) == PRESETS["laptop"]["seeds"] == 20
        assert part.code.dirty is False
        assert max(row.get("spend mismatch", 0) for row in record.numbers[name]["wirings"].values()) <= 0.02
