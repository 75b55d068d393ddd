"""An objective's contribution of a batch is the plain formula's, values and gradients; what it refuses, and when."""

from __future__ import annotations

import ast
from itertools import product
from pathlib import Path

import pytest
import torch

from dynagent.execution.runner import Runner
from dynagent.graph import AgentGraph
from dynagent.learning.batch import QuestionBatch
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.learning.many_seeds import SeedsBatch
from dynagent.learning.objectives import OBJECTIVES
from dynagent.policies.static import StaticEdgePolicy
from dynagent.sampling import edge_noise
from dynagent.team.votes import MajorityVote
from tests.support.toy import EXPECTATIONS, Knows, Lucky, chain, toy_questions, utilities_of_subsets

ROOT = Path(__file__).resolve().parents[3]
QUESTIONS = toy_questions(5, share_of_kind_1=0.4)
DRAWING = [name for name in OBJECTIVES if name not in EXPECTATIONS]
AVERAGE = torch.tensor(0.3, dtype=torch.float64)


def voters() -> AgentGraph:
    return AgentGraph([Knows((0,)), Knows((1,)), Lucky(0.6)], MajorityVote())


def readers() -> AgentGraph:
    return AgentGraph([Knows((0,), reads=True), Knows((1,)), Lucky(0.6, reads=True)], MajorityVote())


def batch_of(graph: AgentGraph, num_graphs: int, **options) -> QuestionBatch:
    noise = edge_noise(len(QUESTIONS), num_graphs, graph.num_edges, torch.Generator().manual_seed(2)).double()
    return QuestionBatch(QUESTIONS, noise, Runner(graph), graph, TrainConfig(**{"sparsity": 0.1} | options))


def logits_of(graph: AgentGraph) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(QUESTIONS), graph.num_edges, generator=generator, dtype=torch.float64).requires_grad_()


def assert_same_loss(loss, logits, plain, plain_logits):
    torch.testing.assert_close(loss, plain, rtol=0, atol=1e-7)
    loss.backward()
    plain.backward()
    assert plain_logits.grad.abs().max() > 1e-3
    torch.testing.assert_close(logits.grad, plain_logits.grad, rtol=0, atol=1e-7)


# --- graphs that are drawn


@pytest.mark.parametrize("name", DRAWING)
@pytest.mark.parametrize(("decide", "order"), [("effective", "random"), ("all", "fixed")])
def test_reinforce_is_minus_the_mean_of_advantage_times_log_probability(name, decide, order):
    graph = readers()
    batch = batch_of(graph, 4, decide=decide, order=order)
    logits, plain_logits = logits_of(graph), logits_of(graph)
    contribution = OBJECTIVES[name](logits, batch, AVERAGE)
    draws = batch.draw(plain_logits)
    utility, probs = draws.utility, plain_logits.sigmoid()
    plain = torch.zeros((), dtype=torch.float64)
    for b, k in product(range(5), range(4)):
        others = [float(utility[b, i]) for i in range(4) if i != k]
        baseline = {
            "reinforce": 0.0, "constant_baseline": 0.4, "moving_average": 0.3, "leave_one_out": sum(others) / 3
        }[name]  # fmt: skip
        plain = plain - (float(utility[b, k]) - baseline) * draws.log_prob[b, k] / 20
        assert float(contribution.baseline[b, k]) == pytest.approx(baseline)
    decided = graph.effective | torch.tensor(decide == "all")
    for b in range(5):
        plain = plain + 0.1 * probs[b][decided].sum() / 5
    assert 0 < utility.mean() < 1
    assert_same_loss(contribution.loss, logits, plain, plain_logits)


def test_the_average_is_zero_before_the_first_batch():
    graph = voters()
    first = OBJECTIVES["moving_average"](logits_of(graph), batch_of(graph, 4))
    assert torch.equal(first.baseline, torch.zeros(5, 4, dtype=torch.float64))
    assert torch.equal(first.loss, OBJECTIVES["reinforce"](logits_of(graph), batch_of(graph, 4)).loss)


# --- expectations


def plain_expectation(graph: AgentGraph, logits: torch.Tensor) -> torch.Tensor:
    """Over all choices of voters, one after the other: [5]."""
    probs = logits[:, graph.decision_edges].sigmoid()
    utilities = utilities_of_subsets(graph, QUESTIONS).double()  # [5, 8]
    total = torch.zeros(5, dtype=torch.float64)
    for subset, votes in enumerate(product((False, True), repeat=3)):
        weight = torch.where(torch.tensor(votes), probs, 1 - probs).prod(1)
        total = total + weight * utilities[:, subset]
    return total


def test_the_exact_expectation_is_the_sum_over_all_graphs():
    graph = voters()
    logits, plain_logits = logits_of(graph), logits_of(graph)
    contribution = OBJECTIVES["exact"](logits, batch_of(graph, 0))
    expected = plain_expectation(graph, plain_logits)
    penalty = 0.1 * plain_logits.sigmoid()[:, graph.decision_edges].sum(1).mean()
    torch.testing.assert_close(contribution.utility[:, 0], expected.detach(), rtol=0, atol=1e-7)
    assert_same_loss(contribution.loss, logits, penalty - expected.mean(), plain_logits)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "exact"])
def test_every_other_objective_has_the_exact_gradient_on_average(name):
    """By 60,000 graphs a question, within a few of their standard errors."""
    graph = voters()
    estimated, exact = logits_of(graph), logits_of(graph)
    OBJECTIVES[name](estimated, batch_of(graph, 60_000), AVERAGE).loss.backward()
    OBJECTIVES["exact"](exact, batch_of(graph, 0)).loss.backward()
    assert exact.grad.abs().max() > 0.02
    assert (estimated.grad - exact.grad).abs().max() < 2e-3


# --- of both kinds


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_but_the_loss_is_without_gradient(name):
    graph = voters()
    num_graphs = OBJECTIVES[name].num_graphs(4)
    contribution = OBJECTIVES[name](logits_of(graph), batch_of(graph, num_graphs), AVERAGE)
    k = 1 if name in EXPECTATIONS else 4
    assert contribution.loss.requires_grad
    assert (contribution.utility.shape, contribution.baseline.shape) == ((5, k), (5, k))
    assert (contribution.edge_probs.shape, contribution.reaching.shape) == ((5, graph.num_edges), (5, k, 3))
    rest = (contribution.utility, contribution.baseline, contribution.edge_probs, contribution.reaching)
    assert not any(tensor.requires_grad for tensor in rest)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_seeds_on_an_axis_of_their_own_contribute_what_each_does_by_itself(name):
    objective, generator = OBJECTIVES[name], torch.Generator().manual_seed(0)
    num_graphs = objective.num_graphs(4)
    logits = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    noise = torch.rand(2, 5, num_graphs, 2, 3, generator=generator, dtype=torch.float64)
    ballots = Runner(voters()).ballots(QUESTIONS, torch.device("cpu"))
    everybody = torch.ones(3, dtype=torch.bool)

    def contribution(of_logits, of_noise, votes, average):
        leaf = of_logits.clone().requires_grad_()
        result = objective(leaf, SeedsBatch(of_noise, votes, everybody, 0.1), average)
        result.loss.sum().backward()
        return result, leaf.grad

    def stacked(number):
        pair = [getattr(ballots, number)] * 2
        return torch.stack(pair)

    together = type(ballots)(ballots.decision, stacked("answers"), stacked("right"), ballots.num_options)
    averages = torch.tensor([0.2, 0.5], dtype=torch.float64)
    both, gradient = contribution(logits, noise, together, averages)
    assert both.loss.shape == (2,)
    for seed in range(2):
        one = slice(seed, seed + 1)
        alone = type(ballots)(ballots.decision, ballots.answers[None], ballots.right[None], ballots.num_options)
        result, of_seed = contribution(logits[one], noise[one], alone, averages[one])
        torch.testing.assert_close(both.loss[one], result.loss, rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient[one], of_seed, rtol=0, atol=1e-12)


# --- what an objective says of itself, and refuses


def test_what_the_objectives_say_of_themselves():
    assert list(OBJECTIVES) == [
        "reinforce", "constant_baseline", "moving_average", "leave_one_out", "local_expectation", "exact"
    ]  # fmt: skip
    assert [name for name, o in OBJECTIVES.items() if not o.takes_readers] == ["local_expectation", "exact"]
    assert [name for name, o in OBJECTIVES.items() if o.stays_on_device] == ["local_expectation", "exact"]
    assert [name for name, o in OBJECTIVES.items() if o.compares_graphs] == ["leave_one_out"]
    assert [name for name, o in OBJECTIVES.items() if o.is_published] == ["reinforce"]
    assert {name: o.num_graphs(7) for name, o in OBJECTIVES.items()} == dict.fromkeys(OBJECTIVES, 7) | {"exact": 0}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_single_graph_is_refused_by_the_objective_that_compares(name):
    if name != "leave_one_out":
        assert TrainConfig(estimator=name, graphs_per_question=1).graphs_per_question == 1
        return
    with pytest.raises(ValueError, match=r"set graphs_per_question to 2 or more \(it is 1\), or choose another"):
        TrainConfig(estimator=name, graphs_per_question=1)


class Dictator:
    """The first agent decides; there is no closed form."""

    name = "Dictator"

    def option_probs(self, answers, num_options):
        return (answers[..., :1, None] == torch.arange(num_options)).double().squeeze(-2)


@pytest.mark.parametrize(
    ("name", "team", "decision", "message"),
    [
        ("exact", [Knows(reads=True)], MajorityVote(), "that do not read each other: choose 'leave_one_out' for this"),
        ("local_expectation", [Knows(), Knows(reads=True)], MajorityVote(), "that do not read each other"),
        ("exact", [Knows()] * 13, Dictator(), "at most 12 deciding edges, and these are 13"),
    ],
)
def test_a_team_that_cannot_be_trained_is_refused_before_anybody_is_asked(name, team, decision, message):
    class Unasked(Runner):
        def prepare(self, questions):
            raise AssertionError("somebody was asked")

    graph = AgentGraph(team, decision)
    with pytest.raises(ValueError, match=message):
        train(StaticEdgePolicy.for_graph(graph), graph, QUESTIONS, TrainConfig(estimator=name), runner=Unasked(graph))


@pytest.mark.parametrize("name", DRAWING)
def test_drawn_graphs_take_every_team(name):
    for graph in (readers(), AgentGraph([chain(2), chain(3)], MajorityVote()), AgentGraph([Knows()] * 13, Dictator())):
        OBJECTIVES[name].check_graph(graph)


def test_no_other_file_tests_for_an_estimators_name():
    """They ask the object: nothing compares an attribute or a variable `estimator` with a text."""
    comparisons = []
    for path in [*(ROOT / "dynagent").rglob("*.py"), *(ROOT / "studies").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                parts = list(ast.walk(node))
                names = {getattr(part, "attr", getattr(part, "id", None)) for part in parts}
                texts = {part.value for part in parts if isinstance(part, ast.Constant)} & set(OBJECTIVES)
                if "estimator" in names and texts:
                    comparisons.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert comparisons == []
