"""Do edges between agents earn anything? results/communication.json.

In a world of simulated agents where they should, and on recorded replies of a language model, where voting alone gets
as many tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynagent.artefacts.sources import file_sha256
from dynagent.evaluation.statistics import clustered_interval, mean_interval, seed_interval
from dynagent.execution.runner import Runner
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.llm.reading import RecordedReader
from dynagent.llm.replay import RecordedAnswers, recorded_file, recorded_source
from dynagent.policies.base import Policy
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.static import StaticEdgePolicy
from dynagent.runs.paths import resolve_path
from dynagent.runs.provenance import questions_digest
from dynagent.runs.record import Origin, Record
from dynagent.runs.values import with_estimates
from dynagent.sampling import most_probable_dags
from dynagent.tasks.recorded import INDEX, load_recorded
from dynagent.team.messages import Message
from dynagent.worlds.hint import accuracy_of_graph, optima
from dynagent.worlds.hint import make_graph as make_hint_graph
from dynagent.worlds.teams import load_world
from studies.common.matched import at_spend
from studies.common.numbers import plain
from studies.common.study import Measured, Study
from studies.communication.team import FOLDER, MODEL, MOST_READERS, NUM_VOTERS, TEMPERATURE, make_graph, wiring
from studies.worlds.settings import FEATURES, RECORDINGS

NUM_TRAIN = {"smoke": 160, "laptop": 640}  # questions, by preset
LEARNING_RATE = 0.1
COLD = 0.2  # a second temperature of the voters, at which they hardly differ
LEARNERS = {"dynamic, edges": (True, True), "dynamic, votes alone": (True, False), "static, edges": (False, True)}


# --- the world ---------------------------------------------------------------------------------------


def settings(study: Study, preset: str) -> list[int]:
    """Numbers of training questions."""
    return [NUM_TRAIN[preset]]


def learn_in_world(num_train: int, seed: int) -> dict[str, float]:
    """Accuracy of the most probable graphs on held-out questions, exact, for every learner."""
    world = load_world("routing", resolve_path(RECORDINGS), seed, num_train)
    readings = RecordedReader(resolve_path(RECORDINGS) / FEATURES)
    found = {}
    for name, (dynamic, reads) in LEARNERS.items():
        graph = make_hint_graph(reads)
        config = TrainConfig(seed=seed, estimator="leave_one_out", learning_rate=LEARNING_RATE)
        policy: Policy = StaticEdgePolicy.for_graph(graph)
        if dynamic:
            policy = EdgePolicy.from_backbone(readings, graph, init_seed=config.stream("init"))
        train(policy, graph, world.train_questions, config)
        dags = most_probable_dags(policy.edge_logits_of(world.eval_questions), graph).adjacency[:, 0]
        scores = [
            accuracy_of_graph(graph, dag, question.language)
            for dag, question in zip(dags, world.eval_questions, strict=True)
        ]
        found[name] = float(np.mean(scores))
        edges = dags[:, : graph.decision_node, : graph.decision_node].flatten(1).sum(1).float()
        found[f"{name}: edges between agents"] = float(edges.mean())
    return found


def world_part(results: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The learners of all seeds beside what is possible with and without edges between agents."""
    best = {"edges": optima(make_hint_graph(True)), "votes alone": optima(make_hint_graph(False))}
    low, high = best["votes alone"]["dynamic"], best["edges"]["dynamic"]
    per_seed = {name: [result[name] for result in results] for name in results[0]}
    gains = np.subtract(per_seed["dynamic, edges"], per_seed["dynamic, votes alone"])
    return {
        "best possible": best,
        "learned": {name: seed_interval(values) for name, values in per_seed.items()},
        "gain of edges between agents": seed_interval(gains.tolist()),
        "share of what edges can gain": seed_interval(
            [(value - low) / (high - low) for value in per_seed["dynamic, edges"]]
        ),
        "per seed": per_seed,
    }


# --- recorded replies --------------------------------------------------------------------------------


def recorded_questions(llm: RecordedAnswers) -> list[Any]:
    """Held-out questions for which both what is said and what is answered to it are on record."""
    lines = [json.loads(line) for line in llm.path.read_text(encoding="utf-8").splitlines()]
    told = {line["origin"][3] for line in lines if line["origin"][0] == "letter" and line["origin"][4]}
    held_out = load_recorded(resolve_path(RECORDINGS), "mmlu", "test")
    return [question for question in held_out if question.id in told]


def wirings(graph: Any) -> dict[str, Any]:
    """Votes alone, the sender alone, and graphs in which it explains its answer to others that vote."""
    found = {f"vote of {k}": wiring(graph, num_alone=k) for k in range(1, NUM_VOTERS + 1)}
    found["sender alone"] = graph.single(0)
    found |= {f"1 heard by {k}": wiring(graph, (0,), k) for k in range(1, MOST_READERS + 1)}
    return found | {f"1 heard by {k}, {k} alone": wiring(graph, (0,), k, k) for k in range(1, 3)}


def run_wirings(
    questions: Sequence[Any], llm: RecordedAnswers, seeds: int, temperature: float
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Score of every question by wiring, [seeds, n], and tokens, [n]."""
    graph = make_graph(llm, temperature)
    scores: dict[str, list[np.ndarray]] = {}
    tokens: dict[str, np.ndarray] = {}
    for seed in range(seeds):
        runner = Runner(graph, seed)
        for name, adjacency in wirings(graph).items():
            outcome = runner.run(questions, adjacency.expand(len(questions), 1, -1, -1))
            scores.setdefault(name, []).append(outcome.utility[:, 0].numpy())
            tokens[name] = outcome.tokens[:, 0].numpy()
    return {name: np.stack(rows) for name, rows in scores.items()}, tokens


def compare(scores: dict[str, np.ndarray], tokens: dict[str, np.ndarray], subjects: list[str]) -> dict[str, Any]:
    """Every wiring's accuracy and tokens, and its difference from voting alone at the same expected tokens."""
    votes = [name for name in scores if name.startswith("vote")]
    curve = [(float(tokens[name].mean()), scores[name]) for name in votes]
    rows = {}
    for name in scores:
        spend = float(tokens[name].mean())
        row: dict[str, Any] = {"tokens": spend, "accuracy": clustered_interval(scores[name], subjects)}
        if name not in votes:
            alone, matched = at_spend(curve, spend)
            row |= {"votes alone, accuracy": clustered_interval(alone, subjects), "votes alone, tokens": matched}
            row["gain"] = clustered_interval(scores[name] - alone, subjects)
        rows[name] = row
    return rows


def what_hearing_does(questions: Sequence[Any], llm: RecordedAnswers) -> dict[str, Any]:
    """How a voter's probabilities change by what it hears, by whether the sender was right."""
    graph = make_graph(llm)
    sender, voter = graph.team[0], graph.team[-1]
    replies = llm.reply([sender.request(question) for question in questions])
    said = [sender.answer(question, reply, 0.0) for question, reply in zip(questions, replies, strict=True)]
    heard = [[Message.of("Agent 0", answer, reply.text or "")] for answer, reply in zip(said, replies, strict=True)]
    nothing: list[list[Message]] = [[] for _ in questions]
    probs = {}
    for name, told in (("alone", nothing), ("after hearing", heard)):
        found = llm.reply([voter.request(question, about) for question, about in zip(questions, told, strict=True)])
        both = zip(questions, found, strict=True)
        probs[name] = torch.stack([voter.option_probs(question, reply) for question, reply in both])  # [n, C]
    answers, options = torch.tensor([question.answer for question in questions]), torch.tensor(said)
    right, named, every = options == answers, options >= 0, torch.arange(len(questions))
    result: dict[str, Any] = {
        "sender": mean_interval(right.double()),
        "unparsable": float((~named).double().mean()),
        "changed": mean_interval((probs["alone"] - probs["after hearing"]).abs().sum(1) / 2),
        "tokens of a sender": mean_interval([float(reply.tokens) for reply in replies]),
    }
    for kind, rows in {"all": named | ~named, "sender right": right, "sender wrong": ~right & named}.items():
        result[kind] = {"n": int(rows.sum())}
        for name, table in probs.items():
            result[kind][f"accuracy {name}"] = mean_interval(table[every, answers][rows])
            result[kind][f"agreement {name}"] = mean_interval(table[every, options.clamp(min=0)][rows & named])
    return result


def real_part(seeds: int, llm: RecordedAnswers) -> dict[str, Any]:
    """All wirings on record at two temperatures of the voters."""
    questions = recorded_questions(llm)
    subjects = [question.subject for question in questions]
    found: dict[str, Any] = {"hearing": what_hearing_does(questions, llm)}
    for name, temperature in (("warm", TEMPERATURE), ("cold", COLD)):
        found[name] = {"temperature": temperature}
        found[name]["wirings"] = compare(*run_wirings(questions, llm, seeds, temperature), subjects)
    return found


def inputs() -> list[dict[str, Any]]:
    """The recordings behind the wirings on record."""
    path, index = recorded_file(resolve_path(FOLDER), "agent", MODEL), resolve_path(RECORDINGS) / INDEX
    return [
        recorded_source(path).to_dict() | {"location": str(Path(FOLDER) / path.name)},
        {"name": INDEX, "kind": "record", "location": f"{RECORDINGS}/{INDEX}", "sha256": file_sha256(index)},
    ]


def write(measured: Measured) -> None:
    """The record: a part on the world, and one on recorded replies."""
    ((num_train, results),) = measured.outcomes.items()
    llm = RecordedAnswers(recorded_file(resolve_path(FOLDER), "agent", MODEL))
    numbers = {"world": world_part(results), "real": real_part(measured.num_seeds, llm)}
    record = Record.make(**measured.origin(), parameters={"preset": measured.preset})
    here = record.model_dump(include={"command", "parameters", "seeds", "code", "environment", "timing"})
    questions = {"evaluation": questions_digest(recorded_questions(llm))}
    parts = {
        "world": Origin.model_validate(here | {"questions": {"training": {"n": num_train}}}),
        "real": Origin.model_validate(here | {"inputs": inputs(), "questions": questions}),
    }
    record.model_copy(update={"parts": parts, "numbers": with_estimates(plain(numbers))}).save(measured.path)
