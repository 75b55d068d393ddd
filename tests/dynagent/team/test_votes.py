"""The vote: counted by hand, and its expectation over all graphs equal to the enumeration of them."""

from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynagent.team.replies import UNPARSABLE
from dynagent.team.votes import NOT_ASKED, MajorityVote

voters = st.lists(st.integers(-2, 3), min_size=1, max_size=7)


def naive_vote(answers, num_options):
    votes = Counter(answer for answer in answers if 0 <= answer < num_options)
    if not votes:
        return [0.0] * num_options
    winners = [option for option, count in votes.items() if count == max(votes.values())]
    return [1 / len(winners) if option in winners else 0.0 for option in range(num_options)]


@given(st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(st.integers(-2, 3), min_size=n, max_size=n), min_size=1)))
def test_the_vote_equals_a_count(rows):
    probs = MajorityVote().option_probs(torch.tensor(rows), 4)
    for row, outcome in zip(rows, probs.tolist(), strict=True):
        assert outcome == pytest.approx(naive_vote(row, 4))
    nested = MajorityVote().option_probs(torch.tensor(rows)[None, :, None], 4)
    assert torch.equal(nested[0, :, 0], probs)


@given(voters, st.randoms())
def test_the_vote_ignores_order_and_who_does_not_vote(answers, random):
    vote = MajorityVote()
    probs = vote.option_probs(torch.tensor(answers), 4)
    more = [*answers, UNPARSABLE, NOT_ASKED, NOT_ASKED]
    random.shuffle(more)
    assert torch.equal(vote.option_probs(torch.tensor(more), 4), probs)
    assert probs.sum() == pytest.approx(float(any(answer >= 0 for answer in answers)))


@pytest.mark.parametrize(
    ("answers", "probs"),
    [
        ([0, 0, 1], [1, 0, 0, 0]),
        ([0, 1], [0.5, 0.5, 0, 0]),
        ([0, 1, 3], [1 / 3, 1 / 3, 0, 1 / 3]),
        ([3, 2, 1, 0], [0.25] * 4),
        ([UNPARSABLE, UNPARSABLE, 2], [0, 0, 1, 0]),
        ([UNPARSABLE, NOT_ASKED], [0] * 4),
    ],
)
def test_the_vote_by_hand(answers, probs):
    assert MajorityVote().option_probs(torch.tensor(answers), 4).tolist() == pytest.approx(probs)


# --- the expectation over graphs


def enumerated(vote_probs: Tensor, answers: Tensor, num_options: int) -> Tensor:
    """The plain sum over all 2^N choices of voters: [C]."""
    total = torch.zeros(num_options, dtype=vote_probs.dtype)
    for heard in product((False, True), repeat=len(answers)):
        votes = torch.tensor(heard)
        probability = torch.where(votes, vote_probs, 1 - vote_probs).prod()
        outcome = naive_vote(torch.where(votes, answers, NOT_ASKED).tolist(), num_options)
        total = total + probability * torch.tensor(outcome, dtype=vote_probs.dtype)
    return total


@st.composite
def teams(draw):
    """Vote probabilities [N], answers [N] (some of them none) and C."""
    num_agents, num_options = draw(st.integers(1, 6)), draw(st.integers(2, 5))
    certain = st.sampled_from([0.0, 1.0])
    probs = draw(st.lists(st.floats(1e-6, 1) | certain, min_size=num_agents, max_size=num_agents))
    answers = draw(st.lists(st.integers(-2, num_options - 1), min_size=num_agents, max_size=num_agents))
    return torch.tensor(probs, dtype=torch.float64), torch.tensor(answers), num_options


@given(teams())
@settings(deadline=None)
def test_the_expected_vote_equals_enumeration(team):
    vote_probs, answers, num_options = team
    expected = MajorityVote().expected_option_probs(vote_probs, answers, num_options)
    torch.testing.assert_close(expected, enumerated(vote_probs, answers, num_options), rtol=0, atol=1e-12)


@given(teams(), st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_its_gradient_is_that_of_the_enumeration(team, seed):
    vote_probs, answers, num_options = team
    weights = torch.rand(num_options, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gradients = []
    for expectation in (MajorityVote().expected_option_probs, enumerated):
        probs = vote_probs.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(expectation(probs, answers, num_options) @ weights, probs)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_the_expected_vote_of_a_batch_is_that_of_each_team():
    generator = torch.Generator().manual_seed(0)
    vote_probs = torch.rand(3, 2, 5, generator=generator, dtype=torch.float64)
    answers = torch.randint(-2, 4, (3, 2, 5), generator=generator)
    batch = MajorityVote().expected_option_probs(vote_probs, answers, 4)
    assert batch.shape == (3, 2, 4)
    for i, j in product(range(3), range(2)):
        one = enumerated(vote_probs[i, j], answers[i, j], 4)
        torch.testing.assert_close(batch[i, j], one, rtol=0, atol=1e-12)


def test_voters_that_are_certain_make_the_vote_itself():
    """With probabilities of 0 and 1 there is one graph."""
    generator = torch.Generator().manual_seed(1)
    votes, answers = torch.rand(50, 7, generator=generator) < 0.6, torch.randint(-1, 5, (50, 7), generator=generator)
    heard = torch.where(votes, answers, NOT_ASKED)
    expected = MajorityVote().expected_option_probs(votes.double(), answers, 5)
    torch.testing.assert_close(expected, MajorityVote().option_probs(heard, 5).double(), rtol=0, atol=1e-7)


def test_the_expected_vote_of_64_agents():
    """Far beyond enumeration: probabilities that with that of no votes sum to 1, in single precision, too."""
    generator = torch.Generator().manual_seed(2)
    vote_probs = torch.rand(20, 64, generator=generator, dtype=torch.float64)
    vote_probs[0], vote_probs[1], vote_probs[2] = 1.0, 0.0, 1e-3
    answers = torch.randint(-1, 4, (20, 64), generator=generator)
    expected = MajorityVote().expected_option_probs(vote_probs, answers, 4)
    assert expected.min() >= 0
    assert expected.max() <= 1 + 1e-12
    nobody = torch.where(answers >= 0, 1 - vote_probs, 1.0).prod(-1)
    torch.testing.assert_close(expected.sum(-1), 1 - nobody, rtol=0, atol=1e-12)
    single = MajorityVote().expected_option_probs(vote_probs.float(), answers, 4)
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-5)
    votes = torch.rand(20_000, 64, generator=generator) < vote_probs[5]
    drawn = MajorityVote().option_probs(torch.where(votes, answers[5], NOT_ASKED), 4).double()
    sigma = drawn.std(0) / 20_000**0.5
    assert ((drawn.mean(0) - expected[5]).abs() < 4 * sigma).all()
