"""Evaluation against naive loops, and intervals that cover what they claim to cover."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynagent.evaluation.evaluate import (
    CHUNK,
    Evaluation,
    average,
    difference,
    evaluate,
    evaluate_graph,
    truthful_graphs,
    truthful_ratio,
)
from dynagent.evaluation.statistics import mean_interval
from dynagent.execution.runner import Runner
from dynagent.graph import AgentGraph
from dynagent.policies.base import Policy
from dynagent.tasks.multiple_choice import Question
from dynagent.team.agents import Specialist
from dynagent.team.votes import MajorityVote

NUM_AGENTS = 4


class Scripted:
    """Answers what stands in the question's text at its position; "-" is a reply without a letter."""

    reads = False
    llm = None

    def __init__(self, position, group="truthful"):
        self.position = position
        self.name = self.group = group

    def answer(self, question, reply, draw):
        return "ABCD".find(question.text[self.position])


class Table(Policy):
    """Edge logits that were written down: {question id: [E]}."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def edge_logits_of(self, questions):
        return torch.stack([self.logits[question.id] for question in questions])


def make_questions(n, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.choice(list("ABCD-"), size=(n, NUM_AGENTS), p=[0.3, 0.2, 0.2, 0.1, 0.2])
    return [
        Question("".join(row) + f" {i}", ("a", "b", "c", "d"), int(rng.integers(3)), "physics", "en")
        for i, row in enumerate(rows)
    ]


GRAPH = AgentGraph([Scripted(i) for i in range(NUM_AGENTS)], MajorityVote())
INTO_DECISION = GRAPH.decision_edges.nonzero().flatten().tolist()


def logits_for(questions, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return {q.id: scale * torch.randn(GRAPH.num_edges, generator=generator) for q in questions}


def score_of(question, voters):
    """Probability that these agents' vote is right, ties split."""
    votes = Counter(question.text[i] for i in voters if question.text[i] != "-")
    winners = [letter for letter, count in votes.items() if count == max(votes.values())]
    return ("ABCD"[question.answer] in winners) / max(1, len(winners))


def exact_scores(questions, logits):
    """Expected score, its variance over graphs, edges, and probability of no vote, over all subsets of voters."""
    rows = []
    for question in questions:
        p = logits[question.id][INTO_DECISION].double().sigmoid()
        mean, square, silent = 0.0, 0.0, 0.0
        for taken in product([False, True], repeat=NUM_AGENTS):
            mask = torch.tensor(taken)
            weight = float(torch.where(mask, p, 1 - p).prod())
            voters = [i for i in range(NUM_AGENTS) if taken[i]]
            score = score_of(question, voters)
            mean, square = mean + weight * score, square + weight * score**2
            silent += weight * all(question.text[i] == "-" for i in voters)
        rows.append((mean, max(0.0, square - mean**2), float(p.sum()), silent))
    return torch.tensor(rows, dtype=torch.float64).T


# --- scores


def test_most_probable_graphs_are_scored_as_in_a_loop():
    questions = make_questions(CHUNK + 40)  # more than are held in memory at a time
    logits = logits_for(questions)
    evaluation = evaluate(Table(logits), GRAPH, questions, graphs="most_probable")
    voters = [[i for i, edge in enumerate(INTO_DECISION) if logits[q.id][edge] >= 0] for q in questions]
    assert evaluation.scores.tolist() == pytest.approx(
        [score_of(*pair) for pair in zip(questions, voters, strict=True)]
    )
    assert evaluation.num_edges == pytest.approx(np.mean([len(row) for row in voters]))
    assert evaluation.num_agents_asked == pytest.approx(evaluation.num_edges)
    silent = [all(q.text[i] == "-" for i in row) for q, row in zip(questions, voters, strict=True)]
    assert evaluation.no_answer == pytest.approx(np.mean(silent))
    assert sum(silent) > 5
    torch.testing.assert_close(evaluation.edge_probs, torch.stack([logits[q.id] for q in questions]).sigmoid())


def test_sampled_graphs_have_the_expected_score_over_all_subsets():
    """Every question's mean of 4,000 graphs lies within 5 deviations of the expectation over the 16 subsets."""
    questions, num_graphs = make_questions(30), 4000
    logits = logits_for(questions, scale=1.0)
    evaluation = evaluate(Table(logits), GRAPH, questions, num_graphs=num_graphs)
    mean, variance, num_edges, silent = exact_scores(questions, logits)
    deviation = (variance / num_graphs).sqrt()
    assert ((evaluation.scores.double() - mean).abs() <= 5 * deviation + 1e-6).all()
    assert deviation.max() > 0.005
    assert evaluation.num_edges == pytest.approx(num_edges.mean().item(), abs=0.02)
    assert evaluation.no_answer == pytest.approx(silent.mean().item(), abs=0.01)


def test_the_same_seed_draws_the_same_graphs():
    questions = make_questions(20)
    policy = Table(logits_for(questions, scale=0.5))
    one, two, other = (evaluate(policy, GRAPH, questions, seed=seed).scores for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_sure_edges_leave_nothing_to_chance():
    questions = make_questions(40)
    logits = {question: 100 * values.sign() for question, values in logits_for(questions).items()}
    sampled, probable = (evaluate(Table(logits), GRAPH, questions, graphs=g) for g in ("sampled", "most_probable"))
    torch.testing.assert_close(sampled.scores, probable.scores)
    assert sampled.num_edges == probable.num_edges


@settings(max_examples=25)
@given(st.lists(st.integers(0, NUM_AGENTS - 1), unique=True, max_size=NUM_AGENTS))
def test_a_given_graph_is_scored_as_in_a_loop(voters):
    questions = make_questions(CHUNK + 3)
    into = torch.tensor(
        [source in voters and target == NUM_AGENTS for source, target in GRAPH.potential_edges.tolist()]
    )
    evaluation = evaluate_graph(GRAPH.adjacency(into), questions, Runner(GRAPH))
    assert evaluation.scores.tolist() == pytest.approx([score_of(question, voters) for question in questions])
    assert evaluation.num_edges == evaluation.num_agents_asked == len(voters)
    silent = np.mean([all(q.text[i] == "-" for i in voters) for q in questions])
    assert evaluation.no_answer == pytest.approx(silent)
    assert evaluation.edge_probs is None


def test_every_question_may_have_a_graph_of_its_own():
    questions = make_questions(CHUNK + 9)
    singles = torch.stack([GRAPH.single(i % NUM_AGENTS) for i in range(len(questions))])
    evaluation = evaluate_graph(singles, questions, Runner(GRAPH))
    expected = [float(q.text[i % NUM_AGENTS] == "ABCD"[q.answer]) for i, q in enumerate(questions)]
    assert evaluation.scores.tolist() == expected
    assert evaluation.num_edges == 1


def test_shuffling_gives_every_question_the_graph_of_another():
    """Each question has one voter of its own; after shuffling the voters are the same, but elsewhere."""
    questions = make_questions(60)
    logits = {}
    for i, question in enumerate(questions):
        logits[question.id] = torch.full((GRAPH.num_edges,), -20.0 - i / 100)
        logits[question.id][INTO_DECISION[i % NUM_AGENTS]] = 20.0
    policy = Table(logits)
    straight = evaluate(policy, GRAPH, questions, graphs="most_probable")
    shuffled = evaluate(policy, GRAPH, questions, graphs="most_probable", shuffle=True)
    torch.testing.assert_close(straight.edge_probs, torch.stack([logits[q.id] for q in questions]).sigmoid())
    assert sorted(shuffled.edge_probs.tolist()) == sorted(straight.edge_probs.tolist())
    moved = (shuffled.edge_probs != straight.edge_probs).any(1)
    assert moved.float().mean() > 0.9
    voters = shuffled.edge_probs[:, INTO_DECISION].argmax(1).tolist()
    expected = [float(q.text[i] == "ABCD"[q.answer]) for q, i in zip(questions, voters, strict=True)]
    assert shuffled.scores.tolist() == expected
    again = evaluate(policy, GRAPH, questions, graphs="most_probable", shuffle=True)
    assert torch.equal(again.edge_probs, shuffled.edge_probs)


def test_an_unknown_kind_of_graphs_is_one_sentence():
    questions = make_questions(2)
    with pytest.raises(ValueError, match=r"^The graphs are 'sampled' or 'most_probable', not 'best'\.$"):
        evaluate(Table(logits_for(questions)), GRAPH, questions, graphs="best")


# --- who means well


STEM = Question("?", ("a", "b", "c", "d"), 0, "physics", "en")
ARTS = Question("?!", ("a", "b", "c", "d"), 0, "history", "zh")


def mixed_graph():
    """A specialist in science, one in Chinese, and an agent without opinions on truth but with a group."""
    return AgentGraph(
        [Specialist(None, domain="stem"), Specialist(None, domain="zh"), Scripted(0, "adversarial")], MajorityVote()
    )


def test_truthful_ratio_by_hand():
    """Truthful: the first agent on STEM (.8), the second on ARTS (.5); all other pairs are not (.2 .3 .4 .1)."""
    graph = mixed_graph()
    probs = torch.full((2, graph.num_edges), 0.99)  # edges between agents do not count
    probs[:, graph.decision_edges] = torch.tensor([[0.8, 0.2, 0.3], [0.4, 0.5, 0.1]])
    ratio = truthful_ratio(probs, graph, [STEM, ARTS])
    assert ratio == pytest.approx(((0.8 + 0.5) / 2) / ((0.2 + 0.3 + 0.4 + 0.1) / 4))
    assert truthful_ratio(torch.full_like(probs, 0.5), graph, [STEM, ARTS]) == pytest.approx(1)


def test_truthful_graphs_by_hand():
    graphs = truthful_graphs(mixed_graph(), [STEM, ARTS])
    assert [sorted(map(tuple, dag.nonzero().tolist())) for dag in graphs] == [[(0, 3)], [(1, 3)]]


# --- intervals


def of(scores):
    return Evaluation(torch.as_tensor(scores, dtype=torch.float64), 0.0, 0.0, 0.0)


def test_a_difference_is_paired():
    """Two evaluations that agree but for 8 of 400 questions: unpaired intervals overlap, the paired one is clear."""
    rng = np.random.default_rng(0)
    other = (rng.random(400) < 0.5).astype(float)
    one = other.copy()
    one[np.flatnonzero(other == 0)[:8]] = 1
    effect = difference(of(one), of(other))
    assert effect.mean == pytest.approx(0.02)
    assert 0 < effect.ci_low < 0.02 < effect.ci_high < 0.04
    assert of(one).accuracy.ci_low < of(other).accuracy.ci_high
    unpaired = difference(of(one), of(rng.permutation(other)))
    assert unpaired.mean == pytest.approx(0.02)
    assert unpaired.ci_low < 0 < unpaired.ci_high
    assert unpaired.ci_high - unpaired.ci_low > 3 * (effect.ci_high - effect.ci_low)
    with pytest.raises(ValueError, match="same questions"):
        difference(of(one), of(other[1:]))


def test_the_interval_covers_the_mean_as_often_as_it_says():
    """400 samples of 150 scores between 0 and 1: a coverage of 95 % has a standard error of 1.1 points."""
    rng = np.random.default_rng(0)
    covered = 0
    for repetition in range(400):
        estimate = mean_interval(rng.beta(0.5, 0.7, size=150), num_resamples=500, seed=repetition)
        covered += estimate.ci_low <= 0.5 / 1.2 <= estimate.ci_high
    assert 0.93 <= covered / 400 <= 0.97


@pytest.mark.parametrize("p", [0.5, 0.1])
def test_the_interval_agrees_with_the_normal_one(p):
    """On 1,000 questions; the bootstrap's own noise on a bound is about 5 % of the deviation."""
    scores = (np.random.default_rng(0).random(1000) < p).astype(float)
    estimate = mean_interval(scores)
    deviation = scores.std(ddof=1) / np.sqrt(len(scores))
    assert estimate.mean == scores.mean()
    assert (estimate.ci_low - estimate.mean) / deviation == pytest.approx(-1.96, abs=0.15)
    assert (estimate.ci_high - estimate.mean) / deviation == pytest.approx(1.96, abs=0.15)
    assert estimate.n == 1000
    assert estimate == mean_interval(torch.tensor(scores)) == mean_interval(scores.tolist())


@pytest.mark.parametrize("scores", [[0.5], [1.0] * 30, [0.0, 0.0]])
def test_scores_without_spread_have_an_interval_without_width(scores):
    estimate = mean_interval(scores)
    assert (estimate.ci_low, estimate.mean, estimate.ci_high) == (scores[0],) * 3


def test_the_average_is_taken_question_by_question():
    one = Evaluation(torch.tensor([1.0, 0.0, 0.5]), 1.0, 2.0, 0.0)
    other = Evaluation(torch.tensor([0.0, 0.0, 1.0]), 3.0, 3.0, 0.5)
    mean = average([one, other])
    assert mean.scores.tolist() == [0.5, 0.0, 0.75]
    assert (mean.num_edges, mean.num_agents_asked, mean.no_answer) == (2.0, 2.5, 0.25)
