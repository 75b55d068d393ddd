"""Votes that meet unparsable replies: their rules by hand, their expectations by enumeration."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from dynagent.team.replies import UNPARSABLE
from dynagent.team.votes import NOT_ASKED, MajorityVote
from studies.released.unparsable import RULES, BlankVote, Garbled, VoidedVote, expected_accuracy, garbled
from tests.support.unparsable import Asked, questions, team


def test_one_unparsable_reply_voids_the_vote_or_is_a_blank():
    answers = torch.tensor([[1, 1, UNPARSABLE], [1, NOT_ASKED, NOT_ASKED], [1, UNPARSABLE, UNPARSABLE], [2, 2, 2]])
    assert MajorityVote().option_probs(answers, 4)[:, 1].tolist() == [1, 1, 1, 0]
    assert VoidedVote().option_probs(answers, 4)[:, 1].tolist() == [0, 1, 0, 0]
    assert BlankVote().option_probs(answers, 4)[:, 1].tolist() == [1, 1, 0, 0]
    assert BlankVote().option_probs(torch.tensor([1, UNPARSABLE]), 4).tolist() == [0, 0.5, 0, 0], "a tie with it"


@pytest.mark.parametrize("rule", RULES)
def test_the_closed_form_is_the_sum_over_all_graphs(rule):
    decision = RULES[rule]()
    generator = torch.Generator().manual_seed(1)
    answers = torch.randint(-1, 4, (20, 5), generator=generator)
    probs = torch.rand(20, 5, generator=generator, dtype=torch.float64)
    expected = torch.zeros(20, 4, dtype=torch.float64)
    for votes in product((False, True), repeat=5):
        mask = torch.tensor(votes)
        weight = torch.where(mask, probs, 1 - probs).prod(-1, keepdim=True)
        expected += weight * decision.option_probs(torch.where(mask, answers, NOT_ASKED), 4)
    torch.testing.assert_close(decision.expected_option_probs(probs, answers, 4), expected)


@pytest.mark.parametrize(("rule", "expected"), [("no vote", 1 - 0.2**2), ("voids", 0.8**2), ("blank", 0.8**2 + 0.16)])
def test_expected_accuracy_of_two_agents_who_are_both_right(rule, expected):
    """Blank: one unparsable of two is a tie, half of .32."""
    answers = torch.tensor([[2, 2]])
    assert float(expected_accuracy(answers, torch.tensor([2]), 0.2, rule)) == pytest.approx(expected)


def test_an_agent_is_unparsable_at_its_rate_and_otherwise_as_accurate_as_before():
    question, agent = questions()[0], Garbled(Asked(0.8), 0.25)
    answers = torch.tensor([agent.answer(question, None, (i + 0.5) / 4000) for i in range(4000)])
    assert (answers == UNPARSABLE).float().mean() == pytest.approx(0.25)
    assert (answers == question.answer)[answers != UNPARSABLE].float().mean() == pytest.approx(0.8, abs=2e-3)


def test_an_agent_without_a_language_model_is_never_unparsable():
    wrapped = garbled(team(), 0.5)
    assert [isinstance(agent, Garbled) for agent in wrapped] == [True, True, True, False]
    assert wrapped[0].group == "toy"
    assert wrapped[0].tells_truth(questions()[0])
