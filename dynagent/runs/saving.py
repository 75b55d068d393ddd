"""Saving a run, whole or not at all, and finding one that is finished."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from dynagent.artefacts.downloads import writing
from dynagent.evaluation.evaluate import Evaluation, agent_accuracies, answer_counts, comparisons, truthful_ratio
from dynagent.execution.runner import used_llms
from dynagent.learning.checkpoint import Checkpoint
from dynagent.learning.loop import History
from dynagent.llm.base import Request
from dynagent.llm.endpoints import is_served
from dynagent.llm.local import SAMPLING
from dynagent.runs.config import RunConfig
from dynagent.runs.experiment import Experiment, fingerprint, used_sources
from dynagent.runs.provenance import questions_digest, timing
from dynagent.runs.record import SAVED, RunRecord, run_folder
from dynagent.runs.values import plain_values


def checkpoint_of(experiment: Experiment, name: str) -> Checkpoint:
    """Where the training of one of a run's policies is saved, also when it has finished."""
    folder = run_folder(experiment.config) / "checkpoints"
    return Checkpoint(folder / f"{name}.safetensors", fingerprint(experiment), experiment.config.resume)


def finished_run(experiment: Experiment) -> RunRecord | None:
    """The record of this very run, by its fingerprint, where it is there and the parameter `resume` lets it count."""
    folder = run_folder(experiment.config)
    try:
        record = RunRecord.load(folder / SAVED["record"])
    except ValueError:  # none, or one that was damaged
        return None
    same = experiment.config.resume and record.fingerprint == fingerprint(experiment)
    return record if same and (folder / "policy").is_dir() else None


def save_run(
    experiment: Experiment, history: History, results: Mapping[str, Evaluation], command: str
) -> tuple[RunRecord, Path]:
    """Save the policy and the record of a run in its folder; returns the record and the folder.

    A run that is already there stays as it is, to the byte. Both are written beside their places and moved when they
    are whole, the record last.

    Raises:
        OSError: in one sentence, if the disk is full; what was there before still is.
    """
    folder = run_folder(experiment.config)
    new = folder / ".new"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / ".lock"), writing(folder):
        found = finished_run(experiment)
        record = found or _record(experiment, history, results, command)
        experiment.policy.note(record=record.card())
        if found is None:
            shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
            experiment.policy.save_pretrained(new / "policy")
            record.save(new / SAVED["record"])
            shutil.rmtree(folder / "policy", ignore_errors=True)
            for name in (SAVED["policy"], SAVED["record"]):
                (new / name).replace(folder / name)
            new.rmdir()
    return record, folder


def _record(experiment: Experiment, history: History, results: Mapping[str, Evaluation], command: str) -> RunRecord:
    config, graph, questions = experiment.config, experiment.graph, experiment.eval_questions
    edge_probs = results["learned, sampled"].edge_probs
    assert edge_probs is not None
    numbers = {
        "metrics": {
            "wirings": {name: described(wiring) for name, wiring in results.items()},
            "differences": comparisons(results),
            "agents": agent_accuracies(graph, questions, experiment.runner),
            "answers": answer_counts(graph, questions, experiment.runner),
            "truthful_ratio": truthful_ratio(edge_probs, graph, questions),
            "expected_edges": float(edge_probs[:, graph.decision_edges].sum(1).mean()),
        },
        "usage": {f"agents, {llm.identity}": llm.usage_of_run() for llm in used_llms(graph)}
        | edge_llm_usage(experiment),
        "decoding": decoding(config),
        "history": history.rows,
        "fingerprint": fingerprint(experiment),
    }
    training = questions_digest(experiment.train_questions) | {"refused": experiment.train_questions.refused}
    return RunRecord.make(
        command=command,
        parameters=config.to_dict(),
        seeds=[config.seed],
        inputs=[source.to_dict() for source in used_sources(experiment)],
        questions={"training": training, "evaluation": questions_digest(experiment.eval_questions)},
        timing=timing()
        | {
            "model_calls": sum(llm.usage.model_calls for llm in used_llms(graph)),
            "edge_llm_forwards": experiment.reader.forwards if experiment.reader else 0,
            "resumed_iterations": history.num_resumed,
        },
        numbers=plain_values(numbers),  # as they are read again
    )


def described(wiring: Evaluation) -> dict[str, Any]:
    """What a record says of one way to wire the team."""
    names = ("accuracy", "num_edges", "num_agents_asked", "no_answer")
    return {name: getattr(wiring, name) for name in names}


def decoding(config: RunConfig) -> dict[str, Any]:
    """How written replies are drawn; empty where the agents draw from scores themselves.

    Letters are written where a server gives no log-probabilities: the usage says how many replies were.
    """
    served = any(map(is_served, config.agent_llms))
    most_tokens = config.max_new_tokens or Request.max_new_tokens
    if config.agent_mode == "text":
        drawn = {"temperature": config.temperature, "max_new_tokens": most_tokens, **SAMPLING}
        return drawn | ({"top_k": "the server's"} if served else {})
    return {"temperature": 0.0, "max_new_tokens": most_tokens} if served else {}


def edge_llm_usage(experiment: Experiment) -> dict[str, Any]:
    """Questions that the edge LLM's features were needed for; each was read once, in this run or before."""
    if experiment.reader is None:
        return {}
    distinct = {question.id for question in (*experiment.train_questions, *experiment.eval_questions)}
    return {f"edge LLM, {experiment.reader.identity}": {"questions": len(distinct)}}
