"""Two real questions and what a trained policy makes of them; results/idea.json.

The paper's figure 1 shows the idea: a question, the edge LLM, edge probabilities, a graph, an answer. Here each of
these is real. Eight specialists in four areas of MMLU vote; every answer and every reading of a question is on record,
and the text of the two questions comes from the package that `load_questions` pins. The policy is that of seed 0; what
reading the question is worth is measured with all seeds, on all held-out questions.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynagent.evaluation.evaluate import compare_wirings
from dynagent.evaluation.statistics import clustered_interval
from dynagent.runs.build import again, prepare
from dynagent.runs.config import RunConfig
from dynagent.runs.experiment import Experiment, used_sources
from dynagent.runs.paths import readable
from dynagent.runs.provenance import questions_digest
from dynagent.runs.record import Record
from dynagent.runs.run import train_all
from dynagent.sampling import most_probable_dags
from dynagent.tasks.multiple_choice import load_questions
from studies.common.numbers import plain
from studies.common.study import Measured, Study
from studies.table2.settings import QWEN

PARAMETERS = QWEN | {"dataset": "mmlu", "team": "specialists", "num_per_domain": 2, "adversary": "asked"}
MOST_CHARACTERS = 220  # of a question that is shown, with its options
SHOWN = ("learned, most probable", "static, most probable", "learned, questions shuffled", "full graph")
DIFFERENCES = ((SHOWN[0], SHOWN[1]), (SHOWN[0], SHOWN[3]), ("learned, sampled", SHOWN[2]))


@lru_cache
def loaded() -> Experiment:
    """What all seeds have in common."""
    return prepare(RunConfig.from_parameters(PARAMETERS))


def settings(study: Study, preset: str) -> list[str]:
    """The one team."""
    return ["specialists"]


def measure(team: str, seed: int) -> dict[str, Any]:
    """Train a seed: the scores [n] of every wiring and, of the first seed, the questions that the figure shows."""
    experiment = again(loaded(), seed=seed)
    policies, _ = train_all(experiment)
    results = compare_wirings(policies, experiment.eval_questions, experiment.runner, experiment.config)
    shown = show(experiment, policies["learned"]) if seed == 0 else []
    return {"scores": {name: of.scores.numpy() for name, of in results.items()}, "shown": shown}


def show(experiment: Experiment, policy: Any) -> list[dict[str, Any]]:
    """Two short questions of different areas on which the policy prefers those who know the area most clearly."""
    texts = {question.id: question for question in load_questions("mmlu", split="test")}
    questions = [texts[question.id] for question in experiment.eval_questions if is_short(texts[question.id])]
    edge_probs = policy.edge_logits_of(questions).detach().sigmoid()  # [n, E]
    heard = edge_probs[:, experiment.graph.decision_edges]  # [n, N]
    knows = torch.tensor([[agent.tells_truth(q) for agent in experiment.graph.team] for q in questions])
    lead = (heard * knows).sum(1) / knows.sum(1) - (heard * ~knows).sum(1) / (~knows).sum(1)
    ranked = lead.argsort(descending=True).tolist()
    first = ranked[0]
    second = next(i for i in ranked if questions[i].area != questions[first].area)
    return [
        of_question(experiment, questions[i], edge_probs[i], policy.encode([questions[i]])[0]) for i in (first, second)
    ]


def is_short(question: Any) -> bool:
    """Whether it fits into a figure as it is."""
    text = question.render()
    return len(text) <= MOST_CHARACTERS and "$" not in text and "_" not in text


def of_question(experiment: Experiment, question: Any, edge_probs: Tensor, reading: Tensor) -> dict[str, Any]:
    """A question, its reading, the probabilities of the edges into the decision, its graph, the answers, the vote."""
    graph, into = experiment.graph, experiment.graph.decision_edges
    dag = most_probable_dags(edge_probs[None].logit(), graph)
    full = experiment.runner.run([question], graph.full()[None, None])
    outcome = experiment.runner.run([question], dag.adjacency)
    return {
        "id": question.id, "subject": question.subject, "area": question.area, "text": question.text,
        "options": list(question.options), "answer": question.answer, "reading": reading.tolist(),
        "edge_probs": edge_probs[into].tolist(), "heard": dag.taken[0, 0, into].tolist(),
        "answers": full.answers[0, 0].tolist(), "outcome": outcome.option_probs[0, 0].tolist(),
    }  # fmt: skip


def write(measured: Measured) -> None:
    """The record: the two questions, and what reading the question is worth over all seeds."""
    (results,) = measured.outcomes.values()
    experiment = loaded()
    held_out = experiment.eval_questions
    sources = [*used_sources(experiment), *load_questions("mmlu", split="test").sources]
    subjects = [question.subject for question in held_out]
    stacked = {
        name: np.stack([seed["scores"][name] for seed in results]) for name in results[0]["scores"]
    }  # [seeds, n]
    numbers = {
        "accuracy": {name: clustered_interval(stacked[name], subjects) for name in SHOWN},
        "differences": {f"{a} - {b}": clustered_interval(stacked[a] - stacked[b], subjects) for a, b in DIFFERENCES},
        "selection": f"of the held-out questions of at most {MOST_CHARACTERS} characters the one, and the first of "
        "another area, on which the policy of seed 0 most prefers the specialists of the question's own area",
        "groups": [node.group for node in experiment.graph.nodes[:-1]],
        "shown": results[0]["shown"],
    }
    record = Record.make(
        **measured.origin(),
        parameters=PARAMETERS,
        inputs=[source.to_dict() | {"location": readable(Path(source.location))} for source in sources],
        questions={"training": questions_digest(experiment.train_questions), "evaluation": questions_digest(held_out)},
        numbers=plain(numbers),
    )
    record.save(measured.path)
