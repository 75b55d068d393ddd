"""What each thing that the released code does changes: alone, all together, and all but one.

`make ablations` writes results/ablations/as_released.json. The switches are in `studies.released.training`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from dynagent.evaluation.statistics import seed_interval
from dynagent.llm.reading import RecordedReader
from dynagent.llm.replay import recorded_file
from dynagent.runs.paths import resolve_path
from dynagent.runs.provenance import questions_digest
from studies.common.numbers import geometric_mean
from studies.common.outcomes import Results
from studies.common.study import PRESETS, collect, run, used_recordings
from studies.released.training import (
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
)
from studies.released.unparsable import RULES
from studies.table2.settings import QWEN, RECIPES

STUDY = "released/as_released"
EFFECTS = ("static", "dynamic", "dynamic - static")
RATES = (0.0, 0.02, 0.05, 0.1, 0.2)  # of unparsable replies
JUDGED_ON = {"paper": "drawn", "default": "most probable"}  # how each recipe's dynamic policy is meant to be used
State = tuple[str, str, tuple[str, ...], tuple[str, ...]]


def setting(task: str, recipe: str, on: Sequence[str], rate: float = RATE, *, all_edges: bool = False) -> Setting:
    """The training behind a state of the switches.

    Args:
        all_edges: keep the switches that concern no vote; they change no edge into the decision, as
            `studies.released.no_effect` measures, and so are left out elsewhere.
    """
    kept = [name for name, one in SWITCHES.items() if name in on and one.in_training and (one.on_vote or all_edges)]
    return Setting(task, recipe, tuple(kept), rate)


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
    static = "drawn" if DRAWN in on else "most probable"
    found = results.scores(of, f"{wiring}, {static if wiring == 'static' else JUDGED_ON[of.recipe]}")
    return found * chinese / chinese.mean() if CHINESE in on else found


def switch_rows(results: Results, task: str, recipe: str, chinese: np.ndarray) -> list[dict[str, Any]]:
    """One row for every comparison of `states`: the effect on each policy and on the gain, and what it comes from."""
    rows = []
    for kind, name, on, off in states(task, recipe):
        if name in SWITCHES and not SWITCHES[name].on_vote:
            continue
        one, other = setting(task, recipe, on), setting(task, recipe, off)
        row: dict[str, Any] = {"task": task, "recipe": recipe, "kind": kind, "switch": name}
        for wiring in EFFECTS:
            with_it, without = (scores(results, of, which, wiring, chinese) for of, which in ((one, on), (other, off)))
            row[wiring] = {
                "effect": results.interval(with_it - without), "largest change": float(np.abs(with_it - without).max()),
                "on": results.interval(with_it), "off": results.interval(without),
            }  # fmt: skip
        for value in ("dynamic: expected edges", "static: expected edges", "dynamic: deviation over questions"):
            pair = [results.values(of, value) for of in (one, other)]
            row[value] = {"on": seed_interval(pair[0]), "off": seed_interval(pair[1])}
        if task == "adversarial":
            pair = [results.values(of, "dynamic: ratio") for of in (one, other)]
            row["dynamic: ratio"] = {"on": geometric_mean(pair[0]), "off": geometric_mean(pair[1])}
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
    """As released in all else, or our default; with or without the sparsity loss."""
    released = of_task(task) if recipe == "paper" else []
    on = [name for name in released if name != VOIDED]
    return setting(task, recipe, [*on, *([VOIDED] if voids and rate > 0 else [])], rate)


def sparsity_rows(results: Results) -> list[dict[str, Any]]:
    """What the sparsity loss changes, where a bad reply is no vote and where it voids the vote, and the difference."""
    rows = []
    for recipe, rate, policy in product(RECIPES, RATES, ("dynamic", "static")):
        row: dict[str, Any] = {"recipe": recipe, "rate": rate, "policy": policy}
        gains = {}
        for rule, voids in (("no vote", False), ("voids", True)):
            without, with_it = (sparsity_setting(recipe, task, rate, voids) for task in MIXED)
            before, after = (results.scores(of, f"{policy}, {JUDGED_ON[recipe]}") for of in (without, with_it))
            gains[rule] = after - before
            row[rule] = {
                "without": results.interval(before), "with": results.interval(after),
                "gain": results.interval(gains[rule]),
                "edges without": seed_interval(results.values(without, f"{policy}: expected edges")),
                "edges with": seed_interval(results.values(with_it, f"{policy}: expected edges")),
            }  # fmt: skip
        row["voids - no vote"] = results.interval(gains["voids"] - gains["no vote"])
        rows.append(row)
    return rows


def used() -> list[dict[str, Any]]:
    """The recordings behind every setting."""
    edge, agents = loaded("specialized").reader, resolve_path("results/recordings")
    assert isinstance(edge, RecordedReader)
    return used_recordings(recorded_file(agents, "agent", QWEN["agent_llm"]), edge.path)


def make(options: argparse.Namespace) -> dict[str, Any]:
    """All sections of the record."""
    num_seeds, rows = PRESETS[options.preset], []
    about: dict[str, Any] = {}
    for task, recipe in product(TASKS, RECIPES):
        experiment = loaded(task)
        questions = experiment.eval_questions
        chinese = np.array([question.language == "zh" for question in questions])
        subjects = [f"{question.language}/{question.subject}" for question in questions]
        about[f"{task}, training"] = questions_digest(experiment.train_questions)
        about[f"{task}, evaluation"] = questions_digest(questions)
        needed = [setting(task, recipe, on) for state in states(task, recipe) for on in state[2:]]
        rows += switch_rows(Results(collect(STUDY, needed, measure, num_seeds), subjects), task, recipe, chinese)
        if task == "adversarial":
            heard = [Heard(rate, rule) for rate in RATES for rule in RULES]
            of_heard = heard_rows(Results(collect(STUDY, heard, measure_heard, num_seeds), subjects), heard)
    sparse = [sparsity_setting(*which) for which in product(RECIPES, MIXED, RATES, (False, True))]
    sparsity = sparsity_rows(Results(collect(STUDY, sparse, measure, num_seeds), subjects))
    return {
        "parameters": {"unparsable rate": RATE},
        "questions": about,
        "inputs": used(),
        "rows": rows,
        "heard": of_heard,
        "sparsity": sparsity,
    }


if __name__ == "__main__":
    sys.exit(run(STUDY, "What each thing that the released code does changes.", make))
