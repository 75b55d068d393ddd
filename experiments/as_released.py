"""What each thing that the released code does changes: alone, all together, and all but one.

`make ablations` writes results/ablations/as_released.json. The switches are in `experiments.released`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from dynagent.config import resolve_path
from dynagent.intervals import seed_interval
from dynagent.llm.recorded import recorded_file
from dynagent.results import questions_digest
from experiments.released import (
    CHINESE,
    DRAWN,
    MIXED,
    NUM_HEARD,
    RATE,
    SWITCHES,
    TASKS,
    VOIDED,
    Heard,
    Setting,
    loaded,
    measure,
    measure_heard,
    of_task,
    setting,
    team_of,
)
from experiments.study import PRESETS, Results, collect, run, used_recordings
from experiments.table2_cells import QWEN, RECIPES
from experiments.unparsable import RULES

STUDY = "as_released"
EFFECTS = ("static", "dynamic", "dynamic - static")
RATES = (0.0, 0.02, 0.05, 0.1, 0.2)  # of unparsable replies
SPARSITY_RATES = {"paper": RATES, "default": (0.0, 0.05, 0.2)}
# Edges without effect change no number, which this study measures, and cost most of the time.
WITHOUT_EFFECT = tuple(name for name in SWITCHES if name.split()[0] in ("1", "8", "9"))
State = tuple[str, str, tuple[str, ...], tuple[str, ...]]


def states(task: str, recipe: str = "paper") -> list[State]:
    """What is compared: (kind, switch, switches on, switches on in the state it is compared with)."""
    names = tuple(of_task(task, recipe))
    alone: list[State] = [("alone", name, (name,), ()) for name in names]
    if recipe == "default":
        return alone
    without: list[State] = [("without", name, names, tuple(n for n in names if n != name)) for name in names]
    return [("all", "all", names, ()), *alone, *without]


def scores(results: Results, of: Setting, on: Sequence[str], wiring: str, chinese: np.ndarray) -> np.ndarray:
    """[seeds, n] in a state of the switches; where the evaluation is all Chinese, only those questions count.

    Args:
        wiring: one of `EFFECTS`.
        chinese: [n] bool.
    """
    if wiring == "dynamic - static":
        return scores(results, of, on, "dynamic", chinese) - scores(results, of, on, "static", chinese)
    drawn = DRAWN in on if wiring == "static" else of.recipe == "paper"
    found = results.scores(of, f"{wiring}, {'sampled' if drawn else 'most_probable'}")
    return found * chinese / chinese.mean() if CHINESE in on else found


def switch_rows(results: Results, task: str, recipe: str, chinese: np.ndarray) -> list[dict[str, Any]]:
    """One row for every comparison of `states`: the effect on each policy and on the gain, and what it comes from."""
    rows = []
    for kind, name, on, off in states(task, recipe):
        one, other = setting(task, recipe, on), setting(task, recipe, off)
        row: dict[str, Any] = {"task": task, "recipe": recipe, "kind": kind, "switch": name}
        for wiring in EFFECTS:
            with_it, without = (scores(results, of, which, wiring, chinese) for of, which in ((one, on), (other, off)))
            row[wiring] = results.interval(with_it - without)
            row[f"{wiring}, largest change"] = float(np.abs(with_it - without).max())
            row[f"{wiring}, on"], row[f"{wiring}, off"] = results.interval(with_it), results.interval(without)
        for value in ("dynamic: expected edges", "static: expected edges"):
            change = np.subtract(results.values(one, value), results.values(other, value))
            row[value] = seed_interval(change.tolist())
        rows.append(row)
    return rows


# --- unparsable replies: what one more edge costs, and what the sparsity loss gains by leaving edges out --------------


def heard_rows(results: Results, settings: Sequence[Heard]) -> list[dict[str, Any]]:
    """Accuracy against the number of agents that are heard, and what the last four of eight add."""
    rows = []
    for of in settings:
        row: dict[str, Any] = {"rate": of.rate, "rule": of.rule}
        row["accuracy"] = [results.interval(results.scores(of, str(number))) for number in NUM_HEARD]
        row["best number"] = int(np.argmax([estimate.mean for estimate in row["accuracy"]])) + 1
        row["8 - 4"] = results.interval(results.scores(of, "8 - 4"))
        row["8 - 3"] = results.interval(results.scores(of, "8 - 3"))
        row["8 - best"] = results.interval(results.scores(of, f"8 - {row['best number']}"))
        rows.append(row)
    return rows


def sparsity_setting(recipe: str, task: str, rate: float, voids: bool) -> Setting:
    """As released in all else that can change the vote, or our default; with or without the sparsity loss."""
    released = of_task(task) if recipe == "paper" else []
    on = [name for name in released if name not in (VOIDED, *WITHOUT_EFFECT)]
    return setting(task, recipe, [*on, *([VOIDED] if voids and rate > 0 else [])], rate)


def sparsity_rows(results: Results) -> list[dict[str, Any]]:
    """What the sparsity loss changes, where a bad reply is no vote and where it voids the vote, and the difference."""
    rows = []
    for recipe in RECIPES:
        for rate in SPARSITY_RATES[recipe]:
            for policy in ("dynamic", "static"):
                graphs = "sampled" if recipe == "paper" else "most_probable"
                row: dict[str, Any] = {"recipe": recipe, "rate": rate, "policy": policy}
                gains = {}
                for rule, voids in (("no vote", False), ("voids", True)):
                    before, after = (sparsity_setting(recipe, task, rate, voids) for task in MIXED)
                    both = [results.scores(of, f"{policy}, {graphs}") for of in (before, after)]
                    gains[rule] = both[1] - both[0]
                    edges = [results.values(of, f"{policy}: expected edges") for of in (before, after)]
                    row[rule] = {
                        "without": results.interval(both[0]), "with": results.interval(both[1]),
                        "gain": results.interval(gains[rule]),
                        "edges without": seed_interval(edges[0]), "edges with": seed_interval(edges[1]),
                    }  # fmt: skip
                row["voids - no vote"] = results.interval(gains["voids"] - gains["no vote"])
                rows.append(row)
    return rows


def make(options: argparse.Namespace) -> dict[str, Any]:
    """All sections of the record."""
    found: dict[str, Any] = {"unparsable rate": RATE, "switches": list(SWITCHES), "tasks": {}}
    num_seeds, rows = PRESETS[options.preset], []
    sparse = [
        sparsity_setting(recipe, task, rate, voids)
        for recipe in RECIPES for task in MIXED for rate in SPARSITY_RATES[recipe] for voids in (False, True)
    ]  # fmt: skip
    for task in TASKS:
        experiment = loaded(team_of(task))
        questions = experiment.eval_questions
        chinese = np.array([question.language == "zh" for question in questions])
        subjects = [f"{question.language}/{question.subject}" for question in questions]
        found["tasks"][task] = {
            "training": questions_digest(experiment.train_questions), "evaluation": questions_digest(questions)
        }  # fmt: skip
        for recipe in RECIPES:
            needed = [setting(task, recipe, on) for state in states(task, recipe) for on in state[2:]]
            results = Results(collect(STUDY, needed, measure, num_seeds, options.processes), subjects)
            rows += switch_rows(results, task, recipe, chinese)
        if task == "adversarial":
            heard = [Heard(rate, rule) for rate in RATES for rule in RULES]
            results = Results(collect(STUDY, heard, measure_heard, num_seeds, options.processes), subjects)
            found["heard"] = heard_rows(results, heard)
    results = Results(collect(STUDY, sparse, measure, num_seeds, options.processes), subjects)
    found |= {"rows": rows, "sparsity": sparsity_rows(results)}
    folder = resolve_path("results/recordings")
    agents, edge = recorded_file(folder, "agent", QWEN["agent_llm"]), loaded("specialized").reader
    assert edge is not None
    return found | {"sources": used_recordings(agents, edge.path)}


if __name__ == "__main__":
    sys.exit(run(STUDY, "What each thing that the released code does changes.", make))
