"""Execution: who hears what, who is asked how often, and utilities equal to a naive walk along every graph."""

import hashlib
from collections import Counter
from dataclasses import replace
from itertools import product

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynagent.execution.runner import Runner
from dynagent.execution.waves import ancestors
from dynagent.graph import AgentGraph
from dynagent.llm.base import Reply
from dynagent.llm.store import Recorded
from dynagent.tasks.multiple_choice import LETTERS, Question
from dynagent.team.agents import Adversarial, Constant, Truthful
from dynagent.team.messages import Message
from dynagent.team.replies import UNPARSABLE, parse_reason
from dynagent.team.votes import NOT_ASKED, MajorityVote
from tests.support.toy import local_expected_utility

QUESTIONS = [
    Question(f"Question number {i}?", tuple(f"option {i}{j}" for j in range(4)), i % 3, "physics", "en")
    for i in range(6)
]


def number(text, below):
    """A number that looks random and is a function of the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") % below


class Echo:
    """Scores and letters that are functions of the request, so that whatever an agent hears changes its reply."""

    identity = "echo"

    def __init__(self):
        self.calls = []  # one list of requests for each call

    def batches(self, requests):
        return [[i] for i in range(len(requests))]

    def reply(self, requests):
        self.calls.append(list(requests))
        return [self.one(request) for request in requests]

    @staticmethod
    def one(request):
        text = repr(request)
        if request.options:
            scores = tuple(-number(f"{text}{i}", 1000) / 200 for i in range(len(request.options)))
            tokens = tuple(1 + number(f"{i}{text}", 3) for i in range(len(scores)))
            return Reply(None, scores, tokens, 100 + number(text, 50), sum(tokens))
        said = f"I say {'ABCDE'[number(text, 5)]} as {number(text, 10**6)}."  # E is unparsable
        return Reply(said, prompt_tokens=200 + number(text, 50), completion_tokens=number(text, 30))


def graph_of(*team):
    return AgentGraph(team, MajorityVote())


def adjacency_of(graph, *edges):
    matrix = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.bool)
    for source, target in edges:
        matrix[source, target] = True
    return matrix


# --- who hears what


def test_agents_hear_their_predecessors_and_nobody_else():
    """0 -> 1 -> 3 -> decision, 0 -> 3, 2 -> 1; 4 has no path to the decision, though it hears and is heard."""
    llm = Echo()
    silent, reader = Truthful(llm), Truthful(llm, mode="text", temperature=1.0, reads=True)
    graph = graph_of(silent, reader, reader, reader, reader)
    runner = Runner(graph)
    adjacency = adjacency_of(graph, (0, 1), (1, 3), (0, 3), (2, 1), (3, 5), (0, 4), (3, 4))
    outcome = runner.run(QUESTIONS[:1], adjacency[None, None])

    question = QUESTIONS[0]
    assert [len(call) for call in llm.calls] == [1, 1, 1, 1]  # 0, then 2, then 1, then 3
    first = LETTERS[outcome.answers[0, 0, 0]]
    reasons = [parse_reason(Echo.one(call[0]).text or "") for call in llm.calls]
    letters = [LETTERS[a] if a >= 0 else "nothing" for a in outcome.answers[0, 0].tolist()]
    assert [call[0] for call in llm.calls] == [
        silent.request(question),
        reader.request(question, (), sample=2),
        reader.request(question, (Message("Agent 0", first), Message("Agent 2", letters[2], reasons[1])), sample=1),
        reader.request(question, (Message("Agent 0", first), Message("Agent 1", letters[1], reasons[2])), sample=3),
    ]
    user = llm.calls[3][0].prompt[1][1]
    assert user == (
        f"{question.render()}\nOther agents:\nAgent 0 answers {first}\nAgent 1 answers {letters[1]}: {reasons[2]}"
    )
    assert outcome.asked[0, 0].tolist() == [True, True, True, True, False]
    assert outcome.answers[0, 0, 4] == NOT_ASKED


def test_a_wave_is_one_call_of_every_language_model_for_the_whole_batch():
    """Layers 0 1 | 2 3 | 4 in two graphs for each of three questions; agents 1 and 3 have a model of their own."""
    llm, other = Echo(), Echo()
    reader = Truthful(llm, mode="text", temperature=1.0, reads=True)
    of_other = Truthful(other, mode="text", temperature=1.0, reads=True)
    graph = graph_of(Truthful(llm), Truthful(other), reader, of_other, reader)
    edges = [(0, 2), (1, 2), (0, 3), (2, 4), (3, 4), (4, 5)]
    without = [(0, 2), (0, 3), (1, 3), (2, 4), (3, 4), (4, 5)]
    adjacency = torch.stack([adjacency_of(graph, *edges), adjacency_of(graph, *without)])
    Runner(graph).run(QUESTIONS[:3], adjacency.expand(3, -1, -1, -1))
    assert [len(call) for call in llm.calls] == [3, 6, 6]
    assert [len(call) for call in other.calls] == [3, 6]


def test_an_agent_is_asked_once_for_a_question_and_what_it_hears():
    """Of 20 graphs, one half lets the third agent hear the first one, the other half the second one."""
    llm = Echo()
    graph = graph_of(Truthful(llm), Adversarial(llm), Truthful(llm, mode="letter", reads=True))
    runner = Runner(graph)
    graphs = [adjacency_of(graph, (i, 3), (j, 2), (2, 3)) for i in range(2) for j in range(2)] * 5
    every = torch.stack(graphs).expand(len(QUESTIONS), -1, -1, -1)
    runner.run(QUESTIONS, every)
    calls = Counter(request for call in llm.calls for request in call)
    assert [calls[agent.request(question)] for question in QUESTIONS for agent in graph.team[:2]] == [2] * 12
    assert sum(calls.values()) == 2 * len(QUESTIONS) + 2 * len(QUESTIONS)
    runner.run(QUESTIONS[::-1], every)
    assert sum(map(len, llm.calls)) == sum(calls.values())


def test_prepare_asks_the_silent_agents_on_all_questions_at_once():
    llm = Echo()
    graph = graph_of(Truthful(llm), Truthful(llm, mode="letter", reads=True), Constant("B"), Adversarial(llm))
    runner = Runner(graph)
    runner.prepare(QUESTIONS)
    runner.prepare(QUESTIONS[::-1])
    assert [len(call) for call in llm.calls] == [2 * len(QUESTIONS)]
    runner.run(QUESTIONS, adjacency_of(graph, (0, 4), (2, 4), (3, 4)).expand(len(QUESTIONS), 3, -1, -1))
    assert len(llm.calls) == 1


def test_equal_requests_of_different_agents_are_one_call_of_the_model(tmp_path):
    """Four agents that score options and draw for themselves need one forward a question."""
    model = Echo()
    llm = Recorded(model, tmp_path / "calls.jsonl")
    graph = graph_of(*[Truthful(llm, temperature=1.0)] * 3, Adversarial(llm))
    Runner(graph).run(QUESTIONS, graph.full().expand(len(QUESTIONS), 2, -1, -1))
    assert (llm.usage.calls, llm.usage.distinct_calls, llm.usage.model_calls) == (24, 6, 6)
    assert sum(map(len, model.calls)) == 6


def test_agents_without_a_path_to_the_decision_are_not_called():
    llm, unused = Echo(), Echo()
    graph = graph_of(Truthful(llm), Truthful(unused), Truthful(unused, mode="letter", reads=True))
    outcome = Runner(graph).run(QUESTIONS, adjacency_of(graph, (0, 3), (1, 2)).expand(len(QUESTIONS), 2, -1, -1))
    assert unused.calls == []
    assert outcome.asked.float().mean((0, 1)).tolist() == [1, 0, 0]
    assert (outcome.answers[..., 1:] == NOT_ASKED).all()


def test_a_graph_without_edges_asks_nobody_and_is_never_right():
    llm = Echo()
    graph = graph_of(Truthful(llm), Truthful(llm))
    outcome = Runner(graph).run(QUESTIONS, adjacency_of(graph).expand(len(QUESTIONS), 3, -1, -1))
    assert llm.calls == []
    assert outcome.utility.abs().sum() == outcome.option_probs.sum() == 0


def test_only_direct_predecessors_of_the_decision_vote():
    llm = Echo()
    graph = graph_of(Constant("A"), Constant("A"), Truthful(llm, mode="letter", reads=True))
    outcome = Runner(graph).run(
        QUESTIONS, adjacency_of(graph, (0, 2), (1, 2), (2, 3)).expand(len(QUESTIONS), 1, -1, -1)
    )
    assert outcome.asked.all()
    winner = outcome.option_probs[:, 0].argmax(-1)
    assert torch.equal(winner, outcome.answers[:, 0, 2])
    assert (winner != 0).any()


def test_readers_on_a_cycle_are_an_error_and_no_endless_loop():
    reader = Truthful(Echo(), mode="letter", reads=True)
    graph = graph_of(reader, reader)
    with pytest.raises(ValueError, match=r"the graph has a cycle\.$"):
        Runner(graph).run(QUESTIONS[:1], adjacency_of(graph, (0, 1), (1, 0), (1, 2))[None, None])


# --- draws


def draws_of(seed, num_agents=8, questions=QUESTIONS, shown=None):
    """The draws that agents are given on the questions: {(question id, position): draw}."""

    class Spy:
        name, group, reads, llm = "spy", "spies", False, None

        def __init__(self, position):
            self.position = position

        def answer(self, question, reply, draw):
            draws[question.id, self.position] = draw
            return 0

    draws = {}
    graph = graph_of(*map(Spy, range(num_agents)))
    Runner(graph, seed).run(questions, graph.full().expand(len(questions), 2, -1, -1))
    return draws


def test_draws_depend_on_seed_question_and_position_alone():
    draws = draws_of(0)
    assert len(draws) == 8 * len(QUESTIONS)
    assert draws == draws_of(0)
    assert draws_of(0, 3, QUESTIONS[:1:-1]).items() <= draws.items()
    assert len(set(draws.values())) == len(draws)
    assert not set(draws.values()) & set(draws_of(1).values())


def test_draws_are_uniform_and_do_not_go_together():
    """4,800 draws: mean, variance and correlations within 4 deviations of those of independent uniform numbers."""
    questions = [Question(f"Is it {i}?", ("a", "b", "c", "d"), 0, "physics", "en") for i in range(600)]
    draws = draws_of(0, questions=questions)
    table = torch.tensor([[draws[q.id, node] for node in range(8)] for q in questions])
    assert table.min() >= 0
    assert table.max() < 1
    n = table.numel()
    assert abs(table.mean() - 1 / 2) < 4 * (1 / 12 / n) ** 0.5
    assert abs(table.var() - 1 / 12) < 4 * (1 / 180 / n) ** 0.5
    correlations = torch.corrcoef(table.T) - torch.eye(8)
    assert correlations.abs().max() < 4 / 600**0.5


# --- utility


def naive_answers(graph, adjacency, question, draws, seed):
    """Agent after agent along one graph, with networkx' order; who does not reach the decision is left out."""
    edges = nx.DiGraph(adjacency.nonzero().tolist())
    edges.add_node(graph.decision_node)
    deaf = [node for node, agent in enumerate(graph.team) if not agent.reads]
    edges.remove_edges_from([(i, j) for i, j in edges.edges if j in deaf])
    asked = nx.ancestors(edges, graph.decision_node)
    said = {}
    for node in nx.topological_sort(edges):
        if node not in asked:
            continue
        agent = graph.team[node]
        heard = sorted(edges.predecessors(node)) if agent.reads else []
        messages = [
            Message(f"Agent {i}", LETTERS[said[i][0]] if said[i][0] >= 0 else "nothing", parse_reason(said[i][1]))
            for i in heard
        ]
        reply = (
            None
            if agent.llm is None
            else Echo.one(agent.request(question, messages, sample=seed * len(graph.team) + node))
        )
        tokens = 1 if reply is None else reply.prompt_tokens + reply.completion_tokens
        if reply is not None and reply.option_tokens == (1, 1, 1, 1):
            tokens = reply.prompt_tokens + 1
        said[node] = (agent.answer(question, reply, draws[question.id, node]), (reply and reply.text) or "", tokens)
    return {node: answer for node, (answer, *_) in said.items()}, sum(tokens for *_, tokens in said.values())


def naive_utility(votes, question):
    counts = Counter(vote for vote in votes if vote >= 0)
    winners = [option for option, count in counts.items() if count == max(counts.values())]
    return (question.answer in winners) / max(1, len(winners))


ECHO = Echo()
KINDS = [
    Truthful(ECHO, temperature=2.0),
    Adversarial(ECHO, temperature=2.0),
    Truthful(ECHO, mode="letter", temperature=2.0, reads=True),
    Adversarial(ECHO, mode="letter", temperature=2.0, reads=True),
    Truthful(ECHO, mode="text", temperature=2.0, reads=True),
    Adversarial(ECHO, mode="text", temperature=2.0),
    Constant("B"),
]


def random_dags(num_graphs, num_agents, seed):
    """Graphs along random orders of the agents, with the decision at the end."""
    generator = torch.Generator().manual_seed(seed)
    dags = torch.zeros(num_graphs, num_agents + 1, num_agents + 1, dtype=torch.bool)
    for dag in dags:
        order = [*torch.randperm(num_agents, generator=generator).tolist(), num_agents]
        density = torch.rand(1, generator=generator)
        for i, source in enumerate(order):
            for target in order[i + 1 :]:
                dag[source, target] = torch.rand(1, generator=generator) < density
    return dags


@settings(max_examples=150)
@given(
    team=st.lists(st.sampled_from(KINDS), min_size=1, max_size=5),
    batch=st.lists(st.sampled_from(QUESTIONS), min_size=1, max_size=3),
    seed=st.integers(0, 3),
    graphs=st.integers(0, 10**6),
)
def test_utility_equals_a_walk_along_every_graph(team, batch, seed, graphs):
    graph = graph_of(*team)
    num_graphs = 3
    adjacency = random_dags(len(batch) * num_graphs, len(team), graphs).unflatten(0, (len(batch), num_graphs))
    outcome = Runner(graph, seed).run(batch, adjacency)
    draws = draws_of(seed, len(team), batch)
    for b, question in enumerate(batch):
        for k in range(num_graphs):
            answers, tokens = naive_answers(graph, adjacency[b, k], question, draws, seed)
            assert outcome.tokens[b, k] == tokens
            expected = [answers.get(node, NOT_ASKED) for node in range(len(team))]
            assert outcome.answers[b, k].tolist() == expected
            assert outcome.asked[b, k].tolist() == [node in answers for node in range(len(team))]
            votes = [answers[node] for node in adjacency[b, k, :, -1].nonzero().flatten().tolist()]
            assert outcome.utility[b, k] == pytest.approx(naive_utility(votes, question))
            right = outcome.option_probs[b, k, question.answer]
            assert right == outcome.utility[b, k]


def test_the_teams_above_disagree_and_fail_to_answer():
    """What the walk would not notice if all agents always said the same."""
    graph = graph_of(*KINDS)
    outcome = Runner(graph).run(QUESTIONS, random_dags(30, 7, 0).expand(len(QUESTIONS), -1, -1, -1))
    said = outcome.answers[outcome.asked]
    assert set(said.tolist()) >= {UNPARSABLE, 0, 1, 2}
    assert 0.1 < outcome.utility.mean() < 0.9
    assert ((outcome.utility > 0) & (outcome.utility < 1)).any()


def test_a_question_whose_right_option_is_not_known_has_answers_and_no_utility():
    graph = graph_of(Constant("B"), Constant("B"), Constant("C"))
    asked = [QUESTIONS[1], replace(QUESTIONS[2], answer=-1)]
    outcome = Runner(graph).run(asked, graph.full().expand(2, 1, -1, -1))
    assert outcome.answers[:, 0].tolist() == [[1, 1, 2]] * 2
    assert outcome.option_probs[:, 0].tolist() == [[0, 1, 0, 0]] * 2
    assert float(outcome.utility[0, 0]) == 1
    assert outcome.utility[1].isnan().all()
    with pytest.raises(ValueError, match=f"which option of question {asked[1].id} is right: leave it out"):
        Runner(graph).ballots(asked, torch.device("cpu"))


# --- what it costs


@pytest.mark.parametrize("cost_weight", [0.0, 0.3])
def test_net_utility_takes_off_the_share_of_the_full_graphs_tokens(cost_weight):
    graph = graph_of(*KINDS)
    adjacency = random_dags(20, 7, 1).expand(len(QUESTIONS), -1, -1, -1)
    net = Runner(graph).net_utility(QUESTIONS, adjacency, cost_weight)
    outcome = Runner(graph).run(QUESTIONS, adjacency)
    full = Runner(graph).run(QUESTIONS, graph.full().expand(len(QUESTIONS), 1, -1, -1)).tokens
    assert full.min() > 0
    torch.testing.assert_close(net, outcome.utility - cost_weight * outcome.tokens / full)


def test_expected_net_utility_is_the_mean_over_every_graph():
    """In closed form, and by its local expectation on average: agents that read nobody, of different prices."""
    graph = graph_of(Truthful(ECHO, temperature=2.0), Adversarial(ECHO, mode="letter"), Constant("B"))
    probs, cost_weight = torch.tensor([0.2, 0.7, 0.9]), 0.4
    into = graph.decision_edges.nonzero().flatten()
    edge_probs = torch.full((len(QUESTIONS), graph.num_edges), 0.5)
    edge_probs[:, into] = probs
    total = torch.zeros(len(QUESTIONS))
    for votes in product((False, True), repeat=3):
        edges = torch.zeros(graph.num_edges, dtype=torch.bool)
        edges[into] = torch.tensor(votes)
        weight = torch.where(torch.tensor(votes), probs, 1 - probs).prod()
        adjacency = graph.adjacency(edges).expand(len(QUESTIONS), 1, -1, -1)
        total += weight * Runner(graph).net_utility(QUESTIONS, adjacency, cost_weight)[:, 0]
    exact = Runner(graph).expected_utility(QUESTIONS, edge_probs, cost_weight=cost_weight)
    torch.testing.assert_close(exact, total)
    noise = torch.rand(len(QUESTIONS), 4000, 3, generator=torch.Generator().manual_seed(0))
    local = local_expected_utility(Runner(graph), QUESTIONS, edge_probs, noise, cost_weight)
    torch.testing.assert_close(local, total, rtol=0, atol=0.02)


# --- ancestors


@given(st.integers(1, 7), st.integers(0, 10**6), st.floats(0, 1))
def test_ancestors_are_those_of_networkx(size, seed, density):
    generator = torch.Generator().manual_seed(seed)
    adjacency = torch.rand(2, 3, size, size, generator=generator) < density  # cycles and loops as well
    node = seed % size
    found = ancestors(adjacency, node)
    for b in range(2):
        for k in range(3):
            graph = nx.DiGraph(adjacency[b, k].nonzero().tolist())
            graph.add_node(node)
            expected = nx.ancestors(graph, node) | {node}
            assert set(found[b, k].nonzero().flatten().tolist()) == expected


def test_ancestors_along_the_longest_path():
    chain = torch.diag(torch.ones(19, dtype=torch.bool), 1)
    assert ancestors(chain, 19).all()
    assert ancestors(chain, 7).tolist() == [i <= 7 for i in range(20)]
