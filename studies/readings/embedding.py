"""Is it what the embeddings know, or how large they are? The edge LLM's readouts at equal and unequal scale.

`make ablations` writes results/ablations/embedding_ablation.json: last hidden state, mean hidden state and mean
embedding, raw and standardized, at the paper's and at our learning rate, by the published recipe and by ours; and raw
features that are multiplied by one number, so that embeddings are as large as hidden states, and the other way round.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np

from dynagent.evaluation.controls import CONTROLS
from dynagent.evaluation.statistics import seed_interval
from dynagent.llm.local import READOUTS
from dynagent.llm.replay import recorded_file
from dynagent.runs.paths import resolve_path
from dynagent.runs.provenance import questions_digest
from studies.common.numbers import geometric_mean
from studies.common.outcomes import Results
from studies.common.study import PRESETS, collect, run, used_recordings
from studies.readings.measure import GRAPHS, RECORDED, Reading, measure, place, reader_of, scale_of
from studies.table2.settings import QWEN, RECIPES

STUDY = "readings/embedding_ablation"
TASKS = ("specialized", "adversarial", "routing")
LEARNING_RATES = (1e-4, 0.03)  # the paper's, and ours
RESCALED = (("mean_embedding", "last_hidden"), ("last_hidden", "mean_embedding"))
VARIATION = "trained: deviation over questions"


def static(task: str, recipe: str) -> Reading:
    """The policy that reads nothing, trained on the same questions and answers."""
    return Reading(task, recipe, "static")


def settings(task: str) -> list[Reading]:
    """All policies of a task, but the static ones."""
    found = []
    for recipe, rate in product(RECIPES, LEARNING_RATES):
        found += [
            Reading(task, recipe, readout, standardize, rate) for readout in READOUTS for standardize in (False, True)
        ]
        found += [Reading(task, recipe, readout, False, rate, norm_of) for readout, norm_of in RESCALED]
    return found


def row(results: Results, of: Reading) -> dict[str, Any]:
    """What a reading of the question gives: accuracy or headroom, variation, gains over static and over controls."""
    found = {name: value for name, value in asdict(of).items() if name != "edge_llm" and value != ""}
    names = ("untrained: deviation over questions", VARIATION, "trained: expected edges")
    found |= {name: seed_interval(results.values(of, name)) for name in names if name in results.outcomes[of].values}
    for kind in GRAPHS:
        if of.task == "routing":
            headroom = results.values(of, f"trained, {kind}: headroom")
            before = results.values(static(of.task, of.recipe), f"trained, {kind}: headroom")
            found[kind] = {"headroom": seed_interval(headroom), "static": seed_interval(before)}
            continue
        scores = results.scores(of, f"trained, {kind}")
        known = ("untrained", *(CONTROLS if of.task == "specialized" else ()))
        others = {f"over {name}": results.scores(of, f"{name}, {kind}") for name in known}
        others["over static"] = results.scores(static(of.task, of.recipe), f"trained, {kind}")
        gains = {name: results.interval(scores - other) for name, other in others.items()}
        found[kind] = {"accuracy": results.interval(scores)} | gains
    return found


def ratios(results: Results, task: str) -> list[dict[str, Any]]:
    """How much the probabilities vary with mean embeddings, over the same with the last hidden state, by seed.

    Only where the features fit the learning rate: at ours, raw hidden states drive every probability to 0 or 1.
    """
    rows = []
    for recipe, rate in product(RECIPES, LEARNING_RATES):
        hidden = np.array(results.values(Reading(task, recipe, "last_hidden", False, rate), VARIATION))
        arms = {
            "raw": Reading(task, recipe, "mean_embedding", False, rate),
            "as large as the last hidden state": Reading(task, recipe, "mean_embedding", False, rate, "last_hidden"),
            "the last hidden state as small as embeddings": Reading(
                task, recipe, "last_hidden", False, rate, "mean_embedding"
            ),
            "standardized, both": Reading(task, recipe, "mean_embedding", True, rate),
        }
        both = np.array(results.values(Reading(task, recipe, "last_hidden", True, rate), VARIATION))
        for name, of in arms.items():
            if not of.standardize and rate != LEARNING_RATES[0]:
                continue
            base = both if name == "standardized, both" else hidden
            ratio = geometric_mean(np.array(results.values(of, VARIATION)) / base)
            rows.append({"task": task, "recipe": recipe, "learning_rate": rate, "embeddings": name, "ratio": ratio})
    return rows


def make(options: argparse.Namespace) -> dict[str, Any]:
    """All sections of the record."""
    num_seeds, rows, of_ratios, about = PRESETS[options.preset], [], [], {}
    for task in TASKS:
        wanted = settings(task)
        where = place(task, "default", num_seeds)
        subjects = [f"{question.language}/{question.subject}" for question in where.evaluation[0]]
        needed = [*wanted, *(static(task, recipe) for recipe in RECIPES)]
        results = Results(collect(STUDY, needed, measure, num_seeds), subjects)
        rows += [row(results, of) for of in wanted]
        of_ratios += ratios(results, task)
        about[f"{task}, training"] = questions_digest(where.training[0])
        about[f"{task}, evaluation"] = questions_digest(where.evaluation[0])
    agents = recorded_file(resolve_path("results/recordings"), "agent", QWEN["agent_llm"])
    return {
        "questions": about,  # of the world, those of the first seed
        "inputs": used_recordings(agents, reader_of(RECORDED).path),
        "scales": {readout: scale_of(RECORDED, readout) for readout in READOUTS},
        "ratios": of_ratios,
        "rows": rows,
    }


if __name__ == "__main__":
    sys.exit(run(STUDY, "Mean embeddings against hidden states, at equal and unequal scale.", make))
