"""Agents that read each other: prompts and answers change, the world's optimum, recorded replies, equal spend."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynagent.execution.runner import Runner
from dynagent.graph import AgentGraph
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.llm.base import Reply
from dynagent.llm.replay import RecordedAnswers
from dynagent.llm.store import Recorded
from dynagent.policies.static import StaticEdgePolicy
from dynagent.runs.build import build_graph
from dynagent.runs.config import RunConfig
from dynagent.tasks.multiple_choice import Question
from dynagent.tasks.recorded import RecordedQuestion
from dynagent.team.agents import Truthful
from dynagent.team.votes import MajorityVote
from dynagent.worlds.hint import HINTS, Solver, accuracy_of_graph, accuracy_of_solver, graphs, optima
from dynagent.worlds.hint import make_graph as make_hint_graph
from studies.common.matched import at_spend
from studies.common.record import load_record
from studies.communication.measure import compare, wirings
from studies.communication.team import make_graph, wiring

QUESTIONS = [
    Question(f"Question {i}?", tuple(f"option {i}{j}" for j in range(4)), i % 4, "physics", ("en", "zh")[i % 2])
    for i in range(400)
]


class Persuaded:
    """Follows what it hears: its letter is the last one named below the question, else A; it counts its prompts."""

    identity = "persuaded-000000000000-float32"

    def __init__(self):
        self.prompts = []

    def batches(self, requests):
        return [[i] for i in range(len(requests))]

    def reply(self, requests):
        self.prompts += [request.prompt for request in requests]
        return [self.one(request) for request in requests]

    def one(self, request):
        below = request.prompt[1][1].partition("Other agents:")[2]
        letter = "ABCD"[request.sample % 4] if not below else below.split("answers ")[-1][0]
        if request.options:
            scores = tuple(0.0 if option == letter else -50.0 for option in request.options)
            return Reply(None, scores, (1, 1, 1, 1), 100, 4)
        return Reply(f'{letter}", "reason": "It shines."}}', prompt_tokens=100, completion_tokens=9)


def run_one(graph, edges, seed=0, question=QUESTIONS[0]):
    adjacency = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.bool)
    for source, target in edges:
        adjacency[source, target] = True
    return Runner(graph, seed).run([question], adjacency[None, None])


def test_a_fixed_edge_changes_what_the_second_agent_is_asked_and_what_it_answers():
    llm = Persuaded()
    agent = Truthful(llm, mode="text", temperature=0.7, reads=True)
    graph = AgentGraph([agent, agent], MajorityVote())
    apart = run_one(graph, [(0, 2), (1, 2)], seed=1)  # samples 2 and 3: C and D
    without = list(llm.prompts)
    llm.prompts.clear()
    together = run_one(graph, [(0, 1), (0, 2), (1, 2)], seed=1)
    assert apart.answers[0, 0].tolist() == [2, 3]
    assert together.answers[0, 0].tolist() == [2, 2]
    assert llm.prompts[0] == without[0]
    assert llm.prompts[1][1][1] == without[1][1][1] + "\nOther agents:\nAgent 0 answers C: It shines."
    assert together.tokens == apart.tokens == 2 * 109


def test_communicate_makes_edges_between_agents_matter():
    parameters = {"agent_mode": "text", "estimator": "leave_one_out", "num_truthful": 2, "num_adversarial": 1}
    llm = SimpleNamespace(model=None)
    for communicate, effective in ((False, 3), (True, 9)):
        config = RunConfig.from_parameters(parameters | {"communicate": communicate})
        graph = build_graph(config, llm)
        assert int(graph.effective.sum()) == effective
        assert all(agent.reads == communicate for agent in graph.team)


@pytest.mark.parametrize("estimator", ["exact", "local_expectation"])
def test_communicate_refuses_what_cannot_see_its_edges(estimator):
    with pytest.raises(ValueError, match=f"'{estimator}' does not see: set estimator to 'leave_one_out'"):
        RunConfig(communicate=True, agent_mode="text", estimator=estimator)
    with pytest.raises(ValueError, match="communicate needs a prompt with a place for messages"):
        RunConfig(communicate=True, estimator="leave_one_out")


def test_written_replies_and_what_was_answered_to_them_replay_without_texts(tmp_path):
    """The record holds the reasons, once, and of the questions and of what was heard only hashes."""
    path = tmp_path / f"{Persuaded.identity}.jsonl"
    questions = QUESTIONS[:5]
    graph = make_graph(Recorded(Persuaded(), path))
    adjacency = wiring(graph, (0, 1), 2, 1).expand(5, 1, -1, -1)
    asked = Runner(graph).run(questions, adjacency)
    lines = path.read_text().splitlines()
    assert not any(question.text in line or "Other agents" in line for line in lines for question in questions)
    assert sum("It shines" in line for line in lines) == 2 * 5
    bare = [RecordedQuestion(q.answer, q.subject, q.language, id=q.id) for q in questions]
    replayed = Runner(make_graph(RecordedAnswers(path))).run(bare, adjacency)
    for name in ("answers", "tokens", "utility"):
        assert torch.equal(getattr(asked, name), getattr(replayed, name))
    kinds = {tuple(json.loads(line)["origin"][:2]) for line in lines}
    assert kinds == {("text", "right"), ("letter", "right")}


# --- the world


def drawn_accuracy(graph, adjacency, language):
    """By running the agents on many questions."""
    questions = [question for question in QUESTIONS if question.language == language]
    outcomes = [
        Runner(graph, seed).run(questions, adjacency.expand(len(questions), 1, -1, -1)).utility for seed in range(20)
    ]
    return float(torch.cat(outcomes).mean())


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("index", [0, 1234, 2047])
def test_a_graphs_accuracy_is_that_of_its_agents(reads, index):
    graph = make_hint_graph(reads)
    adjacency = graphs(make_hint_graph(True))[index]
    for language in HINTS:
        exact = accuracy_of_graph(graph, adjacency, language)
        assert drawn_accuracy(graph, adjacency, language) == pytest.approx(exact, abs=0.025)


def test_a_hint_changes_a_solvers_answer():
    graph = make_hint_graph(True)
    alone = [run_one(graph, [(2, 5)], question=q).answers[0, 0, 2] for q in QUESTIONS]
    told = [run_one(graph, [(2, 5), (HINTS[q.language], 2)], question=q).answers[0, 0, 2] for q in QUESTIONS]
    right = [question.answer for question in QUESTIONS]
    assert np.mean([a != b for a, b in zip(alone, told, strict=True)]) > 0.3
    assert np.mean([a == b for a, b in zip(alone, right, strict=True)]) == pytest.approx(0.35, abs=0.07)
    assert np.mean([a == b for a, b in zip(told, right, strict=True)]) == pytest.approx(0.8, abs=0.06)


def test_the_optima_are_those_that_can_be_reasoned_out():
    """Three solvers with the right hint vote: .8 each, two of three or a tie; all guessing without edges."""
    best = optima(make_hint_graph(True))
    p = 0.8
    two_of_three = p**3 + 3 * p**2 * (1 - p) + 3 * p * (1 - p) ** 2 * (2 / 3) / 3
    assert best["dynamic"] >= two_of_three - 1e-9
    assert best["dynamic"] > best["static"] + 0.2
    alone = optima(make_hint_graph(False))
    assert alone["dynamic"] == alone["static"] < 0.45
    assert [accuracy_of_solver("en", heard) for heard in ([], [0], [1], [0, 1])] == pytest.approx(
        [0.35, 0.8, 0.05, 0.5]
    )


def test_leave_one_out_learns_to_pass_on_a_hint():
    """All questions in one language: its hint is passed on, and the other one is not."""
    graph = make_hint_graph(True)
    policy = StaticEdgePolicy.for_graph(graph, 0.5)
    questions = [question for question in QUESTIONS if question.language == "en"]
    train(policy, graph, questions, TrainConfig(estimator="leave_one_out", learning_rate=0.3, num_iterations=150))
    probs = graph.adjacency(policy.edge_logits_of(questions[:1])[0].sigmoid())
    assert (probs[0, 2:5] > 0.8).all()
    assert (probs[1, 2:5] < 0.2).all()
    assert isinstance(graph.team[2], Solver)


# --- equal spend


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=5, unique=True), st.floats(0.05, 120))
def test_a_mixture_costs_what_it_shall(spends, spend):
    curve = [(cost, np.array([cost, 2 * cost])) for cost in sorted(spends)]  # scores that are their own price
    mixed, matched = at_spend(curve, spend)
    assert matched == min(spend, max(spends))
    np.testing.assert_allclose(mixed, [matched, 2 * matched], rtol=1e-6)


def test_a_curve_that_does_not_rise_is_refused():
    with pytest.raises(ValueError, match="rise in spend"):
        at_spend([(2.0, np.zeros(1)), (1.0, np.zeros(1))], 1.0)


def test_wirings_are_compared_at_equal_tokens():
    graph = make_graph(None)
    assert all(not (dag & dag.T).any() for dag in wirings(graph).values())
    scores = {
        "vote of 1": np.full((2, 4), 0.4),
        "vote of 2": np.full((2, 4), 0.6),
        "1 heard by 1": np.full((2, 4), 0.7),
    }
    tokens = {"vote of 1": np.full(4, 100), "vote of 2": np.full(4, 200), "1 heard by 1": np.full(4, 150)}
    row = compare(scores, tokens, ["a", "a", "b", "b"])["1 heard by 1"]
    assert (row["gain"].mean, row["votes alone, accuracy"].mean) == pytest.approx((0.2, 0.5))
    assert row["votes alone, tokens"] == row["tokens"] == 150


def test_edges_of_the_full_product_are_all_among_the_graphs():
    found = {tuple(dag.flatten().tolist()) for dag in graphs(make_hint_graph(True))}
    assert len(found) == 2 ** (2 * 3 + 5)


def test_the_committed_record_has_twenty_seeds_and_two_hundred_questions():
    record = load_record("communication")
    assert [len(part.seeds) for part in record.parts.values()] == [20, 20]
    assert record.parts["real"].questions["evaluation"].n >= 200
    for part in (record.numbers["real"]["warm"], record.numbers["real"]["cold"]):
        for row in part["wirings"].values():
            assert "gain" not in row or row["votes alone, tokens"] == pytest.approx(row["tokens"], rel=0.02)
