"""Agent-aware policies: an edge's weights come from what its agents are, whatever their number and order."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from dynagent.graph import AgentGraph
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.llm.reading import QuestionReader
from dynagent.policies.agent_aware import AgentAwarePolicy, Description
from dynagent.policies.base import initial_probability, logit
from dynagent.team.votes import MajorityVote
from tests.support.toy import (
    Knows,
    ToyQuestion,
    expected_utility,
    save_tiny_backbone,
    toy_questions,
    utilities_of_subsets,
)

TEXTS = ["Why?", "What is the capital of France?", "水的化学式是什么?", "Which of these? " * 7, "a"]
QUESTIONS = [ToyQuestion(f"q{i}", 0, 0, text) for i, text in enumerate(TEXTS)]
NAMES = ["A chemist", "A poet", "A liar", "A clerk"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    return save_tiny_backbone(tmp_path_factory.mktemp("backbone"))


def team(*names: str) -> AgentGraph:
    return AgentGraph([Knows(name=name, reads=True) for name in names], MajorityVote())


def as_if_trained(backbone: str, graph: AgentGraph) -> AgentAwarePolicy:
    policy = AgentAwarePolicy.from_backbone(QuestionReader.load(backbone, dtype="float32"), graph)
    policy.fit_standardization(policy.encode(QUESTIONS))
    with torch.no_grad():
        policy.head.weight.normal_(generator=torch.Generator().manual_seed(7))
        policy.head.bias.normal_(generator=torch.Generator().manual_seed(8))
    return policy


def by_edge(policy: AgentAwarePolicy, graph: AgentGraph, place=lambda node: node):
    """The questions' logits by (source, target), the nodes renamed by `place`."""
    logits = policy.edge_logits_of(QUESTIONS)
    edges = graph.potential_edges.tolist()
    return {(place(i), place(j)): column for (i, j), column in zip(edges, logits.T, strict=True)}


# --- what a node is


def test_a_description_is_the_agents_own_or_its_name():
    own = SimpleNamespace(name="Knows", group="g", reads=False, description="An agent that knows chemistry.")
    plain = SimpleNamespace(name="Liar", group="g", reads=False)
    first, second, decision = map(Description.of, AgentGraph([own, plain], MajorityVote()).nodes)
    assert first.render() == first.text == "An agent that knows chemistry."
    assert second.render() == "Liar, a member of a team of agents."
    assert decision.text.startswith("decision")
    assert len({first.id, second.id, decision.id}) == 3
    assert Description("An agent that knows chemistry.").id == first.id


# --- logits


@pytest.mark.parametrize("options", [{}, {"initial_probability": 0.1}, {"initial_probability": 0.9}])
def test_every_edge_of_every_question_starts_at_exactly_the_initial_probability(backbone, options):
    graph = team(*NAMES)
    policy = AgentAwarePolicy.from_backbone(QuestionReader.load(backbone), graph, **options)
    policy.fit_standardization(policy.encode(QUESTIONS))
    start = logit(options.get("initial_probability", initial_probability(graph)))
    assert torch.equal(policy.edge_logits_of(QUESTIONS), torch.full((len(TEXTS), graph.num_edges), start))


def test_permuting_the_agents_permutes_the_logits(backbone):
    graph = team(*NAMES)
    policy = as_if_trained(backbone, graph)
    expected = by_edge(policy, graph)
    assert torch.stack(list(expected.values())).std(0).min() > 0.01, "edges should differ"
    assert torch.stack(list(expected.values())).std(1).min() > 1e-3, "questions should differ"
    for order in ([3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 1, 0]):
        permuted = team(*(NAMES[i] for i in order))
        found = by_edge(policy.for_team(permuted), permuted, place=lambda node, order=order: [*order, 4][node])
        assert found.keys() == expected.keys()
        for edge, logits in expected.items():
            torch.testing.assert_close(found[edge], logits, rtol=0, atol=1e-5)


def test_agents_of_one_description_have_equal_logits(backbone):
    graph = team("A chemist", "A liar", "A chemist")
    logits = by_edge(as_if_trained(backbone, graph), graph)
    for one, other in (((0, 3), (2, 3)), ((0, 1), (2, 1)), ((1, 0), (1, 2)), ((0, 2), (2, 0))):
        torch.testing.assert_close(logits[one], logits[other], rtol=0, atol=1e-6)
    for one, other in (((0, 3), (1, 3)), ((0, 1), (1, 0))):
        assert (logits[one] - logits[other]).abs().min() > 1e-3


# --- other teams


@pytest.mark.parametrize(("num_chemists", "num_liars"), [(6, 3), (2, 8)])
def test_another_team_has_an_edge_for_each_pair_and_equals_have_equal_logits(backbone, num_chemists, num_liars):
    home = team(*["A chemist"] * 4, *["A liar"] * 4)
    policy = as_if_trained(backbone, home)
    graph = team(*["A chemist"] * num_chemists, *["A liar"] * num_liars)
    logits = by_edge(policy.for_team(graph), graph)
    num_agents = num_chemists + num_liars
    assert len(logits) == num_agents * (num_agents - 1) + num_agents
    known = by_edge(policy, home)

    def at_home(node: int) -> int:
        return 8 if node == num_agents else 0 if node < num_chemists else 4

    for (source, target), found in logits.items():
        one, other = at_home(source), at_home(target)
        expected = known[one, other + 1 if one == other else other]  # two chemists, or two liars
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_policy_for_another_team_shares_its_weights(backbone):
    policy = as_if_trained(backbone, team(*NAMES))
    before = policy.edge_logits_of(QUESTIONS)
    graph = team("A poet", "A clerk")
    other = policy.for_team(graph)
    assert [id(parameter) for parameter in other.parameters()] == [id(parameter) for parameter in policy.parameters()]
    assert torch.equal(policy.edge_logits_of(QUESTIONS), before), "the first policy is for the first team still"
    logits = other.edge_logits_of(QUESTIONS)
    with torch.no_grad():
        policy.head.weight.mul_(2)
    assert (other.edge_logits_of(QUESTIONS) - logits).abs().min() > 1e-4
    assert other.edge_logits_of(QUESTIONS).shape == (len(TEXTS), 4)


# --- saved and loaded


def test_a_saved_policy_comes_back_to_the_bit_and_serves_other_teams(backbone, tmp_path):
    policy = as_if_trained(backbone, team(*NAMES))
    policy.save_pretrained(tmp_path / "saved")
    loaded = AgentAwarePolicy.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.edge_logits_of(QUESTIONS), policy.edge_logits_of(QUESTIONS))
    graph = team("A poet", "A plumber", "A poet")
    expected = policy.for_team(graph).edge_logits_of(QUESTIONS)
    assert torch.equal(loaded.for_team(graph).edge_logits_of(QUESTIONS), expected)


@pytest.mark.parametrize("names", [["A poet", "A clerk"], [*NAMES, "A plumber"]])
def test_a_saved_policy_for_another_team_comes_back_to_the_bit(backbone, tmp_path, names):
    policy = as_if_trained(backbone, team(*NAMES)).for_team(team(*names))
    policy.save_pretrained(tmp_path / "saved")
    loaded = AgentAwarePolicy.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.edge_logits_of(QUESTIONS), policy.edge_logits_of(QUESTIONS))


# --- trained


class ToyAgentAware(AgentAwarePolicy):
    """Reads a question's kind, and of an agent's description what it knows."""

    def encode(self, questions):
        rows = []
        for question in questions:
            if isinstance(question, Description):
                rows.append([float(f"kind {kind}" in question.text) for kind in (0, 1)] + [1.0])
            else:
                rows.append([float(question.kind), 1.0 - question.kind, (int(question.id[1:]) * 37 % 11) / 11])
        return torch.tensor(rows)


def knowing(*kinds: int) -> AgentGraph:
    return AgentGraph([Knows((kind,), name=f"Knows kind {kind}") for kind in kinds], MajorityVote())


def test_a_trained_policy_serves_teams_of_other_orders_and_sizes():
    home, questions = knowing(0, 0, 1, 1), toy_questions(40)
    backbone = SimpleNamespace(hidden_size=3, name="toy", identity="toy-0123456789ab-float32")
    policy = ToyAgentAware.from_backbone(backbone, home)
    config = TrainConfig(num_iterations=150, batch_size=8, learning_rate=0.1)
    train(policy, home, questions, config, accelerator=Accelerator(cpu=True))

    def accuracy(graph: AgentGraph) -> float:
        probs = policy.for_team(graph).edge_logits_of(questions).sigmoid()
        return expected_utility(probs, graph, questions)

    assert accuracy(home) > 0.95 > 0.7 == pytest.approx(float(utilities_of_subsets(home, questions).mean(0).max()))
    for order in ((1, 1, 0, 0), (0, 1, 0, 1), (1, 0, 0, 1)):
        assert accuracy(knowing(*order)) == pytest.approx(accuracy(home), abs=1e-6)
    assert accuracy(knowing(1, 1, 1, 0, 0, 0)) > 0.95
    assert accuracy(knowing(1, 0, 0, 0, 0, 0)) > 0.95
