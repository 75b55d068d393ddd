"""Controls expose policies that know less than they seem to, and pass one that reads its questions."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from dynagent.evaluation.controls import CONTROLS, TabulatedPolicy, control_policies, explanation
from dynagent.evaluation.statistics import mean_interval
from dynagent.graph import AgentGraph
from dynagent.team.votes import MajorityVote
from dynagent.worlds.simulated import Simulated
from dynagent.worlds.world import World


@dataclass(frozen=True)
class Asked:
    """A question whose domain need not be its subject."""

    id: str
    domain: str
    subject: str = "all"
    language: str = "en"
    answer: int = 0
    options: tuple[str, ...] = ("1", "2", "3", "4")


def specialists(domains):
    return [
        Simulated({other: 0.8 if other == own else 0.1 for other in domains}, "domain", group=own)
        for own in domains
        for _ in range(2)
    ]


def world_of(questions, domains=("a", "b")):
    train, held_out = questions[::2], questions[1::2]
    return World("toy", AgentGraph(specialists(domains), MajorityVote()), "domain", train, held_out)


def planted(world, vote_for):
    """A policy that listens to the specialists of the domain that `vote_for` gives for a question."""
    table = {}
    for question in [*world.train_questions, *world.eval_questions]:
        votes = torch.tensor([agent.group == vote_for(question) for agent in world.graph.team])
        logits = torch.zeros(world.graph.num_edges)
        logits[world.graph.decision_edges] = torch.where(votes, 4.0, -4.0)
        table[question.id] = logits
    return TabulatedPolicy(table)


def verdict(world, policy):
    def scores(of):
        votes = of.edge_logits_of(world.eval_questions)[:, world.graph.decision_edges] >= 0
        return world.accuracy(votes.double(), world.eval_questions)

    controls = control_policies(policy, world.train_questions, world.eval_questions)
    assert tuple(controls) == CONTROLS
    gains = {name: mean_interval(scores(policy) - scores(control)) for name, control in controls.items()}
    return gains, explanation(gains)


def alternating(attribute, n=80, **same):
    """Questions whose domain is "a" or "b"; `attribute` says it."""
    names = {"language": ("en", "zh"), "subject": ("x", "y"), "nothing": (None, None)}[attribute]
    found = []
    for i in range(n):
        which = (i // 2) % 2
        told = {} if attribute == "nothing" else {attribute: names[which]}
        found.append(Asked(f"q{i}", "ab"[which], **told, **same))
    return found


def test_a_language_only_policy_is_exposed():
    world = world_of(alternating("language"))
    gains, said = verdict(world, planted(world, lambda q: "a" if q.language == "en" else "b"))
    assert said.startswith("a language router")
    assert gains["language router"].mean == pytest.approx(0)
    assert gains["constant question"].ci_low > 0.1
    assert gains["questions shuffled"].ci_low > 0.1


def test_a_subject_only_policy_is_exposed():
    world = world_of(alternating("subject"))
    gains, said = verdict(world, planted(world, lambda q: "a" if q.subject == "x" else "b"))
    assert said.startswith("a subject router")
    assert gains["language router"].ci_low > 0.1


def test_a_policy_that_is_the_same_for_all_questions_is_exposed():
    world = world_of(alternating("language"))
    gains, said = verdict(world, planted(world, lambda q: "a"))
    assert said.startswith("nothing about the question")
    assert all(gain.mean == pytest.approx(0) for gain in gains.values())


def test_a_policy_that_reads_the_question_itself_passes():
    """What decides is neither language nor subject, so that no control can know it."""
    world = world_of(alternating("nothing"))
    gains, said = verdict(world, planted(world, lambda q: q.domain))
    assert said.startswith("the question itself")
    assert all(gain.ci_low > 0.1 for gain in gains.values())


def test_a_policy_at_odds_with_its_questions_is_no_better_than_one_graph():
    world = world_of(alternating("nothing"))
    _, said = verdict(world, planted(world, lambda q: "b" if q.domain == "a" else "a"))
    assert said.startswith("nothing about the question")


def test_no_question_keeps_its_own_logits_when_shuffled():
    world = world_of(alternating("nothing"))
    n = len(world.eval_questions)
    own = {q.id: torch.full((2,), float(i)) for i, q in enumerate([*world.eval_questions, *world.train_questions])}
    shuffled = control_policies(TabulatedPolicy(own), world.train_questions, world.eval_questions)["questions shuffled"]
    values = shuffled.edge_logits_of(world.eval_questions)[:, 0]
    assert sorted(values.tolist()) == list(range(n))
    assert not (values == torch.arange(n)).any()


def test_a_router_gives_the_mean_of_the_training_questions():
    train = [Asked("1", "a", "x"), Asked("2", "a", "x"), Asked("3", "a", "y")]
    held_out = [Asked("4", "a", "x"), Asked("5", "a", "y"), Asked("6", "a", "unseen")]
    table = {q.id: torch.tensor([float(q.id)]) for q in [*train, *held_out]}
    router = control_policies(TabulatedPolicy(table), train, held_out)["subject router"]
    assert router.edge_logits_of(held_out)[:, 0].tolist() == [1.5, 3.0, 2.0]
