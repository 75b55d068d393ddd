"""Policies that read the question in a given way: which edge LLM, which readout, at which scale; many seeds of each.

On the recorded teams of Table 2, and in known-answer worlds. A policy is judged by exact expectations: over the graphs
that its probabilities would draw, and by its most probable graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dynagent.evaluation.controls import control_policies
from dynagent.execution.runner import Runner
from dynagent.graph import AgentGraph
from dynagent.learning.many_seeds import Answered, accuracies, edge_logits, train_side_by_side
from dynagent.llm.reading import RecordedReader
from dynagent.llm.replay import recorded_file
from dynagent.policies.base import Policy, initial_probability
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.static import StaticEdgePolicy
from dynagent.runs.build import again, prepare
from dynagent.runs.config import RunConfig
from dynagent.runs.paths import resolve_path
from dynagent.runs.run import STATIC_LEARNING_RATE
from dynagent.team.votes import MajorityVote
from dynagent.worlds.teams import TEAMS, load_world
from dynagent.worlds.world import World
from studies.common.outcomes import Outcome
from studies.readings.edge_llms import FOLDER as OTHER_FEATURES
from studies.readings.edge_llms import QuantizedReader, quantized
from studies.table2.settings import ADVERSARIAL, QWEN, RECIPES, SPECIALIZED
from studies.worlds.settings import PAPER_QUESTIONS

RECORDED = "smollm2-135m-instruct"
EIGHT_BITS = f"{RECORDED}, eight bits"  # the recorded features as those of the other edge LLMs are kept
TEAMS_ON_RECORD: dict[str, dict[str, Any]] = {
    "adversarial": ADVERSARIAL | {"adversary": "constant"},
    "specialized": SPECIALIZED,
}
NUM_TRAIN = {"routing": 640, "mixture": 700}  # of the default recipe
GRAPHS = ("drawn", "most probable")


@dataclass(frozen=True)
class Reading:
    """A policy and where it is trained.

    Attributes:
        task: a team of `TEAMS_ON_RECORD`, or a world: "routing", "mixture", or "routing, mixed questions", which asks
            the questions of the specialized team.
        recipe: "paper" or "default", apart from what follows.
        readout: of the edge LLM, or "static" for a policy that reads nothing.
        norm_of: multiply the features so that their mean norm is that of this other readout; "" leaves them.
    """

    task: str
    recipe: str = "default"
    readout: str = "mean_hidden"
    standardize: bool = True
    learning_rate: float = 0.03
    norm_of: str = ""
    edge_llm: str = RECORDED


class Rescaled:
    """A reader whose features are multiplied by a number."""

    def __init__(self, reader: Any, factor: float) -> None:
        self._reader, self._factor = reader, factor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def read(self, questions: Sequence[Any], readout: str = "mean_hidden") -> Tensor:
        features: Tensor = self._reader.read(questions, readout) * self._factor
        return features


class EightBits:
    """A reader whose features lost what is lost by keeping them in eight bits."""

    def __init__(self, reader: RecordedReader) -> None:
        self._reader = reader
        steps, step, middle = quantized(torch.stack(list(reader._known.values())).float())
        self._known = dict(zip(reader._known, steps * step + middle, strict=True))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    read = RecordedReader.read


@lru_cache(maxsize=8)
def reader_of(edge_llm: str) -> Any:
    """The recorded features of an edge LLM."""
    if edge_llm in (RECORDED, EIGHT_BITS):
        recorded = RecordedReader(recorded_file(resolve_path("results/recordings"), "edge", RECORDED))
        return EightBits(recorded) if edge_llm == EIGHT_BITS else recorded
    found = sorted(resolve_path(OTHER_FEATURES).glob(f"{edge_llm}-*.npz"))
    found = [path for path in found if path.stem.rsplit("-", 2)[0] == edge_llm]
    if len(found) != 1:
        raise ValueError(
            f"{OTHER_FEATURES} has {len(found)} records of {edge_llm}: "
            f"`make read ARGS='--cmmlu FOLDER {edge_llm}'` makes one."
        )
    return QuantizedReader(found[0])


@dataclass(frozen=True)
class Place:
    """A team for each of S seeds, its questions and its answers.

    Attributes:
        graph: of the first seed; the others' have the same edges and the same decision.
        training, evaluation: the questions of each seed.
        train_answers, eval_answers: [S, n, N]; the latter of recorded teams.
        worlds: of each seed, where the agents are simulated.
    """

    graph: AgentGraph
    training: list[Sequence[Any]]
    evaluation: list[Sequence[Any]]
    train_answers: Tensor
    eval_answers: Tensor | None = None
    worlds: tuple[World, ...] = ()

    def known(self, features: Tensor, *, in_training: bool) -> Answered:
        """The questions with their features, [S, n, H]."""
        questions, answers = (
            (self.training, self.train_answers) if in_training else (self.evaluation, self.eval_answers)
        )
        assert answers is not None
        right = torch.tensor([[question.answer for question in of] for of in questions])
        return Answered(features, answers, right)

    def accuracies(self, logits: Tensor, features: Tensor) -> dict[str, Tensor]:
        """Each evaluation question's probability of a right answer, [S, n], by kind of graph; from [S, n, N]."""
        if not self.worlds:
            return accuracies(logits, self.graph, self.known(features, in_training=False))
        votes = zip(GRAPHS, (logits.sigmoid(), (logits >= 0).double()), strict=True)
        return {
            kind: torch.stack([world.accuracy(one, world.eval_questions) for world, one in
                               zip(self.worlds, probs, strict=True)])
            for kind, probs in votes
        }  # fmt: skip


@lru_cache(maxsize=2)
def _recorded_team(task: str) -> Any:
    return prepare(RunConfig.from_parameters(QWEN | TEAMS_ON_RECORD[task]))


@lru_cache(maxsize=4)
def place(task: str, recipe: str, num_seeds: int) -> Place:
    """Where policies are trained and judged; a seed's answers are the same for all of them."""
    if task in TEAMS_ON_RECORD:
        experiments = [again(_recorded_team(task), seed=seed) for seed in range(num_seeds)]
        training, evaluation = (
            [getattr(e, name) for e in experiments] for name in ("train_questions", "eval_questions")
        )
        runners = [experiment.runner for experiment in experiments]
        return Place(
            experiments[0].graph, training, evaluation, _answers(runners, training), _answers(runners, evaluation)
        )
    if task == "routing, mixed questions":
        mixed = _recorded_team("specialized")
        questions = list(mixed.train_questions), list(mixed.eval_questions)
        graphs = [AgentGraph(TEAMS["routing"](seed), MajorityVote()) for seed in range(num_seeds)]
        worlds = [World("routing", graph, "language", *questions) for graph in graphs]
    else:
        num_train = PAPER_QUESTIONS if recipe == "paper" else NUM_TRAIN[task]
        recordings = resolve_path("results/recordings")
        worlds = [load_world(task, recordings, seed, num_train) for seed in range(num_seeds)]
    training, evaluation = ([getattr(w, name) for w in worlds] for name in ("train_questions", "eval_questions"))
    runners = [Runner(world.graph, seed) for seed, world in enumerate(worlds)]
    return Place(worlds[0].graph, training, evaluation, _answers(runners, training), worlds=tuple(worlds))


def _answers(runners: Sequence[Runner], questions: Sequence[Sequence[Any]]) -> Tensor:
    """What every agent answers: [S, n, N]."""
    full = runners[0].graph.full()[None, None]
    return torch.stack(
        [runner.run(of, full.expand(len(of), -1, -1, -1)).answers[:, 0]
         for runner, of in zip(runners, questions, strict=True)]
    )  # fmt: skip


def config_of(of: Reading, seed: int) -> RunConfig:
    """The training's parameters; in worlds the bias is no faster than the weights, as in `studies.worlds.settings`."""
    rate = STATIC_LEARNING_RATE if of.readout == "static" else of.learning_rate
    found = RECIPES[of.recipe] | {"learning_rate": rate, "seed": seed}
    if of.task not in TEAMS_ON_RECORD:
        found |= {"bias_speed": 1.0}
    return RunConfig.from_parameters(found)


def policy_of(of: Reading, graph: AgentGraph, reader: Any, config: RunConfig) -> Policy:
    """The untrained policy of one seed."""
    probability = config.initial_probability
    start = initial_probability(graph) if isinstance(probability, str) else probability
    if of.readout == "static":
        return StaticEdgePolicy.for_graph(graph, start)
    return EdgePolicy.from_backbone(
        reader, graph, readout=of.readout, standardize=of.standardize, head_init=config.head_init,
        initial_probability=start, init_seed=config.stream("init"),
    )  # fmt: skip


def measure(of: Reading, num_seeds: int) -> Outcome:
    """Train a policy for every seed; judge it, what it was before training, and its controls.

    Controls are for the specialized team: elsewhere one graph is the best for all questions, or the optimum is known.
    """
    where, outcome = place(of.task, of.recipe, num_seeds), Outcome()
    reader = reader_of(of.edge_llm)
    readout = "mean_hidden" if of.readout == "static" else of.readout
    if of.norm_of:
        norms = [reader.read(where.training[0], name).norm(dim=1).mean() for name in (of.norm_of, of.readout)]
        reader = Rescaled(reader, float(norms[0] / norms[1]))
    train_features, eval_features = (
        _features(reader, readout, questions) for questions in (where.training, where.evaluation)
    )
    configs = [config_of(of, seed) for seed in range(num_seeds)]
    policies = [policy_of(of, where.graph, reader, config) for config in configs]
    for policy, features in zip(policies, train_features, strict=True):
        policy.fit_standardization(features)

    def describe(name: str, logits: Tensor) -> None:
        """Scores, headrooms in a world, and how much the probabilities vary over questions; from [S, n, N]."""
        scores, probs = where.accuracies(logits, eval_features), logits.sigmoid()
        outcome.values[f"{name}: deviation over questions"] = probs.std(1, correction=0).mean(-1).tolist()
        outcome.values[f"{name}: expected edges"] = probs.sum(-1).mean(-1).tolist()
        for kind, found in scores.items() if where.worlds else ():
            means = found.mean(1).tolist()
            headrooms = [world.headroom(mean) for world, mean in zip(where.worlds, means, strict=True)]
            outcome.values |= {f"{name}, {kind}: headroom": headrooms, f"{name}, {kind}: accuracy": means}
        if not where.worlds:
            outcome.take(name, scores)

    if not where.worlds:
        describe("untrained", edge_logits(policies, where.graph, eval_features))
    train_side_by_side(policies, where.graph, where.known(train_features, in_training=True), configs)
    describe("trained", edge_logits(policies, where.graph, eval_features))
    if of.readout != "static" and of.task == "specialized":
        controls = [
            control_policies(policy, where.training[0], where.evaluation[0], seed)
            for seed, policy in enumerate(policies)
        ]
        for name in controls[0]:
            logits = torch.stack([one[name].edge_logits_of(where.evaluation[0]) for one in controls])
            describe(name, logits[..., where.graph.decision_edges])
    return outcome


def _features(reader: Any, readout: str, questions: Sequence[Sequence[Any]]) -> Tensor:
    """[S, n, H]; read once where all seeds have the same questions."""
    if all(of is questions[0] for of in questions):
        return reader.read(questions[0], readout).float().expand(len(questions), -1, -1)
    return torch.stack([reader.read(of, readout) for of in questions]).float()


def scale_of(edge_llm: str, readout: str) -> dict[str, float]:
    """How large the features of the mixed training questions are, and how alike.

    Returns:
        norm: mean norm of a question's features; spread: the same after their mean is taken off; cosine: mean over
        pairs of different questions.
    """
    questions = _recorded_team("specialized").train_questions
    features = reader_of(edge_llm).read(questions, readout).double()
    unit = features / features.norm(dim=1, keepdim=True)
    n = len(features)
    cosine = (unit.sum(0).square().sum() - n) / (n * (n - 1))
    spread = (features - features.mean(0)).norm(dim=1).mean()
    return {"norm": float(features.norm(dim=1).mean()), "spread": float(spread), "cosine": float(cosine)}
