"""The estimators' mean gradient is the gradient of the expected utility, with and without a baseline."""

from itertools import permutations, product

import pytest
import torch
from torch import Tensor
from toy import Knows, enumerate_dags, naive_outcomes, one_thread, readers  # noqa: F401

from dynagent.agents import MajorityVote
from dynagent.estimators import leave_one_out, moving_average, policy_loss, sparsity_penalty
from dynagent.graph import AgentGraph
from dynagent.sampling import edge_noise, sample_dags

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
