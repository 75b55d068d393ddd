"""Seeds trained side by side become what each becomes by itself."""

from __future__ import annotations

import copy

import pytest
import torch

from dynagent.execution.runner import Runner
from dynagent.graph import AgentGraph
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.learning.many_seeds import Answered, accuracies, edge_logits, train_side_by_side
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.static import StaticEdgePolicy
from dynagent.team.votes import MajorityVote
from studies.released.unparsable import BlankVote, VoidedVote, garbled
from tests.support.unparsable import NUM_QUESTIONS, Reader, questions, team

SEEDS = 3


@pytest.mark.parametrize("decision", [MajorityVote, VoidedVote, BlankVote])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize(
    "changes",
    [
        {"estimator": "exact"},
        {"estimator": "exact", "sparsity": 0.1, "bias_speed": 3.0},
        {"estimator": "reinforce", "graphs_per_question": 1},
        {"estimator": "moving_average", "graphs_per_question": 2, "sparsity": 0.05},
        {"estimator": "leave_one_out", "graphs_per_question": 4},
        {"estimator": "reinforce", "graphs_per_question": 1, "decide": "all", "order": "fixed"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_seeds_side_by_side_become_what_each_becomes_alone(decision, kind, changes):
    graph = AgentGraph(garbled(team(), 0.2), decision())
    asked, reader = questions(), Reader()
    configs = [TrainConfig(seed=seed, learning_rate=0.05, num_iterations=12, **changes) for seed in range(SEEDS)]

    def policy(config):
        if kind == "static":
            return StaticEdgePolicy.for_graph(graph, 0.4)
        return EdgePolicy.from_backbone(reader, graph, head_init="default", init_seed=config.stream("init"))

    alone = [policy(config) for config in configs]
    together = [copy.deepcopy(one) for one in alone]
    runners = [Runner(graph, config.seed) for config in configs]
    for one, config, runner in zip(alone, configs, runners, strict=True):
        train(one, graph, asked, config, runner=runner)

    full = graph.full().expand(NUM_QUESTIONS, 1, graph.num_nodes, graph.num_nodes)
    answers = torch.stack([runner.run(asked, full).answers[:, 0] for runner in runners])
    right = torch.tensor([question.answer for question in asked]).expand(SEEDS, -1)
    known = Answered(reader.read(asked).expand(SEEDS, -1, -1), answers, right)
    train_side_by_side(together, graph, known, configs)

    expected = torch.stack([one.edge_logits_of(asked)[:, graph.decision_edges] for one in alone])
    found = edge_logits(together, graph, known.features)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)
    assert (found - found[:, :, :1]).abs().max() > 0.01, "something was learned"

    for seed, runner in enumerate(runners):
        probs = alone[seed].edge_logits_of(asked).sigmoid()
        drawn = runner.expected_utility(asked, probs)
        torch.testing.assert_close(accuracies(expected, graph, known)["drawn"][seed], drawn, atol=1e-5, rtol=1e-4)
