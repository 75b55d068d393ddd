"""What the released code really does, as switches, and the seeds of a training with some of them on.

Everything is measured within the published method (REINFORCE on one drawn graph a question, 200 batches of 4, the raw
last hidden state, Adam at 1e-4, and 0.1 for the static policy); the switches alone also on top of our default recipe.
In every setting a stated share of the agents' replies is unparsable, since the last switch is about those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from dynagent.evaluation.evaluate import truthful_ratio
from dynagent.execution.runner import Runner
from dynagent.graph import AgentGraph
from dynagent.learning.many_seeds import Answered, accuracies, edge_logits, train_side_by_side
from dynagent.policies.base import Policy
from dynagent.runs.build import again, build_policy, prepare
from dynagent.runs.config import RunConfig
from dynagent.runs.experiment import Experiment
from dynagent.runs.run import STATIC_LEARNING_RATE
from dynagent.team.agents import Truthful
from dynagent.team.votes import MajorityVote
from studies.common.outcomes import Outcome
from studies.released.header import read_header
from studies.released.unparsable import VoidedVote, expected_accuracy, garbled
from studies.table2.settings import ADVERSARIAL, PAPER_SPARSITY, QWEN, RECIPES, SPECIALIZED

RATE = 0.05  # of unparsable replies, in every setting of the switches
NUM_HEARD = tuple(range(1, 9))
NUM_HEADERS = 50  # of the 570 mixed training questions
NO_LETTER = 4  # the index of a header row's answer
TASKS: dict[str, dict[str, Any]] = {
    "adversarial": ADVERSARIAL,
    "specialized": SPECIALIZED,
    "edge reduction": SPECIALIZED | {"sparsity": PAPER_SPARSITY},
}
MIXED = ("specialized", "edge reduction")


@dataclass(frozen=True)
class Switch:
    """One thing that the released code does.

    Attributes:
        on, off: parameters of a run, within the published method.
        on_default: the parameters on top of our default recipe, or None where the switch means nothing there.
        tasks: where it can be thrown.
        in_training: whether it changes the training, or only how a trained policy is evaluated.
        on_vote: whether it changes an edge into the decision, or what is done with the votes. A switch that does not
            is measured by `studies.released.no_effect`, on all edges.
    """

    on: dict[str, Any]
    off: dict[str, Any]
    on_default: dict[str, Any] | None = None
    tasks: tuple[str, ...] = tuple(TASKS)
    in_training: bool = True
    on_vote: bool = True


# In the order and with the numbers of the list of what the released code does.
SWITCHES = {
    "1 edges between agents are decided": Switch({"decide": "all"}, {"decide": "effective"}, on_vote=False),
    "2 evaluation all Chinese": Switch({}, {}, {}, MIXED, in_training=False),
    "3 header rows as questions": Switch({}, {}, {}, MIXED),
    "4 static evaluation draws graphs": Switch({}, {}, {}, in_training=False),
    "5 adversaries always say A": Switch(
        {"adversary": "constant"}, {"adversary": "asked"}, {"adversary": "constant"}, ("adversarial",)
    ),
    "6 random head instead of p = 0.5": Switch(
        {"head_init": "default"}, {"head_init": "zero"}, {"head_init": "default"}
    ),
    "7 no baseline": Switch(
        {"estimator": "reinforce"},
        {"estimator": "moving_average"},
        {"estimator": "reinforce", "graphs_per_question": 1},
    ),
    "8 fixed visiting order": Switch({"order": "fixed"}, {"order": "random"}, on_vote=False),
    "9 penalty on edges without effect": Switch(
        {"penalise": "all"}, {"penalise": "effective"}, None, ("edge reduction",), on_vote=False
    ),
    "10 one bad reply voids the vote": Switch({}, {}, {}),
}
CHINESE, HEADERS, DRAWN, VOIDED = (list(SWITCHES)[number - 1] for number in (2, 3, 4, 10))


@dataclass(frozen=True)
class Setting:
    """Trainings of a dynamic and a static policy.

    Attributes:
        switches: those that are on and change the training, in the order of `SWITCHES`.
        rate: of unparsable replies.
    """

    task: str
    recipe: str = "paper"
    switches: tuple[str, ...] = ()
    rate: float = RATE


def of_task(task: str, recipe: str = "paper") -> list[str]:
    """The switches that can be thrown in a task."""
    return [
        name
        for name, switch in SWITCHES.items()
        if task in switch.tasks and (recipe == "paper" or switch.on_default is not None)
    ]


def parameters(of: Setting) -> dict[str, Any]:
    """A run's parameters in a setting."""
    found = QWEN | RECIPES[of.recipe] | {"adversary": "asked"} | TASKS[of.task]
    for name, switch in SWITCHES.items():
        if of.recipe == "paper":
            found |= switch.on if name in of.switches else switch.off
        elif name in of.switches:
            found |= switch.on_default or {}
    return found


@lru_cache(maxsize=2)
def _loaded(team: str) -> Experiment:
    return prepare(RunConfig.from_parameters(parameters(Setting(team, "default"))))


def loaded(task: str) -> Experiment:
    """What all settings of a task have in common."""
    return _loaded("specialized" if task in MIXED else task)


def build(of: Setting, seed: int) -> Experiment:
    """The parts of one seed, untrained."""
    experiment = again(loaded(of.task), **parameters(of), seed=seed)
    decision = VoidedVote() if VOIDED in of.switches else MajorityVote()
    graph = AgentGraph(garbled(experiment.graph.team, of.rate), decision)
    return replace(experiment, graph=graph, runner=Runner(graph, seed))


def header_places(questions: Sequence[Any], seed: int) -> list[int]:
    """Which of the Chinese training questions are header rows instead."""
    chinese = [place for place, question in enumerate(questions) if question.language == "zh"]
    return sorted(np.random.default_rng(seed).choice(chinese, NUM_HEADERS, replace=False).tolist())


@lru_cache(maxsize=4)
def _answers(task: str, adversary: str, rate: float, num_seeds: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The answers of every seed's team to the training and to the evaluation questions: twice [S, n, N]."""
    found = []
    for seed in range(num_seeds):
        experiment = again(loaded(task), adversary=adversary, seed=seed)
        graph = AgentGraph(garbled(experiment.graph.team, rate), MajorityVote())
        runner, full = Runner(graph, seed), graph.full()[None, None]
        found.append([runner.run(questions, full.expand(len(questions), -1, -1, -1)).answers[:, 0]
                      for questions in (experiment.train_questions, experiment.eval_questions)])  # fmt: skip
    train_answers, eval_answers = zip(*found, strict=True)
    return torch.stack(train_answers), torch.stack(eval_answers)


def answered(of: Setting, experiments: Sequence[Experiment]) -> tuple[Answered, Answered]:
    """Training and evaluation questions with the answers of every seed's team; header rows have no right letter."""
    first, num_seeds = experiments[0], len(experiments)
    task = "specialized" if of.task in MIXED else of.task
    answers = _answers(task, first.config.adversary, of.rate, num_seeds)
    known = []
    for questions, given in zip((first.train_questions, first.eval_questions), answers, strict=True):
        features = first.policy.encode(questions).float().expand(num_seeds, -1, -1)
        right = torch.tensor([question.answer for question in questions]).expand(num_seeds, -1)
        known.append(Answered(features, given, right, NO_LETTER + 1))
    if HEADERS in of.switches:
        features, right = known[0].features.clone(), known[0].right.clone()
        assert first.reader is not None
        header = read_header(first.reader.identity)[first.config.readout]
        for seed in range(num_seeds):
            places = header_places(first.train_questions, seed)
            features[seed, places], right[seed, places] = header, NO_LETTER
        known[0] = replace(known[0], features=features, right=right)
    return known[0], known[1]


def static_policy(experiment: Experiment) -> tuple[Policy, RunConfig]:
    """The static policy beside a dynamic one, and how it is trained."""
    config = experiment.config.replace(edge_policy="static", learning_rate=STATIC_LEARNING_RATE)
    return build_policy(config, experiment.graph), config


def measure(of: Setting, num_seeds: int) -> Outcome:
    """Train both policies of every seed, and evaluate both on drawn graphs and on the most probable ones."""
    experiments, outcome = [build(of, seed) for seed in range(num_seeds)], Outcome()
    training, evaluation = answered(of, experiments)
    graph, questions = experiments[0].graph, experiments[0].eval_questions
    static = [static_policy(experiment) for experiment in experiments]
    dynamic = [(experiment.policy, experiment.config) for experiment in experiments]
    for name, pairs in (("dynamic", dynamic), ("static", static)):
        policies, configs = zip(*pairs, strict=True)
        train_side_by_side(policies, graph, training, configs)
        logits = edge_logits(policies, graph, evaluation.features)
        outcome.take(name, accuracies(logits, graph, evaluation))
        probs = logits.sigmoid()  # [S, n, N]
        ratios = [truthful_ratio(_on_all_edges(one, graph), graph, questions) for one in probs]
        outcome.values[f"{name}: ratio"] = ratios
        outcome.values[f"{name}: expected edges"] = probs.sum(-1).mean(-1).tolist()
        outcome.values[f"{name}: deviation over questions"] = probs.std(1, correction=0).mean(-1).tolist()
    return outcome


def _on_all_edges(vote_probs: torch.Tensor, graph: AgentGraph) -> torch.Tensor:
    """[n, E] from [n, N]; edges between agents have probability zero."""
    edge_probs = torch.zeros(len(vote_probs), graph.num_edges)
    edge_probs[:, graph.decision_edges] = vote_probs
    return edge_probs


@dataclass(frozen=True)
class Heard:
    """The first so many of eight truthful agents, all of them heard."""

    rate: float
    rule: str


def measure_heard(of: Heard, num_seeds: int) -> Outcome:
    """Expected accuracy of the vote of 1 to 8 truthful agents on the questions of the adversarial team."""
    experiment, outcome = loaded("adversarial"), Outcome()
    llm, questions = experiment.graph.team[0].llm, experiment.eval_questions
    graph = AgentGraph([Truthful(llm, mode="letter")] * NUM_HEARD[-1], MajorityVote())
    full = graph.full().expand(len(questions), 1, graph.num_nodes, graph.num_nodes)
    right = torch.tensor([question.answer for question in questions])
    found: dict[str, list[np.ndarray]] = {str(number): [] for number in NUM_HEARD}
    for seed in range(num_seeds):
        answers = Runner(graph, seed).run(questions, full).answers[:, 0]  # [n, 8]
        for number in NUM_HEARD:
            accuracy = expected_accuracy(answers[:, :number], right, of.rate, of.rule)
            found[str(number)].append(accuracy.numpy())
    outcome.scores = {number: np.stack(of) for number, of in found.items()}
    return outcome
