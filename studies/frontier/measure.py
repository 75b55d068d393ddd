"""Accuracy against tokens a question; results/frontier.json.

Single agents, votes of k, the full graph, and learned wirings with and without a cost of tokens, on recorded answers
of a language model and in worlds of simulated agents, where a call stands for a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynagent.artefacts.sources import file_sha256
from dynagent.evaluation.statistics import clustered_interval, seed_interval
from dynagent.execution.runner import Runner
from dynagent.graph import AgentGraph
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.llm.reading import RecordedReader
from dynagent.policies.base import Policy
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.static import StaticEdgePolicy
from dynagent.runs.build import again, prepare
from dynagent.runs.config import RunConfig
from dynagent.runs.experiment import Experiment, used_sources
from dynagent.runs.paths import resolve_path
from dynagent.runs.provenance import questions_digest
from dynagent.runs.record import Origin, Record
from dynagent.runs.run import STATIC_LEARNING_RATE
from dynagent.runs.values import with_estimates
from dynagent.worlds.teams import load_world
from studies.common.matched import at_spend
from studies.common.numbers import plain
from studies.common.study import Measured, Study
from studies.table2.settings import ADVERSARIAL, QWEN, SPECIALIZED
from studies.worlds.settings import BUDGET, FEATURES, RECORDINGS

RECORDED: dict[str, dict[str, Any]] = {
    "adversaries": QWEN | ADVERSARIAL | {"adversary": "asked"},
    "languages": QWEN | SPECIALIZED,
}
WORLDS = ("routing", "mixture")
SETTINGS = (*RECORDED, *WORLDS)
COST_WEIGHTS = (0.0, 0.1, 0.3)
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"settings": ("adversaries", "routing"), "cost_weights": (0.0, 0.15)},
    "laptop": {"settings": SETTINGS, "cost_weights": COST_WEIGHTS},
}
Wirings = dict[str, tuple[np.ndarray, np.ndarray]]
"""By name: scores, [seeds, n], and mean tokens a question, [seeds]."""


@dataclass(frozen=True)
class Priced:
    """A team or a world, and the costs of a token with which policies are trained in it."""

    name: str
    cost_weights: tuple[float, ...]


@dataclass(frozen=True)
class Case:
    """A setting with one seed: what trains policies in it, and what its wirings are worth.

    Attributes:
        value: from who votes, [n, N] bool, to scores and tokens, [n] each.
        about: subjects and what a token is, and for the record questions and inputs.
    """

    graph: AgentGraph
    train_questions: Sequence[Any]
    eval_questions: Sequence[Any]
    runner: Runner
    config: TrainConfig
    make_dynamic: Callable[[], Policy]
    value: Callable[[Tensor], tuple[Tensor, Tensor]]
    about: dict[str, Any]

    def learn(self, dynamic: bool, cost_weight: float) -> Tensor:
        """Who votes in the most probable graphs of a policy that is trained with this cost: [n, N] bool."""
        config = self.config.replace(cost_weight=cost_weight)
        policy: Policy = self.make_dynamic()
        if not dynamic:
            config = config.replace(learning_rate=STATIC_LEARNING_RATE)
            policy = StaticEdgePolicy.for_graph(self.graph)
        train(policy, self.graph, self.train_questions, config, runner=self.runner)
        return policy.edge_logits_of(self.eval_questions)[:, self.graph.decision_edges] >= 0


@lru_cache
def _experiment(setting: str) -> Experiment:
    return prepare(RunConfig.from_parameters(RECORDED[setting]))


@lru_cache
def _readings() -> RecordedReader:
    return RecordedReader(resolve_path(RECORDINGS) / FEATURES)


def make_case(setting: str, seed: int) -> Case:
    """A setting on recorded answers, or a world."""
    return recorded_case(setting, seed) if setting in RECORDED else world_case(setting, seed)


def recorded_case(setting: str, seed: int) -> Case:
    """Agents whose answers and tokens are on record."""
    experiment = again(_experiment(setting), seed=seed)
    graph, runner, questions = experiment.graph, experiment.runner, experiment.eval_questions

    def value(votes: Tensor) -> tuple[Tensor, Tensor]:
        edges = torch.zeros(len(questions), graph.num_edges, dtype=torch.bool)
        edges[:, graph.decision_edges] = votes
        outcome = runner.run(questions, graph.adjacency(edges)[:, None])
        return outcome.utility[:, 0], outcome.tokens[:, 0]

    about = {
        "questions": {
            "training": questions_digest(experiment.train_questions),
            "evaluation": questions_digest(questions),
        },
        "inputs": [source.to_dict() for source in used_sources(experiment)],
        "subjects": [f"{question.language}/{question.subject}" for question in questions],
        "token": "a token that an agent reads or writes",
    }
    return Case(
        graph, experiment.train_questions, questions, runner, experiment.config,
        lambda: again(experiment, seed=seed).policy, value, about,
    )  # fmt: skip


def world_case(setting: str, seed: int) -> Case:
    """Simulated agents whose accuracy is known: scores are exact expectations, a call costs one."""
    world = load_world(setting, resolve_path(RECORDINGS), seed, BUDGET[setting])
    config = TrainConfig(seed=seed)
    features = resolve_path(RECORDINGS) / FEATURES
    about = {
        "questions": {
            "training": questions_digest(world.train_questions),
            "evaluation": questions_digest(world.eval_questions),
        },
        "inputs": [
            {"name": FEATURES, "kind": "record", "location": f"{RECORDINGS}/{FEATURES}",
             "sha256": file_sha256(features)}
        ],
        "subjects": [f"{question.language}/{question.subject}" for question in world.eval_questions],
        "token": "a call of a simulated agent",
    }  # fmt: skip
    return Case(
        world.graph, world.train_questions, world.eval_questions, Runner(world.graph, seed), config,
        lambda: EdgePolicy.from_backbone(_readings(), world.graph, init_seed=config.stream("init")),
        lambda votes: (world.accuracy(votes.double(), world.eval_questions), votes.sum(1)), about,
    )  # fmt: skip


def settings(study: Study, preset: str) -> list[Priced]:
    """The teams and worlds of a preset."""
    chosen = PRESETS[preset]
    return [Priced(name, chosen["cost_weights"]) for name in chosen["settings"]]


def measure(setting: Priced, seed: int) -> dict[str, Any]:
    """Scores [n] and mean tokens of every wiring, for one seed."""
    case = make_case(setting.name, seed)
    num_agents, n = len(case.graph.team), len(case.eval_questions)
    order = torch.randperm(num_agents, generator=torch.Generator().manual_seed(seed))
    votes = {
        f"vote of {k}": torch.zeros(num_agents, dtype=torch.bool).index_fill(0, order[:k], True).expand(n, -1)
        for k in range(1, num_agents + 1)
    }
    votes["best single agent"] = torch.eye(num_agents, dtype=torch.bool)[best_single(case)].expand(n, -1)
    for cost_weight in setting.cost_weights:
        votes[f"static, cost {cost_weight:g}"] = case.learn(False, cost_weight)
        votes[f"dynamic, cost {cost_weight:g}"] = case.learn(True, cost_weight)
    found = {}
    for name, of in votes.items():
        scores, tokens = case.value(of)
        found[name] = (scores.numpy().astype(float), float(tokens.double().mean()))
    return {"wirings": found, "about": case.about}


def best_single(case: Case) -> int:
    """The agent that is right most often on the training questions."""
    every = case.graph.full().expand(len(case.train_questions), 1, -1, -1)
    answers = case.runner.run(case.train_questions, every).answers[:, 0]  # [n, N]
    right = answers == torch.tensor([question.answer for question in case.train_questions])[:, None]
    return int(right.double().mean(0).argmax())


def summarise(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows of a setting: accuracy, spend as a share of the full graph's, and differences at equal spend."""
    subjects = results[0]["about"]["subjects"]
    wirings: Wirings = {}
    for name in results[0]["wirings"]:
        of_seeds = [one["wirings"][name] for one in results]
        wirings[name] = np.stack([scores for scores, _ in of_seeds]), np.array([tokens for _, tokens in of_seeds])
    votes = [name for name in wirings if name.startswith("vote")]
    full_scores, full_tokens = wirings[votes[-1]]
    static = ["best single agent", *(name for name in wirings if name.startswith("static")), votes[-1]]
    rows = {}
    for name, (scores, tokens) in wirings.items():
        row: dict[str, Any] = {
            "tokens": seed_interval(tokens.tolist()),
            "spend": seed_interval((tokens / full_tokens).tolist()),
            "accuracy": clustered_interval(scores, subjects),
            "minus full graph": clustered_interval(scores - full_scores, subjects),
        }
        if name not in votes:
            row["minus vote at equal spend"], row["spend mismatch"] = against(wirings, votes, scores, tokens, subjects)
        if name.startswith("dynamic"):
            row["minus static at equal spend"], mismatch = against(wirings, static, scores, tokens, subjects)
            row["spend mismatch"] = max(row["spend mismatch"], mismatch)
            reading = tokens + full_tokens / len(votes)  # the edge LLM's reading as one more call
            row["minus vote, reading counted"] = against(wirings, votes, scores, reading, subjects)[0]
        rows[name] = row
    return {"token": results[0]["about"]["token"], "wirings": rows}


def against(
    wirings: Wirings, others: Sequence[str], scores: np.ndarray, tokens: np.ndarray, subjects: Sequence[str]
) -> tuple[Any, float]:
    """What a wiring gains over others that are mixed to cost the same, seed by seed; and the largest mismatch left."""
    equal, mismatch = [], 0.0
    for seed, spend in enumerate(tokens):
        curve: list[tuple[float, np.ndarray]] = []
        for name in sorted(others, key=lambda other: wirings[other][1][seed]):
            point = float(wirings[name][1][seed]), wirings[name][0][seed]
            if point[0] > (curve[-1][0] if curve else 0.0):
                curve.append(point)
        mixed, matched = at_spend(curve, float(spend))
        equal.append(mixed)
        mismatch = max(mismatch, abs(matched / float(spend) - 1))
    return clustered_interval(scores - np.stack(equal), subjects), mismatch


def add_setting(record: Record, name: str, results: Sequence[dict[str, Any]]) -> None:
    """Put a setting's numbers and their origin into the record, in place of earlier ones."""
    about = results[0]["about"]
    here = record.model_dump(include={"command", "seeds", "code", "environment", "timing"})
    record.parts[name] = Origin(
        **here,
        parameters=RECORDED.get(name, {"world": name}) | {"cost weights": record.parameters["cost weights"]},
        questions=about["questions"],
        inputs=about["inputs"],
    )
    record.numbers[name] = with_estimates(plain(summarise(results)))


def write(measured: Measured) -> None:
    """The record: a part for every team and world."""
    weights = list(PRESETS[measured.preset]["cost_weights"])
    record = Record.make(**measured.origin(), parameters={"preset": measured.preset, "cost weights": weights})
    for setting, results in measured.outcomes.items():
        add_setting(record, setting.name, results)
    record.save(measured.path)
