"""Seeds trained side by side become what each becomes by itself, over every option; what is not done is refused."""

from __future__ import annotations

import copy
from typing import Any, get_args, get_type_hints

import pytest
import torch

from dynagent.execution.runner import Runner
from dynagent.graph import AgentGraph
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.learning.many_seeds import WITHOUT_EFFECT, Answered, accuracies, edge_logits, train_side_by_side
from dynagent.learning.objectives import OBJECTIVES
from dynagent.learning.optimizer import OPTIMIZERS, SCHEDULES
from dynagent.policies.agent_aware import AgentAwarePolicy
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.static import StaticEdgePolicy
from dynagent.team.votes import MajorityVote
from studies.released.unparsable import BlankVote, VoidedVote, garbled
from tests.support.toy import Knows
from tests.support.unparsable import NUM_QUESTIONS, Reader, questions, team

SEEDS = 3
# Every value of each option that has few, and one or two of the others.
VALUES: dict[str, tuple[Any, ...]] = {
    "estimator": tuple(OBJECTIVES),
    "optimizer": tuple(OPTIMIZERS),
    "schedule": tuple(SCHEDULES),
    "penalise": ("decided", "effective", "all"),
    "decide": ("effective", "all"),
    "order": ("random", "fixed"),
    "num_iterations": (12, "auto", 30),
    "batch_size": (4, 5, 1),
    "graphs_per_question": (2, 5),
    "learning_rate": (0.05, 0.2),
    "bias_speed": (1.0, 3.0),
    "sparsity": (0.0, 0.1),
}
ELSEWHERE = {"seed", "backbone_learning_rate"}  # the first is what differs; the second is for policies that are refused
PUBLISHED = {"estimator": "reinforce", "graphs_per_question": 1, "decide": "all", "order": "fixed"}
CASES = [
    *({name: value} for name, values in VALUES.items() for value in values),
    *({"estimator": name, "sparsity": 0.1, "bias_speed": 3.0, "schedule": "cosine"} for name in OBJECTIVES),
    {"estimator": "moving_average", "optimizer": "sgd", "learning_rate": 0.5, "schedule": "linear"},
    {"estimator": "leave_one_out", "batch_size": 3, "graphs_per_question": 4, "decide": "all", "penalise": "all"},
    PUBLISHED,
    PUBLISHED | {"estimator": "constant_baseline", "penalise": "effective", "sparsity": 0.1},
]


def config_with(**changes: Any) -> TrainConfig:
    """Of a short training on drawn graphs, in which every option counts, unless the changes say otherwise."""
    usual = {"estimator": "leave_one_out", "graphs_per_question": 3, "num_iterations": 12, "learning_rate": 0.05}
    return TrainConfig(**usual | {"sparsity": 0.05} | changes)


def untrained(kind, graph, config):
    if kind == "static":
        return StaticEdgePolicy.for_graph(graph, 0.4)
    return EdgePolicy.from_backbone(Reader(), graph, head_init="default", init_seed=config.stream("init"))


def answered(graph, runners) -> Answered:
    asked = questions()
    full = graph.full().expand(NUM_QUESTIONS, 1, graph.num_nodes, graph.num_nodes)
    answers = torch.stack([runner.run(asked, full).answers[:, 0] for runner in runners])
    right = torch.tensor([question.answer for question in asked]).expand(SEEDS, -1)
    return Answered(Reader().read(asked).expand(SEEDS, -1, -1), answers, right)


def check_that_seeds_become_what_each_becomes_alone(decision, kind, changes):
    graph, asked = AgentGraph(garbled(team(), 0.2), decision), questions()
    configs = [config_with(seed=seed, **changes) for seed in range(SEEDS)]
    alone = [untrained(kind, graph, config) for config in configs]
    together = copy.deepcopy(alone)
    runners = [Runner(graph, config.seed) for config in configs]
    for policy, config, runner in zip(alone, configs, runners, strict=True):
        train(policy, graph, asked, config, runner=runner)
    known = answered(graph, runners)
    before = edge_logits(together, graph, known.features)
    train_side_by_side(together, graph, known, configs)

    expected = torch.stack([policy.edge_logits_of(asked)[:, graph.decision_edges] for policy in alone])
    trained = edge_logits(together, graph, known.features)
    torch.testing.assert_close(trained, expected, atol=2e-4, rtol=1e-3)
    assert (trained - before).abs().max() > 0.01, "something was learned"
    assert (trained[0] - trained[1]).abs().max() > 1e-3, "seeds differ"
    return alone, expected, known, runners


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("changes", CASES, ids=lambda changes: "-".join(map(str, changes.values())))
def test_seeds_side_by_side_become_what_each_becomes_alone(kind, changes):
    check_that_seeds_become_what_each_becomes_alone(MajorityVote(), kind, changes)


@pytest.mark.parametrize("decision", [VoidedVote(), BlankVote()], ids=lambda decision: decision.name)
@pytest.mark.parametrize("estimator", OBJECTIVES)
def test_decisions_of_ones_own_are_heeded_by_every_estimator(decision, estimator):
    alone, expected, known, runners = check_that_seeds_become_what_each_becomes_alone(
        decision, "dynamic", {"estimator": estimator}
    )
    for seed, runner in enumerate(runners):
        exact = runner.expected_utility(questions(), alone[seed].edge_logits_of(questions()).sigmoid())
        drawn = accuracies(expected, runner.graph, known)["drawn"][seed]
        torch.testing.assert_close(drawn, exact, atol=1e-5, rtol=1e-4)


def test_every_parameter_of_a_training_is_tried_above_or_refused_below():
    """A new one has to be added to either."""
    assert set(VALUES) | set(WITHOUT_EFFECT) | ELSEWHERE == set(TrainConfig().to_dict())
    assert not set(VALUES) & set(WITHOUT_EFFECT)
    hints = get_type_hints(TrainConfig)
    for name in ("penalise", "decide", "order"):
        assert VALUES[name] == get_args(hints[name])


# --- what is not done


def refusal(changes=(), graph=None, policies=None) -> str:
    graph = graph or AgentGraph(team(), MajorityVote())
    configs = [config_with(seed=seed, **dict(changes)) for seed in range(SEEDS)]
    policies = policies or [StaticEdgePolicy.for_graph(graph, 0.4) for _ in configs]
    before = copy.deepcopy(policies[0].state_dict())
    known = answered(AgentGraph(team(), MajorityVote()), [Runner(AgentGraph(team(), MajorityVote()), 0)] * SEEDS)
    with pytest.raises(ValueError) as error:
        train_side_by_side(policies, graph, known, configs)
    for name, value in policies[0].state_dict().items():
        assert torch.equal(value, before[name]), name
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("early_stopping", 0.25),
        ("cost_weight", 0.2),
        ("mixed_precision", "bf16"),
        ("gradient_accumulation_steps", 2),
    ],
)
def test_a_parameter_that_would_be_ignored_is_refused(name, value):
    assert name in WITHOUT_EFFECT
    message = refusal({name: value})
    assert message.startswith(f"{name} {value!r} is not for seeds side by side: leave it at {WITHOUT_EFFECT[name]!r}")


def test_policies_whose_logits_are_more_than_one_linear_layer_are_refused():
    graph = AgentGraph(team(), MajorityVote())
    policies = [AgentAwarePolicy(Reader.hidden_size, graph.num_edges) for _ in range(SEEDS)]
    assert "Policies of class AgentAwarePolicy cannot be trained side by side" in refusal(policies=policies)


def test_a_team_that_reads_is_refused():
    graph = AgentGraph([*team()[:3], Knows(reads=True)], MajorityVote())
    assert "a team whose agents read each other cannot be trained side by side" in refusal(graph=graph)


def test_configurations_that_differ_in_more_than_their_seed_are_refused():
    graph = AgentGraph(team(), MajorityVote())
    policies = [StaticEdgePolicy.for_graph(graph, 0.4) for _ in range(2)]
    configs = [config_with(seed=0), config_with(seed=1, sparsity=0.2)]
    known = answered(graph, [Runner(graph, 0)] * SEEDS)
    with pytest.raises(ValueError, match=r"differ in their seed alone, and these in sparsity, too: \[0\.05, 0\.2\]"):
        train_side_by_side(policies, graph, known, configs)
