"""Switches that concern no vote: are the edges into the decision exactly what they are without them?

`make ablations` writes results/ablations/no_effect.json. Agents on multiple choice read nobody, an edge into the
decision closes no cycle, and every edge has parameters of its own. So deciding edges between agents, the order in which
edges are visited, and a penalty on edges without effect must leave every probability of an edge into the decision as it
is, to the bit. This trains with each on and off by `dynagent.learning.loop`, all 64 edges included, and compares.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynagent.learning.loop import train
from dynagent.runs.provenance import questions_digest
from studies.common.outcomes import Outcome, Results
from studies.common.study import PRESETS, collect, run
from studies.released.measure import State, setting, states, used
from studies.released.training import SWITCHES, Setting, build, loaded, static_policy

STUDY = "released/no_effect"
TASK = "edge reduction"  # where all of these switches can be thrown
NUM_ITERATIONS = 50
POLICIES = ("static", "dynamic")


@dataclass(frozen=True)
class Probs:
    """A setting of which only the probabilities of edges into the decision are kept."""

    setting: Setting


def measure(of: Probs, num_seeds: int) -> Outcome:
    """The probabilities of the edges into the decision, [seeds, n x N], of both policies."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in POLICIES}
    for seed in range(num_seeds):
        experiment = build(of.setting, seed)
        pairs = {"dynamic": (experiment.policy, experiment.config), "static": static_policy(experiment)}
        for name, (policy, config) in pairs.items():
            config = config.replace(num_iterations=NUM_ITERATIONS)
            train(policy, experiment.graph, experiment.train_questions, config, runner=experiment.runner)
            logits = policy.edge_logits_of(experiment.eval_questions)[:, experiment.graph.decision_edges]
            found[name].append(logits.sigmoid().flatten().numpy())
    return Outcome({name: np.stack(of) for name, of in found.items()})


def compared() -> list[State]:
    """The switches that concern no vote, each alone and each taken from all."""
    return [state for state in states(TASK) if state[1] in SWITCHES and not SWITCHES[state[1]].on_vote]


def row(results: Results, state: State) -> dict[str, Any]:
    """The largest change of any probability, over seeds, questions and edges, and how far training moved them."""
    kind, name, on, off = state
    one, other = (Probs(setting(TASK, "paper", which, all_edges=True)) for which in (on, off))
    found: dict[str, Any] = {"task": TASK, "recipe": "paper", "kind": kind, "switch": name}
    for policy in POLICIES:
        change = np.abs(results.scores(one, policy) - results.scores(other, policy))
        found[policy] = {"largest change of a probability": float(change.max()), "numbers compared": change.size}
    return found


def make(options: argparse.Namespace) -> dict[str, Any]:
    """All sections of the record."""
    experiment = loaded(TASK)
    settings = [Probs(setting(TASK, "paper", on, all_edges=True)) for state in compared() for on in state[2:]]
    results = Results(collect(STUDY, settings, measure, PRESETS[options.preset]), ())
    return {
        "parameters": {"iterations": NUM_ITERATIONS},
        "questions": {
            "training": questions_digest(experiment.train_questions),
            "evaluation": questions_digest(experiment.eval_questions),
        },
        "inputs": used(),
        "exact": [row(results, state) for state in compared()],
    }


if __name__ == "__main__":
    sys.exit(run(STUDY, "Switches that concern no vote change no edge into the decision.", make))
