"""What does pretraining of the edge LLM give, and what does another model give? Policies on three kinds of readings.

`make ablations` writes results/ablations/model_size.json: SmolLM2-135M, Gemma-3-270M, and untrained models of SmolLM2's
shape and tokenizer, whose random weights differ by their seed. Features are replayed from recordings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from dynagent.artefacts.sources import file_sha256
from dynagent.evaluation.statistics import Estimate, seed_interval
from dynagent.llm.local import READOUTS
from dynagent.llm.replay import recorded_file
from dynagent.runs.paths import resolve_path
from dynagent.runs.provenance import questions_digest
from dynagent.runs.record import Record
from studies.common.outcomes import Results
from studies.common.study import PRESETS, collect, run, used_recordings
from studies.readings.edge_llms import INITS, PRETRAINED, untrained_name
from studies.readings.measure import EIGHT_BITS, GRAPHS, RECORDED, Reading, measure, place, reader_of, scale_of
from studies.table2.settings import QWEN

STUDY = "readings/model_size"
TASKS = ("specialized", "routing, mixed questions", "mixture")
GEMMA = PRETRAINED[1]
UNTRAINED = tuple(untrained_name(RECORDED, seed) for seed in INITS)
# The world's questions on ten subjects were read by one of the untrained models.
EDGE_LLMS = dict.fromkeys(TASKS[:2], (RECORDED, GEMMA, *UNTRAINED)) | {TASKS[2]: (RECORDED, GEMMA, UNTRAINED[0])}
MOST_PROBABLE = GRAPHS[1]
# One group minus another; a group is averaged over its models, seed by seed.
COMPARISONS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "pretraining: SmolLM2 - untrained": ((RECORDED,), UNTRAINED),
    "model: Gemma-3 - SmolLM2": ((GEMMA,), (RECORDED,)),
    "eight bits - half precision": ((EIGHT_BITS,), (RECORDED,)),
}


def reading(task: str, edge_llm: str, readout: str, recipe: str = "default") -> Reading:
    """A policy by our recipe, or by the published one with raw features."""
    if recipe == "paper":
        return Reading(task, recipe, readout, False, 1e-4, edge_llm=edge_llm)
    return Reading(task, recipe, readout, edge_llm=edge_llm)


def settings() -> list[Reading]:
    """All policies: every readout by our recipe; the published recipe reads the last hidden state."""
    found = [
        reading(task, name, readout)
        for task in TASKS
        for name, readout in product((*EDGE_LLMS[task], EIGHT_BITS), READOUTS)
    ]
    return found + [reading(task, name, "last_hidden", "paper") for task in TASKS[:2] for name in EDGE_LLMS[task]]


def quality(results: Results, of: Reading) -> np.ndarray:
    """What a policy is judged by: [seeds, n] accuracies on recorded teams, [seeds] headrooms in worlds."""
    kind = MOST_PROBABLE if of.recipe == "default" else GRAPHS[0]
    if of.task == TASKS[0]:
        return results.scores(of, f"trained, {kind}")
    return np.array(results.values(of, f"trained, {kind}: headroom"))


def estimate(results: Results, quality: np.ndarray) -> Estimate:
    """Its mean with the interval over seeds, and over subjects where there are accuracies."""
    return results.interval(quality) if quality.ndim == 2 else seed_interval(quality.tolist())


def row(results: Results, of: Reading) -> dict[str, Any]:
    """What one edge LLM and readout gives."""
    found: dict[str, Any] = {name: getattr(of, name) for name in ("task", "recipe", "edge_llm", "readout")}
    found["quality"] = estimate(results, quality(results, of))
    found["deviation over questions"] = seed_interval(results.values(of, "trained: deviation over questions"))
    if of.task == TASKS[0]:
        kind = MOST_PROBABLE if of.recipe == "default" else GRAPHS[0]
        own = quality(results, of)
        static = results.scores(Reading(of.task, of.recipe, "static"), f"trained, {kind}")
        found["over static"] = results.interval(own - static)
        found["over language router"] = results.interval(own - results.scores(of, f"language router, {kind}"))
    return found


def comparison(results: Results, task: str, recipe: str, readout: str, name: str) -> dict[str, Any]:
    """The difference between two groups of edge LLMs, paired by seed and question."""
    read = [[one for one in group if one in (*EDGE_LLMS[task], EIGHT_BITS)] for group in COMPARISONS[name]]
    groups = [
        np.mean([quality(results, reading(task, one, readout, recipe)) for one in group], axis=0) for group in read
    ]
    found = {"task": task, "recipe": recipe, "readout": readout, "comparison": name, "models": read}
    return found | {"difference": estimate(results, groups[0] - groups[1])}


def source_of(path: Path) -> dict[str, Any]:
    """The model behind a file of features, and the file's own hash."""
    (model,) = Record.load(path.with_suffix(".json")).inputs
    return model.model_dump() | {"files": {path.name: file_sha256(path)}}


def make(options: argparse.Namespace) -> dict[str, Any]:
    """All sections of the record."""
    num_seeds = PRESETS[options.preset]
    where = place(TASKS[0], "default", num_seeds)
    subjects = [f"{question.language}/{question.subject}" for question in where.evaluation[0]]
    wanted = settings()
    static = [Reading(TASKS[0], recipe, "static") for recipe in ("default", "paper")]
    results = Results(collect(STUDY, [*wanted, *static], measure, num_seeds), subjects)
    compared = [("default", readout, name) for readout, name in product(READOUTS, COMPARISONS)]
    compared += [("paper", "last_hidden", name) for name in list(COMPARISONS)[:2]]
    agents = recorded_file(resolve_path("results/recordings"), "agent", QWEN["agent_llm"])
    every = EDGE_LLMS[TASKS[0]]
    files = [reader_of(name).path for name in every[1:]]
    return {
        "questions": {
            "training": questions_digest(where.training[0]), "evaluation": questions_digest(where.evaluation[0]),
        },
        "inputs": used_recordings(agents, reader_of(RECORDED).path)
        + [source_of(path) for path in files],
        "scales": [
            {"edge_llm": name, "readout": readout} | scale_of(name, readout)
            for name, readout in product(every, READOUTS)
        ],
        "rows": [row(results, of) for of in wanted],
        "comparisons": [
            comparison(results, task, *which)
            for task, which in product(TASKS, compared)
            if which[0] == "default" or task != TASKS[2]
        ],
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(run(STUDY, "Policies on a pretrained edge LLM, another one, and untrained ones.", make))
