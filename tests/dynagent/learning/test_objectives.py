"""Every estimator's mean gradient is the gradient of the expected utility; what differs is the variance."""

from itertools import permutations, product

import pytest
import torch
from torch import Tensor

from dynagent.execution.runner import Runner
from dynagent.execution.utility import MAX_ENUMERATED, enumerated_utility
from dynagent.graph import AgentGraph
from dynagent.learning.baselines import leave_one_out, moving_average
from dynagent.learning.objectives import local_expectation, policy_loss, sparsity_penalty
from dynagent.sampling import edge_noise, sample_dags
from dynagent.team.votes import MajorityVote
from tests.support.toy import Knows, Lucky, ToyQuestion, enumerate_dags, local_expected_utility, naive_outcomes, readers

GRAPH = readers(2)  # 4 potential edges, of which two exclude each other: 12 graphs
LOGITS = torch.tensor([0.4, -0.3, 1.1, -0.8], dtype=torch.float64)
ORDER = [2, 1, 0, 3]


def utility_of(taken: Tensor) -> Tensor:
    """A utility between 1/2 and 1 with no symmetry: [...] from [..., E]."""
    weights = torch.tensor([0.31, -0.17, 0.23, 0.11], dtype=torch.float64)
    return 0.6 + (taken.double() @ weights) * 0.5 + 0.1 * (taken[..., 0] & taken[..., 3])


def expected_utility_gradient(orders) -> Tensor:
    """Of the plain sum over all graphs of probability x utility, the mean over the orders: [E]."""
    logits = LOGITS.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for order in orders:
        for taken, probability in naive_outcomes(GRAPH, logits.sigmoid(), order).items():
            total = total + probability * utility_of(torch.tensor(taken)) / len(orders)
    (gradient,) = torch.autograd.grad(total, logits)
    return gradient


def gradients_of_draws(num_graphs: int, advantages) -> tuple[Tensor, Tensor]:
    """Every way to draw K graphs: probabilities [n] and the gradients of minus the policy loss, [n, E].

    `advantages` maps utilities [1, K] to advantages [1, K].
    """
    logits = LOGITS.clone().requires_grad_()
    every = enumerate_dags(logits, GRAPH, torch.tensor(ORDER).argsort().float())
    probs = every.log_prob.detach().exp()
    weights, gradients = [], []
    for draw in product(range(len(every.taken)), repeat=num_graphs):
        chosen = torch.tensor(draw)
        advantage = advantages(utility_of(every.taken[chosen])[None])
        loss = policy_loss(every.log_prob[chosen][None], advantage)
        (gradient,) = torch.autograd.grad(-loss, logits, retain_graph=True)
        weights.append(probs[chosen].prod())
        gradients.append(gradient)
    return torch.stack(weights), torch.stack(gradients)


def variance(weights: Tensor, gradients: Tensor) -> float:
    """Total variance of a gradient estimate, over all draws."""
    mean = weights @ gradients
    return float(weights @ (gradients - mean).square().sum(1))


@pytest.mark.parametrize("baseline", [0.0, 0.7, -3.0])
def test_mean_gradient_is_that_of_the_expected_utility_whatever_the_constant_baseline(baseline):
    weights, gradients = gradients_of_draws(1, lambda utility: utility - baseline)
    expected = expected_utility_gradient([ORDER])
    assert len(weights) == 12
    assert expected.abs().min() > 1e-3
    torch.testing.assert_close(weights @ gradients, expected, rtol=0, atol=1e-14)


def test_leave_one_out_keeps_the_mean_gradient_and_lowers_its_variance():
    with_baseline = gradients_of_draws(2, lambda utility: utility - leave_one_out(utility))
    without = gradients_of_draws(2, lambda utility: utility)
    expected = expected_utility_gradient([ORDER])
    assert len(with_baseline[0]) == 12**2
    for weights, gradients in (with_baseline, without):
        torch.testing.assert_close(weights @ gradients, expected, rtol=0, atol=1e-14)
    assert variance(*with_baseline) < 0.2 * variance(*without)


def test_the_graphs_own_utility_in_its_baseline_shrinks_the_gradient():
    """Why the graph itself is left out: the mean of all K graphs gives (K - 1) / K of the gradient."""
    weights, gradients = gradients_of_draws(2, lambda utility: utility - utility.mean(1, keepdim=True))
    torch.testing.assert_close(weights @ gradients, expected_utility_gradient([ORDER]) / 2, rtol=0, atol=1e-14)


@pytest.mark.parametrize("order", ["fixed", "random"])
@pytest.mark.parametrize("baseline", ["none", "constant", "leave_one_out"])
def test_sampled_gradient_lies_within_four_sigma_of_the_exact_one(order, baseline):
    num_questions, num_graphs = 10_000, 2
    logits = LOGITS.expand(num_questions, -1).clone().requires_grad_()  # so that each question has its own gradient
    noise = edge_noise(num_questions, num_graphs, 4, torch.Generator().manual_seed(0))
    dags = sample_dags(logits, GRAPH, noise, order=order)
    utility = utility_of(dags.taken)
    subtracted = {"none": 0.0, "constant": 0.7, "leave_one_out": leave_one_out(utility)}[baseline]
    (gradient,) = torch.autograd.grad(-policy_loss(dags.log_prob, utility - subtracted), logits)
    each = gradient * num_questions  # [B, E]
    exact = expected_utility_gradient([range(4)] if order == "fixed" else list(permutations(range(4))))
    sigma = each.std(0) / num_questions**0.5
    assert ((each.mean(0) - exact).abs() < 4 * sigma).all()
    assert (exact.abs() > 8 * sigma).any(), "too few graphs to tell the gradient from zero"


# --- teams whose agents do not read: only who votes matters


VOTE_LOGITS = torch.tensor([0.9, -0.4, 0.2, -1.1], dtype=torch.float64)
EVERY_VOTE = torch.tensor(list(product((False, True), repeat=4)))  # [16, 4]


def utility_of_votes(votes: Tensor) -> Tensor:
    """With interactions of two and three voters and no symmetry: [...] from [..., 4]."""
    first, second, third, fourth = votes.double().unbind(-1)
    together = 0.35 * first * second - 0.25 * second * third + 0.2 * first * third * fourth
    return 0.4 + 0.3 * first + 0.1 * second + 0.15 * third - 0.2 * fourth + together


def expected_vote_gradient() -> Tensor:
    """Of the plain sum over the 16 graphs: [4]."""
    logits = VOTE_LOGITS.clone().requires_grad_()
    probs, total = logits.sigmoid(), torch.zeros((), dtype=torch.float64)
    for votes in EVERY_VOTE:
        total = total + torch.where(votes, probs, 1 - probs).prod() * utility_of_votes(votes)
    (gradient,) = torch.autograd.grad(total, logits)
    return gradient


def estimates_of(name: str, num_graphs: int) -> tuple[Tensor, Tensor]:
    """Every way to draw K graphs: probabilities [n] and the gradient that the estimator makes of each, [n, 4].

    The noise 0 draws an edge and the noise 1 does not, so that the draws are counted and not sampled.
    """
    weights, gradients = [], []
    for draw in product(range(16), repeat=num_graphs):
        logits = VOTE_LOGITS.clone().requires_grad_()
        probs, votes = logits.sigmoid(), EVERY_VOTE[list(draw)][None]  # [1, K, 4]
        weights.append(torch.where(votes, probs, 1 - probs).prod().detach())
        if name == "local_expectation":
            objective = local_expectation(probs[None], utility_of_votes, 1 - votes.double()).mean()
        else:
            utility = utility_of_votes(votes)
            baseline = {"reinforce": 0.0, "moving_average": 0.55}.get(name)
            log_prob = torch.where(votes, probs, 1 - probs).log().sum(-1)
            subtracted = leave_one_out(utility) if baseline is None else baseline
            objective = -policy_loss(log_prob, utility - subtracted)
        gradients.append(torch.autograd.grad(objective, logits)[0])
    return torch.stack(weights), torch.stack(gradients)


@pytest.mark.parametrize(
    ("name", "num_graphs"),
    [
        ("reinforce", 1), ("reinforce", 2), ("moving_average", 1), ("moving_average", 2),
        ("leave_one_out", 2), ("local_expectation", 1), ("local_expectation", 2),
    ],
)  # fmt: skip
def test_mean_gradient_over_every_draw_is_that_of_the_enumeration(name, num_graphs):
    weights, gradients = estimates_of(name, num_graphs)
    expected = expected_vote_gradient()
    assert expected.abs().min() > 1e-2
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(weights @ gradients, expected, rtol=0, atol=1e-12)


def test_enumerated_utility_and_its_gradient_are_those_of_the_plain_sum():
    logits = VOTE_LOGITS.clone().requires_grad_()
    expected_utility = enumerated_utility(logits.sigmoid()[None], utility_of_votes)
    (gradient,) = torch.autograd.grad(expected_utility.sum(), logits)
    probs = VOTE_LOGITS.sigmoid()
    plain = sum(torch.where(votes, probs, 1 - probs).prod() * utility_of_votes(votes) for votes in EVERY_VOTE)
    assert float(expected_utility.detach()) == pytest.approx(float(plain), abs=1e-12)
    torch.testing.assert_close(gradient, expected_vote_gradient(), rtol=0, atol=1e-12)


def test_enumerated_utility_of_a_batch_is_that_of_each_question():
    vote_probs = torch.rand(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    each = torch.cat([enumerated_utility(row[None], utility_of_votes) for row in vote_probs])
    assert torch.equal(enumerated_utility(vote_probs, utility_of_votes), each)


def test_the_variance_falls_from_estimator_to_estimator():
    """For two graphs a question; the exact gradient has none."""
    names = ("local_expectation", "leave_one_out", "reinforce")
    local, compared, plain = (variance(*estimates_of(name, 2)) for name in names)
    assert 0 < 2 * local < compared < plain / 2


def test_without_interactions_the_local_expectation_is_exact():
    """Each edge's gain is then the same whoever else votes."""
    vote_probs = torch.tensor([[0.2, 0.7, 0.5, 0.4]], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([0.3, -0.2, 0.1, 0.05], dtype=torch.float64)
    noise = torch.rand(1, 1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    local_expectation(vote_probs, lambda votes: votes.double() @ weights, noise).sum().backward()
    torch.testing.assert_close(vote_probs.grad[0], weights, rtol=0, atol=1e-14)


class EnumeratedVote:
    """The same vote without its closed form, so that all graphs are enumerated."""

    name = "EnumeratedVote"
    option_probs = MajorityVote.option_probs


def test_the_closed_form_and_the_enumeration_give_one_gradient():
    """`Runner.expected_utility`, with a decision that has a closed form and one that has none."""
    questions = [ToyQuestion(f"q{i}", i % 2, i % 4) for i in range(6)]
    team = [Lucky(0.6), Lucky(0.4), Knows((0,)), Knows((1,))]
    generator = torch.Generator().manual_seed(0)
    num_edges = AgentGraph(team, MajorityVote()).num_edges
    edge_probs = torch.rand(6, num_edges, generator=generator, dtype=torch.float64)
    found = []
    for decision in (MajorityVote(), EnumeratedVote()):
        runner, probs = Runner(AgentGraph(team, decision), seed=3), edge_probs.clone().requires_grad_()
        utility = runner.expected_utility(questions, probs)
        (gradient,) = torch.autograd.grad(utility.sum(), probs)
        assert not gradient[:, ~runner.graph.decision_edges].any()
        found += [utility.detach(), gradient]
    assert not hasattr(EnumeratedVote(), "expected_option_probs")
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1], found[3], rtol=0, atol=1e-6)


def test_local_expectation_of_a_runner_has_the_exact_gradient_on_average():
    questions = [ToyQuestion("q0", 0, 1)] * 4000
    graph = AgentGraph([Lucky(0.6), Lucky(0.4), Knows((0,)), Knows((1,))], MajorityVote())
    runner = Runner(graph, seed=3)
    edge_probs = torch.full((4000, graph.num_edges), 0.4, dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(runner.expected_utility(questions[:1], edge_probs[:1]), edge_probs)
    noise = torch.rand(4000, 2, 4, generator=torch.Generator().manual_seed(0))
    (each,) = torch.autograd.grad(local_expected_utility(runner, questions, edge_probs, noise).sum(), edge_probs)
    each, exact = each[:, graph.decision_edges], exact[0, graph.decision_edges]
    sigma = each.std(0) / 4000**0.5
    assert ((each.mean(0) - exact).abs() < 4 * sigma).all()
    assert (exact.abs() > 8 * sigma).all(), "too few graphs to tell the gradient from zero"


@pytest.mark.parametrize("num_graphs", [1, 2])
def test_the_local_expectation_is_the_expected_utility_on_average(num_graphs):
    """Its gradient apart, it is what a training reports."""
    probs = VOTE_LOGITS.sigmoid()
    total = torch.zeros((), dtype=torch.float64)
    for draw in product(range(16), repeat=num_graphs):
        votes = EVERY_VOTE[list(draw)][None]
        weight = torch.where(votes, probs, 1 - probs).prod()
        total += weight * local_expectation(probs[None], utility_of_votes, 1 - votes.double())[0]
    expected = enumerated_utility(probs[None], utility_of_votes)[0]
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)


def test_too_many_edges_to_enumerate_are_refused():
    def utility_of(votes):
        return votes.double().mean(-1)

    assert MAX_ENUMERATED == 12
    half = torch.full((1, 13), 0.5, dtype=torch.float64)
    assert float(enumerated_utility(half[:, :12], utility_of)) == pytest.approx(0.5)
    with pytest.raises(
        ValueError,
        match=r"at most 12 deciding edges, and these are 13: choose 'local_expectation', or give the decision a "
        r"method expected_option_probs\.$",
    ):
        enumerated_utility(half, utility_of)


# --- the pieces, by hand


def test_the_advantage_is_a_constant():
    log_prob = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    advantage = torch.tensor([[0.5, -0.25]], requires_grad=True)
    loss = policy_loss(log_prob, advantage)
    assert loss.item() == pytest.approx(-(0.5 * -1.0 + -0.25 * -2.0) / 2)
    loss.backward()
    assert log_prob.grad.tolist() == [[-0.25, 0.125]]
    assert advantage.grad is None


def test_leave_one_out_by_hand():
    utility = torch.tensor([[1.0, 0.0, 0.5, 0.25], [0.0, 0.0, 0.0, 1.0]])
    expected = torch.tensor([[0.75 / 3, 1.75 / 3, 1.25 / 3, 1.5 / 3], [1 / 3, 1 / 3, 1 / 3, 0.0]])
    torch.testing.assert_close(leave_one_out(utility), expected)
    for b, k in product(range(2), range(4)):
        others = [float(utility[b, i]) for i in range(4) if i != k]
        assert float(leave_one_out(utility)[b, k]) == pytest.approx(sum(others) / 3)


def test_leave_one_out_needs_two_graphs():
    with pytest.raises(ValueError, match="graphs_per_question to 2 or more"):
        leave_one_out(torch.zeros(4, 1))


def test_moving_average_by_hand():
    average = moving_average(None, torch.tensor(0.5))
    assert float(average) == 0.5
    average = moving_average(average, torch.tensor(1.0))
    assert float(average) == pytest.approx(0.9 * 0.5 + 0.1 * 1.0)
    average = moving_average(average, torch.tensor(0.0), decay=0.5)
    assert float(average) == pytest.approx(0.275)


def test_sparsity_penalty_is_the_expected_number_of_edges():
    """Of a team that does not read, whose graphs are independent coins: counted over all of them."""
    graph = AgentGraph([Knows()] * 2, MajorityVote())
    logits = torch.tensor([[0.3, 1.2, -0.7, 2.0], [-1.0, 0.0, 0.5, -2.0]], dtype=torch.float64)
    for decide, penalised in (("effective", graph.effective), ("all", torch.ones(4, dtype=torch.bool))):
        expected = []
        for row in logits.sigmoid():
            count = 0.0
            for coins in product((0, 1), repeat=4):
                probability = torch.where(torch.tensor(coins) == 1, row, 1 - row).prod()
                count += float(probability) * sum(coin for coin, p in zip(coins, penalised, strict=True) if p)
            expected.append(count)
        assert float(sparsity_penalty(logits.sigmoid(), penalised)) == pytest.approx(sum(expected) / 2), decide
    drawn = [enumerate_dags(row, graph) for row in logits]
    counted = sum(float((d.log_prob.exp() * d.taken.sum(-1)).sum()) for d in drawn) / 2
    assert float(sparsity_penalty(logits.sigmoid(), graph.effective)) == pytest.approx(counted)


def test_gradient_of_the_sparsity_penalty():
    graph = AgentGraph([Knows()] * 2, MajorityVote())
    logits = torch.tensor([[0.3, 1.2, -0.7, 2.0], [-1.0, 0.0, 0.5, -2.0]], dtype=torch.float64, requires_grad=True)
    sparsity_penalty(logits.sigmoid(), graph.effective).backward()
    probs = logits.detach().sigmoid()
    torch.testing.assert_close(logits.grad, probs * (1 - probs) * graph.effective / 2)
