"""Mini Crosswords: static and dynamic policies in a simulated world: `make crosswords` writes results/crosswords.json.

Nothing here asks a language model: the solver is simulated, and the edge LLM's features of the puzzles are on record.
What a real language model's teams make of the same puzzles is recorded by `studies.crosswords.answers`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from dynagent.artefacts.sources import file_sha256
from dynagent.execution.boards import BoardRunner
from dynagent.graph import AgentGraph
from dynagent.learning.loop import History, train
from dynagent.llm.load import load_llm
from dynagent.llm.reading import QuestionReader, RecordedReader
from dynagent.policies.base import Policy
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.static import StaticEdgePolicy
from dynagent.progress import progress
from dynagent.runs.paths import readable, resolve_path
from dynagent.runs.provenance import code_version, now
from dynagent.runs.record import Code, Record
from dynagent.sampling import edge_noise, most_probable_dags, sample_dags
from dynagent.tasks.crosswords import Puzzle, load_puzzles
from dynagent.team.crosswords import JUDGES, ReturnAll, brute_force, reflection
from dynagent.worlds.crosswords import MAX_EDGES, Best, PathTable, Search, simulated_team
from dynagent.worlds.crosswords_solver import SKILLS, family_of
from studies.common.grid import side_by_side
from studies.common.program import program
from studies.common.record import place_of, record_path
from studies.crosswords.answers import ALONE, CHAIN, FOLDER, adjacency_of, edge_names
from studies.crosswords.settings import PUBLISHED, SIMULATED, CrosswordsConfig

KIND = "crosswords"
POLICIES = ("static", "dynamic")
EVALUATION_SEED = 1_000_000  # of the solver that held-out puzzles meet; trainings have seeds from 0 on
NUM_SAMPLED = 8  # drawn graphs of a held-out puzzle
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "published": PUBLISHED,
}
CELLS = {
    f"{recipe}, {judge}": options | {"judge": judge} for recipe, options in RECIPES.items() for judge in JUDGES
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One seed: a static and a dynamic policy, trained on the same puzzles and replies."""

    config: CrosswordsConfig
    graph: AgentGraph
    policies: dict[str, Policy]
    histories: dict[str, History]
    eval_puzzles: tuple[Puzzle, ...]
    num_calls: dict[str, int]
    seconds: dict[str, float]


def load_split(config: CrosswordsConfig) -> tuple[tuple[Puzzle, ...], tuple[Puzzle, ...]]:
    """Training and evaluation puzzles."""
    held_out = load_puzzles("test", config.data_source)[0]
    return (held_out if config.puzzles == "same" else load_puzzles("train", config.data_source)[0]), held_out


def make_team(config: CrosswordsConfig) -> AgentGraph:
    """The paper's team on the configured solver; the simulated one draws what it knows by the run's seed."""
    if config.agent_llm == SIMULATED:
        return simulated_team(config.seed, config.judge)
    llm = load_llm(config.agent_llm)
    options = {"max_new_tokens": config.max_new_tokens}
    return AgentGraph([brute_force(llm, **options), reflection(llm, **options)], ReturnAll(config.judge))


def make_policy(kind: str, config: CrosswordsConfig, graph: AgentGraph) -> Policy:
    """The untrained policy."""
    if kind == "static":
        return StaticEdgePolicy.for_graph(graph, config.initial_probability)
    return EdgePolicy.from_backbone(
        recorded_features() if config.edge_llm == "recorded" else QuestionReader.load(config.edge_llm),
        graph, readout=config.readout, initial_probability=config.initial_probability,
        standardize=config.standardize, head_init=config.head_init, init_seed=config.stream("init"),
    )  # fmt: skip


@lru_cache
def recorded_features() -> RecordedReader:
    """SmolLM2-135M's features of all 156 puzzles."""
    (path,) = resolve_path(FOLDER).glob("*.safetensors")
    return RecordedReader(path)


def run(config: CrosswordsConfig) -> Run:
    """Train both policies."""
    train_puzzles, eval_puzzles = load_split(config)
    graph = make_team(config)
    policies, histories, calls, seconds = {}, {}, {}, {}
    for kind in POLICIES:
        policies[kind] = make_policy(kind, config, graph)
        rate = config.static_learning_rate if kind == "static" else config.learning_rate
        train_config = CrosswordsConfig(**(config.to_dict() | {"learning_rate": rate}))
        runner, started = BoardRunner(graph), time.monotonic()
        histories[kind] = train(policies[kind], graph, train_puzzles, train_config, runner=runner)
        calls[kind], seconds[kind] = runner.num_calls, time.monotonic() - started
    return Run(config, graph, policies, histories, eval_puzzles, calls, seconds)


def graphs_of(logits: Tensor, graph: AgentGraph, config: CrosswordsConfig) -> dict[str, Tensor]:
    """For every puzzle the most probable graph, and graphs drawn as in training: [n, K, M, M] bool each."""
    noise = edge_noise(len(logits), NUM_SAMPLED, graph.num_edges, config.generator("evaluation"))
    return {
        "most probable": most_probable_dags(logits, graph, decide=config.decide).adjacency,
        "sampled": sample_dags(logits, graph, noise, order=config.order, decide=config.decide).adjacency,
    }


def scores_of(adjacency: Tensor, table: PathTable, judge: str) -> np.ndarray:
    """Words, letters and games of every puzzle with its own graphs, mean over graphs and draws: [n, 3]."""
    means = [
        np.mean([table.judged(one, judge, slice(number, number + 1))[0].mean(0) for one in graphs], axis=0)
        for number, graphs in enumerate(adjacency)
    ]
    return np.array(means)


@lru_cache(maxsize=2)
def evaluation_table(num_draws: int) -> PathTable:
    """The held-out puzzles, on draws of the solver that no training has met."""
    return PathTable.compute(load_puzzles("test")[0], range(EVALUATION_SEED, EVALUATION_SEED + num_draws))


def evaluate_run(done: Run) -> dict[str, dict[str, np.ndarray]]:
    """For each policy, words, letters and games of every held-out puzzle, [n, 3], by kind of graphs and judge."""
    config = done.config
    found: dict[str, dict[str, np.ndarray]] = {}
    simulated = config.agent_llm == SIMULATED
    table = evaluation_table(config.num_draws) if simulated else None
    runner = BoardRunner(done.graph)
    for kind, policy in done.policies.items():
        found[kind] = {}
        for name, adjacency in graphs_of(policy.edge_logits_of(done.eval_puzzles), done.graph, config).items():
            outcome = None if table else runner.run(done.eval_puzzles, adjacency)
            for judge in JUDGES:
                if table:
                    found[kind][f"{name}, {judge}"] = scores_of(adjacency, table, judge)
                elif outcome:
                    found[kind][f"{name}, {judge}"] = outcome.scores[judge].mean(1).numpy()
    return found


def measure(cell: str, seed: int) -> dict[str, Any]:
    """One seed of a cell: curves, scores by both judges on both kinds of graphs, and what it took."""
    done = run(CrosswordsConfig.from_parameters(CELLS[cell] | {"seed": seed}))
    result: dict[str, Any] = {"seed": seed}
    for kind, scores in evaluate_run(done).items():
        result[kind] = {
            "utility": [round(utility, 4) for utility in done.histories[kind].column("utility")],
            "scores": {name: values.round(4).tolist() for name, values in scores.items()},
            "calls": done.num_calls[kind],
            "seconds": round(done.seconds[kind], 1),
        }
        if seed == 0:
            probs = done.policies[kind].edge_logits_of(done.eval_puzzles).sigmoid()
            result[kind]["edge_probs"] = probs.numpy().round(3).tolist()
    return result


def optimum() -> dict[str, Any]:
    """For each judge the best graph for all held-out puzzles and for each family, and two fixed ones."""
    table = evaluation_table(CrosswordsConfig().num_draws)
    graph = simulated_team(0)
    names, found = edge_names(graph), {}
    for judge in JUDGES:
        search = Search(table, judge)
        enumerated = search.enumerate()
        climbed = {name: search.climb(best, name) for name, best in enumerated.items()}
        found[judge] = {
            "enumerated": {name: described(best, name, names) for name, best in enumerated.items()},
            "climbed": {name: described(best, name, names) for name, best in climbed.items()},
            "fixed": {
                name: table.judged(adjacency_of(edges, graph), judge).mean(1).round(4).tolist()
                for name, edges in (("agents alone", ALONE), ("chain", CHAIN))
            },
        }  # fmt: skip
    return {"max_edges": MAX_EDGES, "families": [family_of(p) for p in table.puzzles], "judges": found}


def described(best: Best, name: str, names: Sequence[str]) -> dict[str, Any]:
    """A graph of the optimum, in words."""
    return {"words": best.words[name], "edges": [names[edge] for edge in best.edges], "on": best.words}


def measure_all(num_seeds: int, processes: int) -> dict[str, Any]:
    """All seeds of all cells and the optimum, spread over processes."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=side_by_side) as pool:
        best = pool.submit(optimum)
        cells = {cell: [pool.submit(measure, cell, seed) for seed in range(num_seeds)] for cell in CELLS}
        pending = [best, *(future for futures in cells.values() for future in futures)]
        for future in progress(as_completed(pending), desc="learning", unit="run", total=len(pending)):
            future.result()  # a failure ends everything at once
    return {
        "cells": {cell: [future.result() for future in futures] for cell, futures in cells.items()},
        "optimum": best.result(),
    }


@program
def main(arguments: list[str] | None = None) -> int:
    """Train static and dynamic policies in the simulated crosswords world."""
    parser = argparse.ArgumentParser(prog="python -m studies.crosswords.measure", description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--output", default=place_of(KIND).path, help="default: %(default)s")
    options = parser.parse_args(arguments)
    code, started = code_version(), time.monotonic()  # of the code that runs, not of what the tree is at the end
    measured = measure_all(options.seeds, options.processes)
    timing = {"seconds": round(time.monotonic() - started), "saved_at": now()}
    record = make_record(measured, options.seeds).model_copy(update={"code": Code(**code), "timing": timing})
    record.save(record_path(KIND, options.output))
    return 0


def make_record(measured: dict[str, Any], num_seeds: int) -> Record:
    """What `measure_all` gives, with the solver and the puzzles that it was measured on."""
    (puzzles, source), held_out, features = load_puzzles("all"), load_puzzles("test")[0], recorded_features()
    recording = {"kind": "record", "location": readable(features.path), "sha256": file_sha256(features.path)}
    skills = {name: vars(skill) for name, skill in SKILLS.items()}
    return Record.make(
        kind=KIND,
        command=f"{place_of(KIND).command} ARGS='--seeds {num_seeds}'",
        parameters={cell: CrosswordsConfig.from_parameters(chosen).to_dict() for cell, chosen in CELLS.items()},
        seeds=list(range(num_seeds)),
        inputs=[source.to_dict(), {"name": features.identity} | recording],
        questions={"all": {"n": len(puzzles)}, "evaluation": {"n": len(held_out)}},
        numbers={"skills": skills, "puzzles": [puzzle.id for puzzle in held_out]} | measured,
    )


if __name__ == "__main__":
    sys.exit(main())
