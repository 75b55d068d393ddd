"""What each recipe learns in worlds whose optimum is known: `make learner` writes results/learner.json.

Nothing here asks a language model: agents are simulated, and the edge LLM's features of the questions are on record.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dynagent.artefacts.sources import file_sha256
from dynagent.evaluation.controls import control_policies
from dynagent.evaluation.statistics import seed_interval
from dynagent.execution.runner import Runner
from dynagent.graph import AgentGraph
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.llm.reading import RecordedReader
from dynagent.policies.agent_aware import AgentAwarePolicy
from dynagent.policies.base import Policy
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.static import StaticEdgePolicy
from dynagent.progress import progress
from dynagent.runs.paths import resolve_path
from dynagent.runs.record import Origin, Record
from dynagent.runs.values import with_estimates
from dynagent.worlds.teams import load_world
from dynagent.worlds.world import World
from studies.common.calls import agent_calls
from studies.common.grid import side_by_side
from studies.common.program import program
from studies.common.record import load_record, place_of, record_path
from studies.worlds.settings import (
    ABLATION,
    BUDGET,
    CONTROLLED,
    PAPER_QUESTIONS,
    RECIPES,
    SPARSITIES,
    UNSEEN,
    Recipe,
    Setting,
    settings,
)

KIND = "worlds"
RECORDINGS = "results/recordings"
PARTS = ("worlds", "ablation", "curve", "sparsity", "unseen", "controls")
FEATURES = "smollm2-135m-instruct-b179c9523d0e-bfloat16.safetensors"


def make_policy(recipe: Recipe, graph: AgentGraph, readings: RecordedReader, seed: int) -> Policy:
    """The recipe's policy, untrained."""
    if recipe.kind == "static":
        return StaticEdgePolicy.for_graph(graph, **recipe.policy)
    cls: type[EdgePolicy] = AgentAwarePolicy if recipe.kind == "agent_aware" else EdgePolicy
    return cls.from_backbone(readings, graph, init_seed=seed, **recipe.policy)


def learn(recipe: Recipe, world: World, seed: int, sparsity: float = 0.0) -> tuple[Policy, int]:
    """Train by the recipe; returns the policy and the agents' calls that were paid."""
    config = TrainConfig(seed=seed, sparsity=sparsity, **recipe.train)
    policy = make_policy(recipe, world.graph, _readings(), config.stream("init"))
    history = train(policy, world.graph, world.train_questions, config, runner=Runner(world.graph, seed))
    return policy, agent_calls(config, history, len(world.train_questions), len(world.graph.team))


def measure(setting: Setting, seed: int) -> dict[str, float]:
    """One seed of a setting. The headline accuracy is that of the most probable graphs."""
    world = _world(setting.world, seed, setting.num_train, setting.team)
    policy, calls = learn((RECIPES | ABLATION)[setting.recipe], world, seed, setting.sparsity)
    if setting.deployed:
        world = _world(setting.world, seed, setting.num_train, tuple(UNSEEN[setting.deployed].items()))
        assert isinstance(policy, AgentAwarePolicy)
        policy = policy.for_team(world.graph)
    questions = world.eval_questions
    logits = policy.edge_logits_of(questions)[:, world.graph.decision_edges]  # [n, N]
    probs, votes = logits.sigmoid(), (logits >= 0).double()
    accuracy, sampled = (float(world.accuracy(chosen, questions).mean()) for chosen in (votes, probs))
    skill = torch.tensor([[agent.accuracy_on(q) for agent in world.graph.team] for q in questions])
    best = skill == skill.amax(1, keepdim=True)  # [n, N]: the agents that know the question's domain
    return {
        "headroom": world.headroom(accuracy),
        "sampled_headroom": world.headroom(sampled),
        "accuracy": accuracy,
        "sampled_accuracy": sampled,
        "best_static": world.best_static.accuracy,
        "best_per_domain": world.best_per_domain.accuracy,
        "expected_edges": float(probs.sum(1).mean()),
        "num_votes": float(votes.sum(1).mean()),
        "right_edges": float(probs[best].mean()),
        "wrong_edges": float(probs[~best].mean()),
        "highest_wrong_edge": float((probs * ~best).sum(0).div((~best).sum(0).clamp(min=1)).max()),
        "agent_calls": calls,
        "num_train_questions": len(world.train_questions),
        "num_eval_questions": len(questions),
    }


def measure_controls(world_name: str, seed: int) -> dict[str, float]:
    """What the default recipe's policy gains over each control in a world."""
    world = _world(world_name, seed, BUDGET[world_name], ())
    policy, _ = learn(RECIPES["default"], world, seed)

    def scores(of: Policy) -> Tensor:
        votes = of.edge_logits_of(world.eval_questions)[:, world.graph.decision_edges] >= 0
        return world.accuracy(votes.double(), world.eval_questions)

    controls = control_policies(policy, world.train_questions, world.eval_questions, seed)
    return {name: float((scores(policy) - scores(control)).mean()) for name, control in controls.items()}


def summarise(setting: Setting, results: list[dict[str, float]]) -> dict[str, Any]:
    """A row of the record: means over seeds, the headrooms with intervals of Student's t."""
    row: dict[str, Any] = {"part": setting.part, "origin": setting.part, "world": setting.world_name}
    row["recipe"] = setting.recipe
    for name in results[0]:
        estimate = seed_interval([result[name] for result in results])
        row[name] = estimate if name.endswith("headroom") else sum(result[name] for result in results) / len(results)
    return row | {"sparsity": setting.sparsity, "num_seeds": len(results)}


def best_possible() -> list[dict[str, Any]]:
    """Rows beside those of the sparsity sweep: the best wiring where a vote costs so much accuracy."""
    world = _world("routing", 0, PAPER_QUESTIONS, ())
    rows = []
    for cost in SPARSITIES:
        optimum = world.best_at_cost(cost)
        num_votes = sum(map(sum, optimum.votes.values())) / len(optimum.votes)
        row = {"part": "sparsity", "origin": "sparsity", "world": "routing", "recipe": "best possible"}
        rows.append(row | {"accuracy": optimum.accuracy, "num_votes": num_votes, "sparsity": cost})
    return rows


@lru_cache
def _readings() -> RecordedReader:
    return RecordedReader(resolve_path(RECORDINGS) / FEATURES)


@lru_cache(maxsize=64)
def _world(name: str, seed: int, num_train: int, team: tuple[tuple[str, Any], ...]) -> World:
    return load_world(name, resolve_path(RECORDINGS), seed, num_train, **dict(team))


def run(num_seeds: int, processes: int, part: str = "") -> list[dict[str, Any]]:
    """All seeds of all settings and controls, or those of one part, spread over processes; one row each."""
    wanted, seeds = [setting for setting in settings() if part in ("", setting.part)], range(num_seeds)
    controlled = CONTROLLED if part in ("", "controls") else ()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=side_by_side) as pool:
        futures = {setting: [pool.submit(measure, setting, seed) for seed in seeds] for setting in wanted}
        controls = {world: [pool.submit(measure_controls, world, seed) for seed in seeds] for world in controlled}
        pending = [future for group in (*futures.values(), *controls.values()) for future in group]
        for future in progress(as_completed(pending), desc="learning", unit="run", total=len(pending)):
            future.result()  # a failure ends everything at once
    rows = [summarise(setting, [future.result() for future in group]) for setting, group in futures.items()]
    for world, group in controls.items():
        results = [future.result() for future in group]
        for name in results[0]:
            gain = seed_interval([result[name] for result in results])
            row = {"part": "controls", "origin": "controls", "world": world, "recipe": "default", "control": name}
            rows.append(row | {"gain": gain, "num_seeds": num_seeds})
    if part in ("", "sparsity"):
        rows += best_possible()
    return rows


def make_record(rows: list[dict[str, Any]], num_seeds: int, part: str, kept: Record | None = None) -> Record:
    """The rows that were measured, beside those of other parts that are kept, each part with its origin.

    Args:
        part: that was measured; "" for all.
    """
    features = f"{RECORDINGS}/{FEATURES}"
    record = Record.make(
        kind=KIND,
        command=f"{place_of(KIND).command} ARGS='--seeds {num_seeds}{part and f' --part {part}'}'",
        seeds=list(range(num_seeds)),
        inputs=[{"name": FEATURES, "kind": "record", "location": features,
                 "sha256": file_sha256(resolve_path(features))}],
    )  # fmt: skip
    origin = Origin(**record.model_dump(include=set(Origin.model_fields)))
    others = [row for row in kept.numbers["rows"] if row["part"] != part] if kept else []
    parts = {row["origin"]: kept.parts[row["origin"]] for row in others} if kept else {}
    parts |= {row["origin"]: origin for row in rows}
    return record.model_copy(update={"parts": parts, "numbers": with_estimates({"rows": others + rows})})


@program
def main(arguments: list[str] | None = None) -> int:
    """Measure every recipe in every known-answer world."""
    parser = argparse.ArgumentParser(prog="python -m studies.worlds.measure", description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--output", default=place_of(KIND).path, help="default: %(default)s")
    parser.add_argument("--part", default="", choices=PARTS, help="measure this part again, and keep the other rows")
    options = parser.parse_args(arguments)
    path = record_path(KIND, options.output)
    kept = load_record(KIND, path) if options.part else None
    rows = run(options.seeds, options.processes, options.part)
    make_record(rows, options.seeds, options.part, kept).save(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
