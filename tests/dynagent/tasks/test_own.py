"""What somebody brings along: an agent, a decision rule, an edge policy, questions; each against plain arithmetic."""

import csv
from dataclasses import dataclass
from itertools import product
from typing import Any

import datasets
import pandas as pd
import pytest
import torch

from dynagent import AgentGraph, MajorityVote, StaticEdgePolicy, TrainConfig, load_llm, load_questions, questions_from
from dynagent.evaluation.baselines import compare_with_baselines
from dynagent.evaluation.evaluate import evaluate
from dynagent.evaluation.statistics import mean_interval
from dynagent.execution.runner import Runner
from dynagent.learning.loop import train
from dynagent.llm.base import Reply, Request
from tests.support.toy import (
    Knows,
    expected_utility,
    local_expected_utility,
    save_tiny_backbone,
    toy_graph,
    toy_questions,
)

# --- an agent


@dataclass(frozen=True)
class Elimination:
    """Asked which option is wrong; the one that least fits is its answer."""

    llm: Any
    name: str = "Elimination"
    group: str = "elimination"
    reads: bool = False

    def request(self, question: Any, messages: Any = (), sample: int = 0) -> Request:
        return Request(f"{question.text}\nA wrong answer:", tuple(f" {option}" for option in question.options))

    def answer(self, question: Any, reply: Reply, draw: float) -> int:
        return min(range(len(question.options)), key=reply.log_probs.__getitem__)


def test_an_own_agent_answers_what_its_language_model_scores(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))
    llm = load_llm(save_tiny_backbone(tmp_path / "llm"))
    questions = load_questions("sample", "test", limit=12)
    graph = AgentGraph([Elimination(llm), Knows(name="other")], MajorityVote())
    scored = [llm.model.reply([Elimination(llm).request(question)])[0].log_probs for question in questions]
    expected = [scores.index(min(scores)) for scores in scored]
    outcome = Runner(graph).run(questions, graph.single(0).expand(len(questions), 1, -1, -1))
    assert outcome.answers[:, 0, 0].tolist() == expected
    assert len(set(expected)) > 1
    right = [float(option == question.answer) for option, question in zip(expected, questions, strict=True)]
    assert outcome.utility[:, 0].tolist() == right
    assert llm.usage.distinct_calls == len(questions)
    assert (outcome.tokens > 0).all()


# --- a decision rule


class Ahead:
    """The leader wins if it is at least two votes ahead, or alone; else its first agent decides."""

    name = "Ahead"

    def option_probs(self, answers, num_options):
        votes = (answers[..., None] == torch.arange(num_options)).sum(-2)  # [..., C]
        first, second = votes.topk(2, -1).values.unbind(-1)
        ahead = (first - second >= 2) | ((first > 0) & (second == 0))
        chosen = torch.where(ahead, votes.argmax(-1), answers[..., 0])
        return (chosen[..., None] == torch.arange(num_options)).float()


def naive_ahead(answers):
    votes = [sum(answer == option for answer in answers) for option in range(4)]
    first, second, *_ = sorted(votes, reverse=True)
    if first - second >= 2 or (first and not second):
        return votes.index(first)
    return answers[0]


def test_an_own_rule_decides_in_every_estimator():
    """Exact gradients come from enumeration: the expected utility is that of the plain sum over all voters."""
    questions = toy_questions(6, share_of_kind_1=0.5)
    graph = AgentGraph([Knows((0,)), Knows((1,)), Knows((0, 1)), Knows()], Ahead())
    probs = torch.tensor([0.2, 0.5, 0.7, 0.9])
    edge_probs = torch.zeros(len(questions), graph.num_edges)
    edge_probs[:, graph.decision_edges] = probs
    expected = []
    for question in questions:
        total = 0.0
        for heard in product((False, True), repeat=4):
            said = [agent.answer(question, None, 0.0) for agent in graph.team]
            answers = [answer if voice else -2 for answer, voice in zip(said, heard, strict=True)]
            weight = torch.where(torch.tensor(heard), probs, 1 - probs).prod()
            total += float(weight) * (naive_ahead(answers) == question.answer)
        expected.append(total)
    exact = Runner(graph).expected_utility(questions, edge_probs)
    assert exact.tolist() == pytest.approx(expected, abs=1e-6)
    noise = torch.rand(6, 4000, 4, generator=torch.Generator().manual_seed(0))
    estimate = local_expected_utility(Runner(graph), questions, edge_probs, noise)
    assert estimate.tolist() == pytest.approx(expected, abs=0.03)
    for estimator in ("exact", "local_expectation", "leave_one_out"):
        policy = StaticEdgePolicy.for_graph(graph)
        before = expected_utility(policy.edge_logits_of(questions).sigmoid(), graph, questions)
        config = TrainConfig(estimator=estimator, learning_rate=0.2, num_iterations=60, batch_size=6)
        train(policy, graph, questions, config)
        assert expected_utility(policy.edge_logits_of(questions).sigmoid(), graph, questions) > before + 0.2


def test_an_own_rule_for_a_team_too_large_to_enumerate_says_what_to_do():
    graph = AgentGraph([Knows()] * 13, Ahead())
    with pytest.raises(ValueError, match="choose 'local_expectation', or give the decision a method"):
        Runner(graph).expected_utility(toy_questions(2), torch.full((2, graph.num_edges), 0.5))


# --- an edge policy


class ByKind:
    """Whom to hear is written down for each kind of question; no base class."""

    def __init__(self, graph, heard):
        self.graph, self.heard = graph, heard

    def edge_logits_of(self, questions):
        logits = torch.full((len(questions), self.graph.num_edges), -30.0)
        logits[:, self.graph.decision_edges] = torch.tensor([self.heard[question.kind] for question in questions])
        return logits


KNOWS = {0: [30.0, 30.0, -30.0, -30.0], 1: [-30.0, -30.0, 30.0, 30.0]}


def test_an_own_policy_is_judged_beside_all_baselines():
    questions, graph = toy_questions(60), toy_graph()  # 18 of kind 1; each kind is known by two of four agents
    training = questions_named(toy_questions(40), "t")
    halves = StaticEdgePolicy.for_graph(graph, 0.5)
    table = compare_with_baselines(ByKind(graph, KNOWS), graph, questions, training, halves=halves)
    accuracy = table["accuracy"].to_dict()
    kinds = torch.tensor([question.kind for question in questions])
    circle = torch.randperm(60, generator=torch.Generator().manual_seed(TrainConfig().stream("evaluation")))
    shuffled = torch.empty_like(kinds)
    shuffled[circle] = kinds[circle.roll(1)]
    expected = {
        "own, sampled": 1.0,
        "own, most probable": 1.0,
        "own, questions shuffled": float((kinds == shuffled).float().mean()),
        "full graph": 0.5,  # two votes against two
        "single agent, mean over all": 0.5,
        "single agent, best in training": 0.7,
        "static, most probable": 0.7,
    }
    assert {name: accuracy[name] for name in expected} == pytest.approx(expected, abs=1e-3)
    others = {f"{name}, {graphs}" for name in ("halves", "untrained") for graphs in ("sampled", "most probable")}
    others |= {"static, sampled", "random graph, p = 0.5"}
    assert set(accuracy) == set(expected) | others  # nobody says who means well, so that no row tells it
    assert (table["n"] == 60).all()
    for name in expected:
        assert table.loc[name, "own - this"] == pytest.approx(1 - accuracy[name], abs=2e-3)
    gain = mean_interval(torch.tensor([0.0] * 42 + [1.0] * 18))  # over one who knows kind 0
    low, high = map(float, table.loc["single agent, best in training", "its 95 % interval"].split(" to "))
    assert (low, high) == pytest.approx((gain.ci_low, gain.ci_high), abs=0.06)
    assert low > 0
    assert table["calls"]["own, sampled"] == table["tokens"]["own, sampled"] == 2  # one token without a model
    assert table["calls"]["full graph"] == 4
    assert table["calls"]["random graph, p = 0.5"] == pytest.approx(2, abs=0.2)
    assert table["calls"]["untrained, sampled"] == pytest.approx(4 * 3 / 8, abs=0.2)


def questions_named(questions, prefix):
    from dataclasses import replace

    return [replace(question, id=prefix + question.id) for question in questions]


def test_without_training_questions_nothing_is_trained():
    questions, graph = toy_questions(10), toy_graph()
    table = compare_with_baselines(ByKind(graph, KNOWS), graph, questions)
    assert not [name for name in table.index if "static" in name or "training" in name]


def test_who_says_that_they_mean_well_is_told_apart():
    questions = toy_questions(10)
    graph = AgentGraph([Knows((0, 1), group="truthful"), Knows(), Knows()], MajorityVote())
    policy = StaticEdgePolicy.for_graph(graph, 0.9)
    table = compare_with_baselines(policy, graph, questions)
    assert table["accuracy"]["truthful agents only (told, not learned)"] == 1.0
    assert table["own - this"]["truthful agents only (told, not learned)"] == -1.0


def test_an_evaluation_leaves_an_own_policys_logits_alone():
    questions, graph = toy_questions(10), toy_graph()
    kept = ByKind(graph, KNOWS).edge_logits_of(questions)
    before = kept.clone()

    class Kept:
        def edge_logits_of(self, questions):
            return kept

    evaluate(Kept(), graph, questions, shuffle=True)
    assert torch.equal(kept, before)


@pytest.mark.parametrize("logits", [torch.zeros(10, 4), torch.zeros(9, 16), torch.full((10, 16), torch.nan)])
def test_logits_that_do_not_fit_are_refused(logits):
    class Wrong:
        def edge_logits_of(self, questions):
            return logits

    with pytest.raises(ValueError, match="10 questions with finite logits of 16 edges"):
        evaluate(Wrong(), toy_graph(), toy_questions(10))


def test_questions_that_were_trained_on_are_refused():
    questions, graph = toy_questions(10), toy_graph()
    with pytest.raises(ValueError, match="3 of the training questions are also evaluated on"):
        compare_with_baselines(ByKind(graph, KNOWS), graph, questions, questions[:3])


# --- questions


SAMPLE = load_questions("sample", "test")


def as_columns(question):
    letters = dict(zip("ABCD", question.options, strict=True)) | {"answer": "ABCD"[question.answer]}
    return {"question": question.text, "subject": question.subject, "language": question.language} | letters


def as_list(question):
    named = {"question": question.text, "choices": list(question.options), "answer": question.answer}
    return named | {"subject": question.subject, "language": question.language}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "own.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(as_columns(SAMPLE[0])))
        writer.writeheader()
        writer.writerows(map(as_columns, reversed(SAMPLE)))
    return path


def test_questions_come_back_from_a_csv_and_from_a_dataset(table):
    given = [
        questions_from(table),
        questions_from(datasets.Dataset.from_list([as_list(question) for question in SAMPLE])),
        questions_from(pd.read_csv(table).to_dict("records")),
        questions_from(datasets.Dataset.from_csv(str(table), cache_dir=str(table.parent / "cache"))),
    ]
    for questions in given:
        assert questions.items == SAMPLE.items
        assert questions.sources[0].sha256 == given[0].sources[0].sha256
    assert given[0].sources[0].location == str(table)
    train, test = given[0][:40], given[0][40:]
    assert not {question.id for question in train} & {question.id for question in test}


def test_another_answer_is_another_source():
    row = as_list(SAMPLE[0])
    other = row | {"answer": (row["answer"] + 1) % 4}
    assert questions_from([row]).sources[0].sha256 != questions_from([other]).sources[0].sha256


def test_a_question_that_occurs_twice_counts_once():
    assert len(questions_from([as_list(SAMPLE[0]), as_columns(SAMPLE[0])])) == 1


def test_numbers_are_texts_and_subjects_may_be_areas():
    row = {"question": "1 + 1 = ?", "A": 1, "B": 2, "C": 3, "D": 4, "answer": "B"}
    question = questions_from([row])[0]
    assert (question.options, question.answer, question.area) == (("1", "2", "3", "4"), 1, "other")
    assert questions_from([row | {"subject": "stem"}])[0].area == "stem"
    assert questions_from([row | {"subject": "Abstract Algebra"}])[0].area == "stem"


GOOD = {"question": "?", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "B"}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([GOOD, {"question": "?"}], "row 2, has no A, B, C, D, answer"),
        ([{"question": "?", "choices": ["1", "2"], "answer": 0}], "row 1, has 4 values instead of"),
        ([GOOD | {"C": ""}], "row 1, has an empty question or option"),
        ([GOOD | {"C": None}], "row 1, has an empty question or option"),
        ([GOOD | {"answer": "E"}], "row 1, gives 'E' as the right answer"),
        ([GOOD | {"answer": 4}], "row 1, gives '4' as the right answer"),
        ([GOOD, GOOD | {"answer": "C"}], "row 2, answers a question in another way than an earlier row"),
        ([GOOD | {"language": "fr"}], "row 1, has language 'fr'"),
    ],
)
def test_rows_that_are_no_questions_are_named(rows, sentence):
    with pytest.raises(ValueError, match=sentence):
        questions_from(rows)


def test_a_csv_without_a_column_is_refused_with_its_name(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("question,A,B,C,answer\n?,1,2,3,A\n")
    with pytest.raises(ValueError, match=r"own\.csv, row 1, has no D: give question, A to D or choices, answer\."):
        questions_from(path)
