"""Known-answer worlds: what is computed equals what is enumerated and what is drawn, and the optimum is the optimum."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dynagent.execution.runner import Runner
from dynagent.graph import AgentGraph
from dynagent.team.votes import NOT_ASKED, MajorityVote
from dynagent.worlds.simulated import Simulated
from dynagent.worlds.teams import load_world
from dynagent.worlds.world import World

RECORDINGS = Path(__file__).resolve().parents[3] / "results" / "recordings"
DYNAMIC = ("routing", "mixture", "scale")


@dataclass(frozen=True)
class WorldQuestion:
    id: str
    language: str
    answer: int
    options: tuple[str, ...] = ("one", "two", "three", "four")


def questions(num_questions: int) -> list[WorldQuestion]:
    """Both languages and all right answers equally often."""
    return [WorldQuestion(f"q{i}", ("en", "zh")[i % 2], i // 2 % 4) for i in range(num_questions)]


def agent(english: float, chinese: float, **options) -> Simulated:
    return Simulated({"en": english, "zh": chinese}, **options)


# By kind, agents of which no two are alike.
TEAMS = {
    "independent": [agent(0.7, 0.3), agent(0.45, 0.5), agent(0.2, 0.65), agent(0.55, 0.1)],
    "correlated": [
        agent(0.7, 0.3, shared=0.8), agent(0.45, 0.5, shared=0.6), agent(0.2, 0.65, shared=0.6), agent(0.6, 0.4),
    ],
    "constant": [agent(0.7, 0.3), agent(0.4, 0.6), agent(0, 0, kind="constant"), agent(0.5, 0.5)],
    "colluding": [agent(0.7, 0.3), agent(0.5, 0.6), agent(0, 0, kind="colluding"), agent(0, 0, kind="colluding")],
}  # fmt: skip


def world(team, num_questions: int = 16, **options) -> World:
    graph = AgentGraph(team, MajorityVote())
    return World("toy", graph, "language", questions(num_questions), questions(num_questions), **options)


# --- the plain way


def answer_probs(agent: Simulated, question, low: float, high: float, common: int) -> Tensor:
    """Of the four letters, given that the shared draw lies from low to high and which wrong letter is common: [4]."""
    probs = torch.zeros(4, dtype=torch.float64)
    if agent.kind == "constant":
        probs[0] = 1
    elif agent.kind == "colluding":
        probs[common] = 1
    else:
        accuracy = agent.accuracy[question.language]
        probs += (1 - agent.shared) * (1 - accuracy) / 3
        probs[question.answer] = (1 - agent.shared) * accuracy
        probs[question.answer if high <= accuracy else common] += agent.shared
    assert float(probs.sum()) == pytest.approx(1)
    return probs


def enumerated_accuracies(team, question) -> Tensor:
    """Probability of a right answer for every choice of voters, over all combinations of answers: [2^N]."""
    num_agents = len(team)
    answers = torch.tensor(list(product(range(4), repeat=num_agents)))  # [4^N, N]
    subsets = every_subset(num_agents)  # [2^N, N]
    heard = torch.where(subsets[:, None], answers, NOT_ASKED)
    right = MajorityVote().option_probs(heard, 4)[..., question.answer].double()  # [2^N, 4^N]
    cuts = sorted({0.0, 1.0, *(one.accuracy[question.language] for one in team)})
    total = torch.zeros(len(subsets), dtype=torch.float64)
    for low, high in pairwise(cuts):
        for step in (1, 2, 3):
            common = (question.answer + step) % 4
            of_agents = torch.stack([answer_probs(one, question, low, high, common) for one in team])  # [N, 4]
            weights = of_agents[torch.arange(num_agents), answers].prod(-1)  # [4^N]
            total += (high - low) / 3 * (right @ weights)
    return total


def every_subset(num_agents: int) -> Tensor:
    return torch.tensor(list(product((False, True), repeat=num_agents)))


def values_by_domain(of: World) -> dict[str, Tensor]:
    """Accuracy of every choice of voters on the questions of each domain, weighted by their share: [2^N]."""
    values: dict[str, Tensor] = {}
    for question in of.eval_questions:
        found = enumerated_accuracies(of.graph.team, question) / len(of.eval_questions)
        values[question.language] = values.get(question.language, 0) + found
    return values


# --- accuracy


@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize("kind", TEAMS)
def test_accuracy_equals_the_enumeration_of_all_answers_and_graphs(kind, size):
    of = world(TEAMS[kind][:size], 8)
    vote_probs = torch.rand(8, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    subsets = every_subset(size)
    found = of.accuracy(vote_probs, of.eval_questions)
    assert found.shape == (8,)
    for question, probs, accuracy in zip(of.eval_questions, vote_probs, found, strict=True):
        weights = torch.where(subsets, probs, 1 - probs).prod(-1)  # [2^N]
        assert float(accuracy) == pytest.approx(
            float(weights @ enumerated_accuracies(of.graph.team, question)), abs=1e-6
        )


@pytest.mark.parametrize("kind", TEAMS)
def test_accuracy_is_how_often_drawn_answers_along_drawn_graphs_are_right(kind):
    of = world(TEAMS[kind] + TEAMS[kind][:2], 6000)
    generator = torch.Generator().manual_seed(0)
    vote_probs = torch.rand(6000, 6, generator=generator)
    edges = torch.zeros(6000, 1, of.graph.num_edges, dtype=torch.bool)
    edges[..., of.graph.decision_edges] = (torch.rand(6000, 6, generator=generator) < vote_probs)[:, None]
    utility = Runner(of.graph, seed=1).run(of.eval_questions, of.graph.adjacency(edges)).utility[:, 0]
    difference = utility.double() - of.accuracy(vote_probs, of.eval_questions)
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / 6000**0.5
    assert float(difference.std()) / 6000**0.5 < 0.01


def test_questions_are_independent_of_their_number():
    """They are worked off in chunks."""
    of = world(TEAMS["correlated"], 300)
    vote_probs = torch.rand(300, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = of.accuracy(vote_probs, of.eval_questions)
    for index in (0, 127, 128, 299):
        alone = of.accuracy(vote_probs[index : index + 1], [of.eval_questions[index]])
        torch.testing.assert_close(alone, whole[index : index + 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("other", [agent(0, 0, kind="colluding"), agent(0.5, 0.5, shared=0.3)])
def test_two_common_wrong_letters_in_one_world_are_refused(other):
    of = world([agent(0.5, 0.5), agent(0, 0, kind="constant"), other])
    with pytest.raises(ValueError, match=r"^A world has one common wrong letter: .*constant.*\.$"):
        _ = of.full


# --- the best that can be done


@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize("kind", TEAMS)
def test_the_optimum_equals_a_search_through_all_subsets(kind, size):
    of = world(TEAMS[kind][:size], 16)
    values, subsets = values_by_domain(of), every_subset(size)
    total = sum(values.values())
    assert of.full == pytest.approx(float(total[-1]), abs=1e-6)
    alone = subsets.sum(1) == 1
    for optimum, best in (
        (of.best_single, float(total[alone].max())),
        (of.best_static, float(total.max())),
        (of.best_per_domain, sum(float(row.max()) for row in values.values())),
    ):
        assert optimum.accuracy == pytest.approx(best, abs=1e-6)
        assert optimum.votes.keys() == values.keys()
        reached = 0.0
        for domain, votes in optimum.votes.items():
            index = int((subsets == torch.tensor(votes)).all(1).nonzero())
            reached += float(values[domain][index])
        assert reached == pytest.approx(best, abs=1e-6), "the wiring is worth what it says"
    assert len(set(of.best_static.votes.values())) == 1
    assert sum(next(iter(of.best_single.votes.values()))) == 1
    assert of.best_single.accuracy <= of.best_static.accuracy <= of.best_per_domain.accuracy <= of.best_per_question


@pytest.mark.parametrize("cost", [0.0, 0.02, 0.1, 1.0])
def test_the_optimum_at_a_cost_equals_a_search_through_all_subsets(cost):
    of = world(TEAMS["independent"], 16)
    values, subsets = values_by_domain(of), every_subset(4)
    spent = cost * subsets.sum(1) / 2
    best = {domain: float((row - spent).max()) for domain, row in values.items()}
    optimum = of.best_at_cost(cost)
    net = optimum.accuracy - sum(cost * sum(votes) / 2 for votes in optimum.votes.values())
    assert net == pytest.approx(sum(best.values()), abs=1e-6)
    assert cost < 1 or not any(map(any, optimum.votes.values())), "nobody is worth that much"


@pytest.mark.parametrize("symmetric", [True, False])
def test_agents_that_are_alike_are_counted_and_nothing_is_missed(symmetric):
    """Two specialists for each language; whether or not the symmetry of the languages is used."""
    of = world([agent(0.7, 0.3)] * 2 + [agent(0.3, 0.7)] * 2, 8, symmetric=symmetric)
    values = values_by_domain(of)
    assert of.best_static.accuracy == pytest.approx(float(sum(values.values()).max()), abs=1e-6)
    assert of.best_per_domain.accuracy == pytest.approx(sum(float(row.max()) for row in values.values()), abs=1e-6)


@pytest.mark.parametrize("kind", TEAMS)
def test_an_oracle_is_right_when_any_agent_is(kind):
    of = world(TEAMS[kind], 4000)
    full = of.graph.full().expand(4000, 1, -1, -1)
    answers = Runner(of.graph, seed=2).run(of.eval_questions, full).answers[:, 0]  # [n, N]
    right = (answers == torch.tensor([question.answer for question in of.eval_questions])[:, None]).any(1).double()
    assert float(right.mean()) == pytest.approx(of.best_per_question, abs=4 * float(right.std()) / 4000**0.5)


def test_headroom_is_zero_for_what_is_easy_and_one_for_the_optimum():
    dynamic = world(TEAMS["independent"])
    assert dynamic.headroom(dynamic.best_static.accuracy) == pytest.approx(0)
    assert dynamic.headroom(dynamic.best_per_domain.accuracy) == pytest.approx(1)
    static = world(TEAMS["colluding"], dynamic=False)
    assert static.headroom(static.full) == pytest.approx(0)
    assert static.headroom(static.best_static.accuracy) == pytest.approx(1)


# --- simulated agents


@pytest.mark.parametrize(("shared", "correlation"), [(0.0, 0.0), (0.5, 0.25), (0.8, 0.64), (1.0, 1.0)])
def test_errors_of_two_agents_correlate_as_stated(shared, correlation):
    n = 20_000
    asked = questions(n)
    graph = AgentGraph([agent(0.55, 0.55, shared=shared)] * 2, MajorityVote())
    answers = Runner(graph, seed=3).run(asked, graph.full().expand(n, 1, -1, -1)).answers[:, 0]  # [n, 2]
    wrong = (answers != torch.tensor([question.answer for question in asked])[:, None]).double()
    found = float(torch.corrcoef(wrong.T)[0, 1])
    assert found == pytest.approx(correlation, abs=4 * (1 - correlation**2) / n**0.5 + 1e-6)
    sigma = (0.45 * 0.55 / n) ** 0.5
    assert (wrong.mean(0) - 0.45).abs().max() < 4 * sigma


def test_wrong_letters_are_equally_frequent():
    n = 12_000
    asked = [WorldQuestion(f"q{i}", "en", 2) for i in range(n)]
    graph = AgentGraph([agent(0.4, 0.4), agent(0.4, 0.4, shared=0.9), agent(0, 0, kind="colluding")], MajorityVote())
    answers = Runner(graph).run(asked, graph.full().expand(n, 1, -1, -1)).answers[:, 0]
    for row, accuracy in zip(answers.T.tolist(), (0.4, 0.4, 0.0), strict=True):
        counts = Counter(row)
        for letter in range(4):
            p = accuracy if letter == 2 else (1 - accuracy) / 3
            assert abs(counts[letter] / n - p) <= 4 * (p * (1 - p) / n) ** 0.5, letter


def test_agents_that_share_a_draw_err_together_and_alike():
    """Whoever is wrong on a shared draw names the question's common letter, and the better agent is right as well."""
    asked = questions(2000)
    graph = AgentGraph([agent(0.2, 0.3, shared=1.0), agent(0.6, 0.5, shared=1.0)], MajorityVote())
    first, second = Runner(graph).run(asked, graph.full().expand(2000, 1, -1, -1)).answers[:, 0].T
    right = torch.tensor([question.answer for question in asked])
    assert torch.equal(second[first == right], right[first == right])
    both_wrong = (first != right) & (second != right)
    assert int(both_wrong.sum()) > 500
    assert torch.equal(first[both_wrong], second[both_wrong])


def test_colluders_name_one_letter_and_a_constant_agent_a():
    graph = AgentGraph([agent(0, 0, kind="colluding")] * 3 + [agent(0, 0, kind="constant")], MajorityVote())
    asked = questions(200)
    answers = Runner(graph).run(asked, graph.full().expand(200, 1, -1, -1)).answers[:, 0]
    assert torch.equal(answers[:, 0], answers[:, 1])
    assert torch.equal(answers[:, 0], answers[:, 2])
    assert not (answers[:, 0] == torch.tensor([question.answer for question in asked])).any()
    assert not answers[:, 3].any()


def test_answers_are_determined_by_seed_question_and_position():
    def answers(asked, seed=0, shared_seed=0):
        graph = AgentGraph([agent(0.5, 0.4, shared=0.5, seed=shared_seed)] * 3, MajorityVote())
        full = graph.full().expand(len(asked), 1, -1, -1)
        return Runner(graph, seed).run(asked, full).answers[:, 0]  # [n, N]

    asked = questions(300)
    expected = answers(asked)
    assert torch.equal(answers(asked), expected)
    assert torch.equal(answers(asked[::-1]).flip(0), expected)
    assert torch.equal(answers(asked[100:130]), expected[100:130])
    assert not torch.equal(answers(asked, seed=1), expected)
    assert not torch.equal(answers(asked, shared_seed=1), expected)
    assert not torch.equal(expected[:, 0], expected[:, 1]), "agents at other places have luck of their own"


# --- the worlds


@pytest.fixture(scope="module")
def worlds() -> dict[str, World]:
    return {name: load_world(name, RECORDINGS) for name in (*DYNAMIC, "adversarial")}


@pytest.mark.parametrize("name", ["routing", "mixture", pytest.param("scale", marks=pytest.mark.slow)])
def test_in_a_dynamic_world_reading_the_question_pays(worlds, name):
    of = worlds[name]
    assert of.dynamic
    assert of.best_per_domain.accuracy - of.best_static.accuracy >= 0.05
    assert len(set(of.best_per_domain.votes.values())) > 1
    assert of.best_per_question > of.best_per_domain.accuracy


@pytest.mark.parametrize("kind", ["colluding", "constant", "wrong"])
def test_among_adversaries_one_wiring_is_best_for_all_questions(kind):
    of = load_world("adversarial", RECORDINGS, kind=kind)
    assert not of.dynamic
    assert of.best_static.accuracy - of.full >= 0.05
    (votes,) = of.best_static.votes.values()
    assert votes == (True,) * 8 + (False,) * 8
    assert of.best_per_domain.accuracy == of.best_static.accuracy


@pytest.mark.parametrize("name", [*DYNAMIC, "adversarial"])
def test_training_and_held_out_questions_share_none_and_are_alike(worlds, name):
    of = worlds[name]
    train, held_out = ({question.id for question in part} for part in (of.train_questions, of.eval_questions))
    assert not train & held_out
    assert (len(train), len(held_out)) == (len(of.train_questions), len(of.eval_questions))
    for part in (of.train_questions, of.eval_questions):
        counts = Counter(map(of.domain, part))
        assert counts.keys() == of.graph.team[0].accuracy.keys()
        assert len(set(counts.values())) == 1
    assert len(train) <= 768


@pytest.mark.parametrize("name", DYNAMIC)
def test_held_out_questions_depend_on_the_seed_and_not_on_the_number_of_training_questions(worlds, name):
    of = worlds[name]
    fewer = load_world(name, RECORDINGS, num_train=100)
    assert fewer.eval_questions == of.eval_questions
    assert 0 < len(fewer.train_questions) <= 100
    assert {question.id for question in fewer.train_questions} < {question.id for question in of.train_questions}
    other = load_world(name, RECORDINGS, seed=1)
    assert {question.id for question in other.eval_questions} != {question.id for question in of.eval_questions}


def test_correlated_routing_has_less_to_gain():
    """Agents that err together are no crowd."""
    optima = [load_world("routing", RECORDINGS, correlation=c).best_per_domain.accuracy for c in (0.0, 0.3, 0.9)]
    assert optima[0] > optima[1] > optima[2] > 0.55


def test_a_shuffled_team_has_the_same_agents_and_the_same_optimum(worlds):
    shuffled = load_world("routing", RECORDINGS, shuffled=True)
    plain = worlds["routing"]
    assert Counter(one.name for one in shuffled.graph.team) == Counter(one.name for one in plain.graph.team)
    assert [one.name for one in shuffled.graph.team] != [one.name for one in plain.graph.team]
    assert shuffled.best_per_domain.accuracy == pytest.approx(plain.best_per_domain.accuracy)
    for domain, votes in shuffled.best_per_domain.votes.items():
        voters = [one.group for one, vote in zip(shuffled.graph.team, votes, strict=True) if vote]
        assert Counter(voters)[domain] == 4
