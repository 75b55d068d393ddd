"""Training: steps by hand, a world whose optimum is known, seeds, several processes, numbers that are none."""

import math
import re
from dataclasses import dataclass
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode

from dynagent.evaluation.evaluate import compare_wirings, evaluate
from dynagent.execution.runner import Runner
from dynagent.execution.utility import Ballots
from dynagent.graph import AgentGraph
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.learning.objectives import OBJECTIVES
from dynagent.learning.order import data_order
from dynagent.learning.watch import LOOK_EVERY
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.static import StaticEdgePolicy
from dynagent.runs.build import build_policy
from dynagent.runs.config import RunConfig
from dynagent.sampling import edge_noise
from dynagent.team.votes import MajorityVote
from tests.support.toy import (
    EXPECTATIONS,
    Knows,
    Lucky,
    ToyPolicy,
    decision_subsets,
    expected_utility,
    in_two_processes,
    readers,
    toy_graph,
    toy_questions,
    train_with_every_estimator,
    utilities_of_subsets,
)

DRAWING = [name for name in OBJECTIVES if name not in EXPECTATIONS]


class Spy(Runner):
    """Remembers what it ran and averaged, and can give utilities of its own."""

    def __init__(self, graph, utility_at=None, seed=0):
        super().__init__(graph, seed)
        self.questions, self.adjacency, self.utility = [], [], []
        self.averaged = []  # questions of the expectations
        self.utility_at = utility_at or {}  # by the number of the call

    def run(self, questions, adjacency):
        outcome = super().run(questions, adjacency)
        if (value := self.utility_at.get(len(self.utility))) is not None:
            outcome.utility.fill_(value)
        self.questions.append([question.id for question in questions])
        self.adjacency.append(adjacency.cpu())
        self.utility.append(outcome.utility)
        return outcome

    def ballots(self, questions, device):
        ballots = super().ballots(questions, device)
        value = self.utility_at.get(len(self.averaged))
        self.averaged.append([question.id for question in questions])
        return ballots if value is None else Dictated(**vars(ballots), value=value)


@dataclass(frozen=True, kw_only=True)
class Dictated(Ballots):
    """Votes whose utility is off by a value."""

    value: float

    def utility(self, votes):
        return super().utility(votes) + self.value

    def expected_utility(self, vote_probs):
        return super().expected_utility(vote_probs) + self.value


def fit(policy, graph, questions, runner=None, **options):
    """A training on drawn graphs, unless another estimator is named."""
    config = TrainConfig(**({"estimator": "leave_one_out"} | options))
    return train(policy, graph, questions, config, runner=runner, accelerator=Accelerator(cpu=True))


def mixed_graph() -> AgentGraph:
    """Agents that read and agents that do not, with luck of their own."""
    return AgentGraph([Knows((0,), reads=True), Lucky(0.6), Lucky(0.3, reads=True)], MajorityVote())


# --- a step, by hand -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", DRAWING)
def test_steps_are_those_of_the_plain_formula(estimator):
    """minus mean (utility - baseline) x sum of log p or log (1 - p), plus the penalty; then a step of Adam."""
    graph, questions = AgentGraph([Lucky(0.6), Lucky(0.4), Lucky(0.5)], MajorityVote()), toy_questions(40)
    policy, runner = StaticEdgePolicy.for_graph(graph, 0.4).double(), Spy(graph)
    logits = policy.edge_logits.detach().clone()
    options = {"num_iterations": 3, "batch_size": 5, "graphs_per_question": 4, "learning_rate": 0.1, "sparsity": 0.03}
    history = fit(policy, graph, questions, runner, estimator=estimator, **options)
    first, second = torch.zeros_like(logits), torch.zeros_like(logits)  # Adam's moments
    average = 0.0
    for step, (row, utility) in enumerate(zip(history.rows, runner.utility, strict=True), start=1):
        probs, gradient = logits.sigmoid(), torch.zeros_like(logits)
        subtracted = torch.full((5, 4), {"moving_average": average, "constant_baseline": 0.4}.get(estimator, 0.0))
        for b in range(5):
            for k in range(4):
                if estimator == "leave_one_out":
                    subtracted[b, k] = sum(float(utility[b, i]) for i in range(4) if i != k) / 3
                for edge, (source, target) in enumerate(graph.potential_edges.tolist()):
                    if target == graph.decision_node:
                        score = float(runner.adjacency[step - 1][b, k, source, target]) - probs[edge]
                        gradient[edge] -= float(utility[b, k] - subtracted[b, k]) * score / 20
        gradient += 0.03 * probs * (1 - probs) * graph.decision_edges
        assert gradient[graph.decision_edges].abs().min() > 1e-4
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        logits -= 0.1 * first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        assert row["gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-5)
        assert row["utility"] == pytest.approx(float(utility.mean()))
        assert row["baseline"] == pytest.approx(float(subtracted.mean()))
        average = float(utility.mean()) if step == 1 else 0.9 * average + 0.1 * float(utility.mean())
    torch.testing.assert_close(policy.edge_logits.detach(), logits, rtol=0, atol=1e-5)


def enumerated_gradient(logits, graph, questions):
    """Of the utility averaged over every choice of voters and over the questions: [E]."""
    subsets = decision_subsets(graph)[:, graph.decision_edges]  # [S, N]
    logits = logits.clone().requires_grad_()
    probs = logits[graph.decision_edges].sigmoid()
    weights = torch.where(subsets, probs, 1 - probs).prod(-1)  # [S]
    (weights @ utilities_of_subsets(graph, questions).mean(0).double()).backward()
    return logits.grad


def local_gradient(logits, graph, questions, noise):
    """For each voter the gain of hearing it, the others being drawn by the noise [B, K, N]: [E]."""
    voters = graph.decision_edges.nonzero().flatten()
    probs, gradient = logits.sigmoid(), torch.zeros_like(logits)
    drawn = noise < probs[voters]  # [B, K, N]
    for place, edge in enumerate(voters.tolist()):
        utilities = []
        for heard in (True, False):
            edges = torch.zeros(*noise.shape[:2], graph.num_edges, dtype=torch.bool)
            edges[..., voters] = drawn
            edges[..., edge] = heard
            utilities.append(Runner(graph).run(questions, graph.adjacency(edges)).utility)
        gradient[edge] = probs[edge] * (1 - probs[edge]) * (utilities[0] - utilities[1]).mean()
        assert place < noise.shape[-1]
    return gradient


@pytest.mark.parametrize("estimator", EXPECTATIONS)
def test_steps_of_an_expectation_are_those_of_the_plain_formula(estimator):
    """By stochastic gradient descent, so that a step is the gradient itself."""
    graph, questions = AgentGraph([Lucky(0.6), Lucky(0.4), Lucky(0.5)], MajorityVote()), toy_questions(40)
    policy = StaticEdgePolicy.for_graph(graph, 0.4).double()
    logits = policy.edge_logits.detach().clone()
    options = {"batch_size": 5, "graphs_per_question": 4, "learning_rate": 0.5, "optimizer": "sgd", "sparsity": 0.03}
    config = TrainConfig(estimator=estimator, **options)
    history = train(policy, graph, questions, config, accelerator=Accelerator(cpu=True))
    generator = config.generator("graphs")
    assert len(history.rows) == 8
    for row, indices in zip(history.rows, data_order(40, config).tolist(), strict=True):
        batch = [questions[i] for i in indices]
        noise = edge_noise(5, 4, graph.num_edges, generator)[:, :, 0][..., graph.decision_edges]
        probs = logits.sigmoid()
        if estimator == "exact":
            gradient = enumerated_gradient(logits, graph, batch)
            expected = expected_utility(probs.expand(5, -1), graph, batch)
            assert row["utility"] == pytest.approx(expected, abs=1e-6)
        else:
            gradient = local_gradient(logits, graph, batch, noise)
        gradient = gradient - 0.03 * probs * (1 - probs) * graph.decision_edges
        assert row["gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-4)
        assert row["baseline"] == 0
        logits = logits + 0.5 * gradient
    assert (logits - policy.edge_logits.detach()).abs().max() < 1e-5
    assert float(history.rows[-1]["gradient_norm"]) > 1e-2
    assert (logits[graph.decision_edges] - logits[0]).abs().max() > 0.1, "the policy has moved"


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1.0] * 8),
        ("linear", [1 - step / 8 for step in range(8)]),
        ("cosine", [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]),
    ],
)
def test_a_schedule_scales_the_step(schedule, factors):
    graph, questions = AgentGraph([Lucky(0.6), Lucky(0.4), Lucky(0.5)], MajorityVote()), toy_questions(40)
    policy = StaticEdgePolicy.for_graph(graph).double()
    logits = policy.edge_logits.detach().clone()
    options = {"batch_size": 5, "learning_rate": 2.0, "optimizer": "sgd", "schedule": schedule}
    fit(policy, graph, questions, estimator="exact", **options)
    for factor, indices in zip(factors, data_order(40, TrainConfig(batch_size=5)).tolist(), strict=True):
        gradient = enumerated_gradient(logits, graph, [questions[i] for i in indices])
        logits = logits + 2.0 * factor * gradient
    torch.testing.assert_close(policy.edge_logits.detach(), logits, rtol=0, atol=1e-5)


def test_auto_is_one_pass_over_the_questions():
    graph, questions = toy_graph(), toy_questions(26)
    runner = Spy(graph)
    history = fit(StaticEdgePolicy.for_graph(graph), graph, questions, runner, num_iterations="auto", batch_size=4)
    assert len(history.rows) == len(runner.questions) == 6
    asked = list(chain.from_iterable(runner.questions))
    assert len(asked) == len(set(asked)) == 24


# --- early stopping


class Watched(Spy):
    """Remembers the weights at every look at the held-out questions, the only graphs that "exact" runs."""

    def __init__(self, graph, policy, scores=None):
        super().__init__(graph)
        self.policy, self.scores, self.weights = policy, scores, []

    def run(self, questions, adjacency):
        self.weights.append({name: value.clone() for name, value in self.policy.state_dict().items()})
        outcome = super().run(questions, adjacency)
        if self.scores:
            outcome.utility.fill_(self.scores.get(len(self.weights) - 1, 0.3))
        return outcome


def stopped_early(graph, questions, scores=None, **options):
    policy = ToyPolicy.for_graph(graph)
    runner = Watched(graph, policy, scores)
    options = {"estimator": "exact", "num_iterations": 60, "early_stopping": 0.25, "learning_rate": 0.1} | options
    history = fit(policy, graph, questions, runner, **options)
    return policy, runner, history


def test_early_stopping_gives_back_the_weights_of_the_best_moment():
    """The first of the best ones, whatever came later; the utilities are dictated."""
    policy, runner, history = stopped_early(toy_graph(), toy_questions(40), {4: 0.6, 11: 0.8, 13: 0.8, 19: 0.7})
    assert len(history.rows) == 60
    assert len(runner.weights) == 20
    for name, value in policy.state_dict().items():
        assert torch.equal(value, runner.weights[11][name]), name
    assert not any(torch.equal(policy.head.bias, runner.weights[i]["head.bias"]) for i in (4, 13, 19))


def test_early_stopping_looks_at_the_most_probable_graphs_of_the_held_out_questions():
    graph, questions = toy_graph(), toy_questions(40)
    policy, runner, _ = stopped_early(graph, questions)
    scores = [float(utility.mean()) for utility in runner.utility]
    assert len(set(scores)) > 1
    assert all(set(asked) == set(runner.questions[0]) and len(asked) == 10 for asked in runner.questions)
    held_out = [question for question in questions if question.id in runner.questions[0]]
    edges = policy.edge_logits_of(held_out) > 0
    outcome = Runner(graph).run(held_out, graph.adjacency(edges & graph.decision_edges)[:, None])
    assert float(outcome.utility.mean()) == max(scores)


@pytest.mark.parametrize("num_iterations", [60, "auto"])
def test_early_stopping_never_trains_on_held_out_questions(num_iterations):
    questions = toy_questions(42)
    _, runner, history = stopped_early(toy_graph(), questions, num_iterations=num_iterations)
    trained_on, held_out = set(chain.from_iterable(runner.averaged)), set(runner.questions[0])
    assert not trained_on & held_out
    assert len(held_out) == 10
    assert len(history.rows) == (60 if num_iterations == 60 else 32 // 4)
    assert len(trained_on) == 32


def test_without_early_stopping_no_question_is_held_out():
    policy, runner, _ = stopped_early(toy_graph(), toy_questions(40), early_stopping=0)
    assert runner.weights == []
    assert len(set(chain.from_iterable(runner.averaged))) == 40
    assert policy.head.weight.abs().max() > 0


def test_held_out_questions_depend_on_the_seed():
    chosen = [frozenset(stopped_early(toy_graph(), toy_questions(40), seed=s)[1].questions[0]) for s in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


@pytest.mark.parametrize("estimator", EXPECTATIONS)
def test_an_expectation_of_agents_that_read_is_refused(estimator):
    """Edges between agents would matter, too, and their gradient would be missing."""
    graph = mixed_graph()
    message = (
        "The estimators 'exact' and 'local_expectation' are for agents that do not read each other: choose "
        "'leave_one_out' for this team."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit(StaticEdgePolicy.for_graph(graph), graph, toy_questions(8), estimator=estimator)


@pytest.mark.parametrize("kind", [ToyPolicy, StaticEdgePolicy])
def test_number_of_edges_is_that_of_the_policy_that_drew_the_graphs(kind):
    """Expected before the step, like the row's utility, whatever the policy."""
    graph, questions = toy_graph(), toy_questions(12)
    policy = kind(4 * 3 + 4, 0.3) if kind is StaticEdgePolicy else kind.for_graph(graph, initial_probability=0.3)
    (row,) = fit(policy, graph, questions, num_iterations=1, learning_rate=0.5).rows
    assert row["num_edges"] == pytest.approx(4 * 0.3)


def test_moving_average_starts_at_zero_and_follows_the_utilities():
    graph, questions = mixed_graph(), toy_questions(40)
    runner = Spy(graph)
    policy = StaticEdgePolicy.for_graph(graph)
    history = fit(policy, graph, questions, runner, estimator="moving_average", num_iterations=12)
    assert history.column("utility") == pytest.approx([float(utility.mean()) for utility in runner.utility])
    expected, average = [0.0], None
    for utility in history.column("utility"):
        average = utility if average is None else 0.9 * average + 0.1 * utility
        expected.append(average)
    assert history.column("baseline") == pytest.approx(expected[:-1])
    assert history.column("iteration") == list(range(12))


@pytest.mark.parametrize(
    ("decide", "penalise", "falls_on"),
    [
        ("effective", "decided", "effective"),
        ("all", "decided", "all"),
        ("all", "effective", "effective"),
        ("effective", "all", "all"),
    ],
)
def test_the_penalty_falls_on_the_edges_that_are_decided_or_named(decide, penalise, falls_on):
    """With equal utilities nothing else moves the logits."""
    graph, questions = AgentGraph([Lucky(0.5)] * 3, MajorityVote()), toy_questions(8)
    runner = Spy(graph, {0: 0.5})
    policy = StaticEdgePolicy.for_graph(graph, 0.3)
    choice = {"decide": decide, "penalise": penalise}
    history = fit(policy, graph, questions, runner, num_iterations=1, sparsity=0.2, learning_rate=0.01, **choice)
    num_penalised = 9 if falls_on == "all" else 3
    assert history.rows[0]["gradient_norm"] == pytest.approx(0.2 * 0.3 * 0.7 * num_penalised**0.5, rel=1e-5)
    moved = policy.edge_logits.detach() - StaticEdgePolicy.for_graph(graph, 0.3).edge_logits.detach()
    expected = torch.where(graph.decision_edges | (falls_on == "all"), -0.01, 0.0)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6)


# --- a world whose optimum is known ----------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", OBJECTIVES)
def test_a_dynamic_policy_solves_a_world_that_no_static_graph_can(estimator):
    graph, questions = toy_graph(), toy_questions(40)
    best_static = float(utilities_of_subsets(graph, questions).mean(0).max())
    assert best_static == pytest.approx(0.7)

    dynamic = ToyPolicy.for_graph(graph)
    logits = dynamic.edge_logits_of(questions)
    before = expected_utility(logits.sigmoid(), graph, questions)
    options = {"estimator": estimator, "num_iterations": 150, "batch_size": 8, "learning_rate": 0.1}
    history = fit(dynamic, graph, questions, **options)
    probs = dynamic.edge_logits_of(questions).sigmoid()
    after = expected_utility(probs, graph, questions)
    assert before < best_static
    assert after > 0.95
    evaluation = evaluate(dynamic, graph, questions, num_graphs=100)
    assert evaluation.accuracy.mean == pytest.approx(after, abs=4 * 0.5 / 4000**0.5)
    shuffled = evaluate(dynamic, graph, questions, num_graphs=100, shuffle=True)
    assert shuffled.accuracy.mean < best_static
    late = history.column("utility")[-30:]
    assert sum(late) / len(late) > 0.9

    static = StaticEdgePolicy.for_graph(graph)
    fit(static, graph, questions, **options)
    probs = static.edge_logits_of(questions).sigmoid()
    assert best_static - 0.02 < expected_utility(probs, graph, questions) <= best_static


def test_training_on_a_single_question():
    """The smallest run there is."""
    graph = toy_graph()
    policy = ToyPolicy.for_graph(graph)
    history = fit(policy, graph, toy_questions(1), num_iterations=2, batch_size=1)
    assert all(parameter.isfinite().all() for parameter in policy.parameters())
    assert len(history.rows) == 2


# --- seeds -----------------------------------------------------------------------------------------------------------


def trajectory(seed: int):
    graph, questions = mixed_graph(), toy_questions(30)
    policy = ToyPolicy.for_graph(graph, head_init="default", init_seed=seed)
    state = torch.get_rng_state()
    history = fit(policy, graph, questions, num_iterations=12, graphs_per_question=4, seed=seed)
    assert torch.equal(torch.get_rng_state(), state), "training draws nothing from the global generator"
    return history.rows, torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])


def test_the_same_seed_gives_the_same_trajectory_to_the_bit():
    torch.manual_seed(1)
    rows, weights = trajectory(3)
    torch.manual_seed(2)  # nothing hangs on the global generator
    same_rows, same_weights = trajectory(3)
    assert same_rows == rows
    assert torch.equal(same_weights, weights)
    other_rows, other_weights = trajectory(4)
    assert other_rows != rows
    assert not torch.isclose(other_weights, weights).all()


def test_data_order_passes_over_all_questions_anew():
    config = TrainConfig(num_iterations=14, batch_size=5, seed=2)
    order = data_order(20, config)
    assert order.shape == (14, 5)
    passes = order.flatten()[:60].view(3, 20)
    for one in passes:
        assert sorted(one.tolist()) == list(range(20))
    assert len({tuple(one.tolist()) for one in passes}) == 3
    assert not torch.equal(order, data_order(20, TrainConfig(num_iterations=14, batch_size=5, seed=3)))
    longer = TrainConfig(num_iterations=30, batch_size=5, seed=2)
    assert torch.equal(data_order(20, longer)[:14], order)


def test_number_of_graphs_does_not_change_the_order_of_the_questions():
    graph, questions = toy_graph(), toy_questions(30)
    orders = []
    for num_graphs in (2, 7):
        runner = Spy(graph)
        policy = StaticEdgePolicy.for_graph(graph)
        fit(policy, graph, questions, runner, num_iterations=15, graphs_per_question=num_graphs, seed=6)
        orders.append(runner.questions)
    assert orders[0] == orders[1]
    config = TrainConfig(num_iterations=15, seed=6)
    assert orders[0] == [[questions[i].id for i in row] for row in data_order(30, config).tolist()]


def test_graphs_depend_on_neither_the_questions_nor_the_agents_luck():
    """As long as the policy does not move, which a tiny learning rate sees to."""
    drawn = []
    for num_questions, agent_seed in ((30, 0), (77, 9)):
        graph = mixed_graph()
        runner = Spy(graph, seed=agent_seed)
        policy = StaticEdgePolicy.for_graph(graph)
        fit(policy, graph, toy_questions(num_questions), runner, num_iterations=6, learning_rate=1e-9, seed=6)
        drawn.append(torch.stack(runner.adjacency))
    assert torch.equal(drawn[0], drawn[1])
    other = Spy(graph)
    fit(StaticEdgePolicy.for_graph(graph), graph, toy_questions(30), other, num_iterations=6, seed=7)
    assert not torch.equal(torch.stack(other.adjacency), drawn[0])


def test_an_agents_luck_is_its_own():
    """It depends on the seed, the question and the agent's position, and is right as often as it should be."""
    graph, questions = AgentGraph([Lucky(0.7)] * 2, MajorityVote()), toy_questions(2000)
    full = graph.full().expand(2000, 1, -1, -1)
    answers = Runner(graph, 1).run(questions, full).answers
    assert torch.equal(Runner(graph, 1).run(questions[::-1], full).answers.flip(0), answers)
    assert not torch.equal(Runner(graph, 2).run(questions, full).answers, answers)
    right = (answers[:, 0] == torch.tensor([question.answer for question in questions])[:, None]).double()  # [n, N]
    sigma = (0.7 * 0.3 / 2000) ** 0.5
    assert (right.mean(0) - 0.7).abs().max() < 4 * sigma
    together = float((right[:, 0] * right[:, 1]).mean())
    assert together == pytest.approx(0.49, abs=4 * (0.49 * 0.51 / 2000) ** 0.5)


def test_no_two_streams_share_a_seed(monkeypatch):
    """Neither of one run (initialisation, data and graphs, evaluation) nor of runs with neighbouring seeds."""
    seeds: list[int] = []

    class Recording(torch.Generator):
        def manual_seed(self, seed):
            seeds.append(seed)
            return super().manual_seed(seed)

    def on_toy_features(backbone, graph, **options):
        return ToyPolicy.for_graph(graph, **options)

    monkeypatch.setattr(torch, "Generator", Recording)
    monkeypatch.setattr(EdgePolicy, "from_backbone", on_toy_features)
    graph, questions = toy_graph(), toy_questions(8)
    used: dict[int, str] = {}
    for seed in range(6):
        config = RunConfig(seed=seed, num_iterations=1, head_init="default")
        stages: dict[str, set[int]] = {}
        for stage in ("init", "training", "evaluation"):
            seeds.clear()
            if stage == "init":
                policy = build_policy(config, graph)
            elif stage == "training":
                train(policy, graph, questions, config, accelerator=Accelerator(cpu=True))
                assert len(set(seeds)) == 2, "data order and graphs"
            else:
                compare_wirings({"learned": policy}, questions, Runner(graph, seed), config)
            stages[stage] = set(seeds)
        for stage, numbers in stages.items():
            for number in numbers:
                assert number not in used, f"{stage} of seed {seed} draws the numbers of {used[number]}"
                used[number] = f"{stage} of seed {seed}"


# --- several processes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> list[dict]:
    """What each of two processes made of the same trainings."""
    return in_two_processes(
        tmp_path_factory.mktemp("processes"), "tests.support.toy.train_with_every_estimator((1, 3))"
    )


@pytest.fixture(scope="module")
def one_process() -> dict:
    return train_with_every_estimator((1, 2, 6))


TRAININGS = [f"{estimator}/{policy}" for estimator in OBJECTIVES for policy in ("ToyPolicy", "StaticEdgePolicy")]
VARIED = [name for name in TRAININGS if name.startswith(("moving_average", "exact"))]
METRICS = ("utility", "baseline", "num_edges", "num_reaching", "gradient_norm")


def assert_same(found: dict, expected: dict, tolerance: float = 1e-9) -> None:
    """The same weights, and the same metrics in each of 20 iterations."""
    assert len(expected["rows"]) == 20
    for name, weights in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weights, rtol=0, atol=tolerance)
    for metric in METRICS:
        metrics = [row[metric] for row in expected["rows"]]
        assert [row[metric] for row in found["rows"]] == pytest.approx(metrics, abs=tolerance), metric


@pytest.mark.parametrize("training", TRAININGS)
def test_two_processes_take_the_steps_of_one(training, one_process, two_processes):
    assert (one_process["num_processes"], two_processes[0]["num_processes"]) == (1, 2)
    for process in two_processes:
        assert_same(process[training], one_process[training])


@pytest.mark.parametrize("training", VARIED)
def test_in_single_precision_two_processes_differ_by_rounding(training, one_process, two_processes):
    """2e-6 after 20 steps, of weights around 1: a float's 6e-8 for each sum and step, and some room."""
    for process in two_processes:
        assert_same(process[f"{training}/float32"], one_process[f"{training}/float32"], tolerance=2e-6)


@pytest.mark.parametrize("steps", [2, 6])
@pytest.mark.parametrize("training", VARIED)
def test_micro_batches_add_up_to_their_batch(training, steps, one_process):
    assert_same(one_process[f"{training}/{steps}"], one_process[training])


@pytest.mark.parametrize("training", VARIED)
def test_micro_batches_of_two_processes_add_up_to_the_batch(training, one_process, two_processes):
    for process in two_processes:
        assert_same(process[f"{training}/3"], one_process[training])


def test_a_micro_batch_is_what_goes_through_the_model_at_once():
    """That is what it costs in memory."""
    graph, sizes = toy_graph(), []
    policy = ToyPolicy.for_graph(graph)
    policy.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    fit(policy, graph, toy_questions(24), batch_size=12, gradient_accumulation_steps=3, num_iterations=2)
    assert sizes == [4] * 6


def test_a_training_after_one_that_stopped_between_micro_batches_begins_with_its_first():
    """Accelerate counts micro-batches on, from training to training."""
    graph, questions = toy_graph(), toy_questions(24)
    options = {"estimator": "exact", "batch_size": 4, "num_iterations": 3}
    accelerator = Accelerator(cpu=True)

    class Interrupted(Runner):
        def ballots(self, *arguments):
            raise KeyboardInterrupt

    weights = []
    for interrupt in (False, True):
        policy = ToyPolicy.for_graph(graph)
        config = TrainConfig(gradient_accumulation_steps=4, **options)
        if interrupt:
            with pytest.raises(KeyboardInterrupt):
                train(policy, graph, questions, config, runner=Interrupted(graph), accelerator=accelerator)
        train(policy, graph, questions, TrainConfig(gradient_accumulation_steps=2, **options), accelerator=accelerator)
        weights.append(policy.head.weight.detach().clone())
    assert torch.equal(*weights)
    assert weights[0].abs().max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2])
def test_two_killed_processes_go_on_to_the_same_bits(steps, tmp_path):
    call = "tests.support.toy.train_with_checkpoints({!r}, {}, gradient_accumulation_steps={})".format
    whole = in_two_processes(tmp_path / "whole", call(str(tmp_path / "a"), None, steps))
    in_two_processes(tmp_path / "killed", call(str(tmp_path / "b"), 7 * steps, steps), ended=(-9, -9))
    resumed = in_two_processes(tmp_path / "resumed", call(str(tmp_path / "b"), None, steps))
    for one, other in zip(whole, resumed, strict=True):
        assert (one["resumed"], other["resumed"]) == (0, 7)
        assert other["rows"] == one["rows"]
        for name, weights in one["weights"].items():
            assert torch.equal(other["weights"][name], weights), name
    assert whole[0]["weights"]["head.weight"].abs().max() > 0.01


def test_a_batch_that_two_processes_cannot_share_is_one_clear_error(two_processes):
    message = (
        "A batch of 5 questions cannot be shared by 2 processes: "
        "set batch_size to a multiple of 2, their number times gradient_accumulation_steps."
    )
    assert [process["error"] for process in two_processes] == [message, message]


@pytest.mark.parametrize(("batch_size", "num_processes", "steps"), [(4, 3, 1), (2, 4, 1), (4, 2, 4), (4, 1, 3)])
def test_an_uneven_batch_is_refused_before_anything_is_asked(batch_size, num_processes, steps):
    graph = toy_graph()
    config = TrainConfig(batch_size=batch_size, gradient_accumulation_steps=steps)
    accelerator = SimpleNamespace(num_processes=num_processes)
    message = (
        f"{batch_size} questions cannot be shared by {num_processes} processes: .* multiple of {num_processes * steps}"
    )
    with pytest.raises(ValueError, match=message):
        train(StaticEdgePolicy.for_graph(graph), graph, toy_questions(8), config, accelerator=accelerator)


def test_half_precision_that_needs_scaled_gradients_is_refused():
    graph, accelerator = toy_graph(), SimpleNamespace(num_processes=1, mixed_precision="fp16")
    with pytest.raises(ValueError, match="as fp16 needs: set mixed_precision to 'bf16' or 'no'"):
        train(StaticEdgePolicy.for_graph(graph), graph, toy_questions(8), TrainConfig(), accelerator=accelerator)


@pytest.mark.slow
def test_two_processes_that_find_different_checkpoints_stop(tmp_path):
    """As on two machines whose folders are not one; they would average gradients of different iterations."""
    path = str(tmp_path / "found by 0")
    in_two_processes(tmp_path / "killed", f"tests.support.toy.train_with_checkpoints({path!r}, 5)", ended=(-9, -9))
    found = f"{path[:-1]!r} + tests.support.toy.os.environ['RANK']"
    errors = in_two_processes(
        tmp_path / "resumed", f"tests.support.toy.error_of(tests.support.toy.train_with_checkpoints, {found})"
    )
    message = "The processes find different checkpoints: choose an output_dir that all machines share."
    assert errors == [message, message]


# --- the host looks at numbers from time to time ---------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["exact", "moving_average"])
def test_how_often_the_host_looks_changes_nothing(estimator, monkeypatch):
    found = []
    for every in (1, 7):
        monkeypatch.setitem(LOOK_EVERY, "cpu", every)
        policy = ToyPolicy.for_graph(toy_graph())
        history = fit(policy, toy_graph(), toy_questions(40), estimator=estimator, num_iterations=16)
        found.append((history.rows, policy.head.weight.detach().clone()))
    assert len(found[0][0]) == 16
    assert found[1][0] == found[0][0]
    assert torch.equal(found[1][1], found[0][1])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("estimator", ["exact", "leave_one_out"])
def test_a_late_look_finds_the_first_bad_iteration_and_weights_of_the_last_good_step(estimator, optimizer, monkeypatch):
    graph, questions = toy_graph(), toy_questions(40)
    options = {"estimator": estimator, "optimizer": optimizer}
    good, policy = (ToyPolicy.for_graph(graph, standardize=False) for _ in range(2))
    fit(good, graph, questions, num_iterations=5, **options)
    monkeypatch.setitem(LOOK_EVERY, "cpu", 10)
    spy = Spy(graph, {5: math.nan, 6: math.inf})
    with pytest.raises(FloatingPointError, match="The utilities of iteration 5 are not finite on ") as error:
        fit(policy, graph, questions, spy, num_iterations=20, **options)
    asked = spy.averaged or spy.questions
    assert len(asked) == 10
    assert f"on {', '.join(asked[5])}: " in str(error.value)
    for name, weights in good.state_dict().items():
        assert torch.equal(policy.state_dict()[name], weights), name


def test_logits_without_effect_that_are_not_finite_are_found_too(monkeypatch):
    """No gradient tells of them."""
    graph, policy = toy_graph(), ToyPolicy.for_graph(toy_graph())
    with torch.no_grad():
        policy.head.bias[int((~graph.effective).nonzero()[0])] = math.inf
    with pytest.raises(FloatingPointError, match="The logits of iteration 0 are not finite on q"):
        fit(policy, graph, toy_questions(8), estimator="exact")


class ReadsOfNumbers(TorchDispatchMode):
    """Counts tensors that are made numbers, as `float(x)`, `x.item()` and `if x:` do."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        self.count += operation is torch.ops.aten._local_scalar_dense.default
        return operation(*arguments, **(options or {}))


@pytest.mark.parametrize("estimator", EXPECTATIONS)
def test_between_two_looks_no_number_is_read(estimator, monkeypatch):
    """What would make the host wait for a GPU. Eight iterations more read as much as none."""
    counts = []
    for num_iterations in (2, 10):
        monkeypatch.setitem(LOOK_EVERY, "cpu", 10)
        graph = toy_graph()
        with ReadsOfNumbers() as reads:
            fit(
                ToyPolicy.for_graph(graph), graph, toy_questions(40), estimator=estimator, num_iterations=num_iterations
            )
        counts.append(reads.count)
    looks = 8 * 3  # of which each makes sure of logits, utilities and gradients
    assert counts[1] - counts[0] == looks
    assert counts[0] > 0


class Watching(ToyPolicy):
    """Lets CUDA refuse to wait, from its second step on until the host looks."""

    def forward(self, features):
        self.num_calls = getattr(self, "num_calls", 0) + 1
        torch.cuda.set_sync_debug_mode("error" if 1 < self.num_calls < 10 else "default")
        return super().forward(features)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("estimator", EXPECTATIONS)
def test_on_a_gpu_the_host_does_not_wait(estimator):
    graph, policy = toy_graph(), Watching.for_graph(toy_graph())
    config = TrainConfig(estimator=estimator, num_iterations=10)
    history = train(policy, graph, toy_questions(40), config, accelerator=Accelerator())
    torch.cuda.set_sync_debug_mode("default")
    assert len(history.rows) == policy.num_calls == 10


# --- what must not go on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("estimator", OBJECTIVES)
def test_a_loss_that_is_not_finite_stops_the_training(value, estimator):
    graph, questions = toy_graph() if estimator in EXPECTATIONS else readers(2), toy_questions(8)
    policy = StaticEdgePolicy.for_graph(graph)
    spy = Spy(graph, {3: value})
    with pytest.raises(FloatingPointError, match="The utilities of iteration 3 are not finite on ") as error:
        fit(policy, graph, questions, spy, estimator=estimator, num_iterations=5)
    assert f"on {', '.join((spy.averaged or spy.questions)[-1])}: " in str(error.value)
    assert policy.edge_logits.isfinite().all(), "the weights are those of the last good step"


def test_weights_that_are_not_finite_stop_the_training():
    graph = toy_graph()
    policy = ToyPolicy.for_graph(graph)
    with torch.no_grad():
        policy.head.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match="The logits of iteration 0 are not finite on q"):
        fit(policy, graph, toy_questions(8), decide="all")


def test_no_questions_are_an_error():
    graph = toy_graph()
    with pytest.raises(ValueError, match="no questions to train on"):
        fit(StaticEdgePolicy.for_graph(graph), graph, [])


@pytest.mark.parametrize("estimator", ["exact", "local_expectation", "leave_one_out"])
def test_a_cost_of_tokens_leaves_fewer_edges(estimator):
    """Trained with and without a price; agents of the toy world cost the same."""
    graph, questions = toy_graph(), toy_questions(40)
    edges = []
    for cost_weight in (0.0, 2.0):
        policy = StaticEdgePolicy.for_graph(graph, 0.5)
        config = TrainConfig(num_iterations=60, learning_rate=0.1, estimator=estimator, cost_weight=cost_weight)
        history = train(policy, graph, questions, config, accelerator=Accelerator(cpu=True))
        edges.append(history.rows[-1]["num_edges"])
    assert edges[1] < 0.7 * edges[0]
