"""A run as a whole: its parts, what they used, and the record of what came out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from dynagent.checkpoints import Checkpoint
from dynagent.config import RunConfig
from dynagent.downloads import writing
from dynagent.endpoints import is_served
from dynagent.evaluate import Evaluation, agent_accuracies, answer_counts, comparisons, truthful_ratio
from dynagent.execution import Runner, used_llms
from dynagent.graph import AgentGraph
from dynagent.llm import RecordedAnswers, Request
from dynagent.llm.features import QuestionReader, RecordedReader
from dynagent.llm.recorded import recorded_source
from dynagent.llm.transformers import SAMPLING
from dynagent.policy import EdgePolicy, Policy
from dynagent.results import RunRecord, describe, digest, environment, questions_digest, readable, run_folder, timing
from dynagent.sources import Source
from dynagent.tasks import Questions
from dynagent.train import History

# What this process runs, whatever becomes of the files later.
CODE = digest([file.read_text(encoding="utf-8") for file in sorted(Path(__file__).parent.rglob("*.py"))])

ON_THE_CARD = ("parameters", "command", "code", "sources", "questions", "metrics")  # of a record, and in config.json


@dataclass
class Experiment:
    """The parts of a run, ready to train and evaluate.

    Raises:
        ValueError: if a training question is also an evaluation question.
    """

    config: RunConfig
    train_questions: Questions
    eval_questions: Questions
    graph: AgentGraph
    policy: Policy
    runner: Runner

    def __post_init__(self) -> None:
        shared = {question.id for question in self.train_questions} & {question.id for question in self.eval_questions}
        if shared:
            first = f"{len(shared)} training questions, the first {min(shared)},"
            raise ValueError(f"{first} are also evaluation questions: load_split_questions takes them out.")

    @property
    def reader(self) -> QuestionReader | RecordedReader | None:
        """The edge LLM, loaded; a static policy has none."""
        return self.policy.reader if isinstance(self.policy, EdgePolicy) else None


def fingerprint(experiment: Experiment) -> dict[str, str]:
    """Hashes of all that a run's numbers depend on, by name: runs are the same if these are."""
    return {
        "set of parameters": digest(experiment.config.identity()),
        "set of questions": digest([q.id for q in (*experiment.train_questions, *experiment.eval_questions)]),
        "data set or model": digest([source.sha256 for source in used_sources(experiment)]),
        "version of dynagent's code": CODE,
        "version of the packages": digest(environment()["packages"]),
    }


def checkpoint_of(experiment: Experiment, name: str) -> Checkpoint:
    """Where the training of one of a run's policies is saved, also when it has finished."""
    folder = run_folder(experiment.config) / "checkpoints"
    return Checkpoint(folder / f"{name}.safetensors", fingerprint(experiment), experiment.config.resume)


def finished_run(experiment: Experiment) -> RunRecord | None:
    """The record of this very run, by its fingerprint, where it is there and the parameter `resume` lets it count."""
    folder = run_folder(experiment.config)
    try:
        record = RunRecord.load(folder / "record.json")
    except (OSError, ValueError, TypeError):  # none, or one that was damaged
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
        experiment.policy.note(record={name: vars(record)[name] for name in ON_THE_CARD})
        if found is None:
            shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
            experiment.policy.save_pretrained(new / "policy")
            record.save(new)
            shutil.rmtree(folder / "policy", ignore_errors=True)
            for name in ("policy", "record.json"):
                (new / name).replace(folder / name)
            new.rmdir()
    return record, folder


def _record(experiment: Experiment, history: History, results: Mapping[str, Evaluation], command: str) -> RunRecord:
    config, graph, questions = experiment.config, experiment.graph, experiment.eval_questions
    edge_probs = results["learned, sampled"].edge_probs
    assert edge_probs is not None
    return RunRecord(
        parameters=config.to_dict(),
        command=command,
        sources=[source.to_dict() for source in used_sources(experiment)],
        questions={
            "training": questions_digest(experiment.train_questions) | {"refused": experiment.train_questions.refused},
            "evaluation": questions_digest(experiment.eval_questions),
        },
        metrics=describe(
            {
                "wirings": results,
                "differences": comparisons(results),
                "agents": agent_accuracies(graph, questions, experiment.runner),
                "answers": answer_counts(graph, questions, experiment.runner),
                "truthful_ratio": truthful_ratio(edge_probs, graph, questions),
                "expected_edges": float(edge_probs[:, graph.decision_edges].sum(1).mean()),
            }
        ),
        usage={f"agents, {llm.identity}": llm.usage_of_run() for llm in used_llms(graph)} | edge_llm_usage(experiment),
        decoding=decoding(config),
        history=history.rows,
        fingerprint=fingerprint(experiment),
        timing=timing()
        | {
            "model_calls": sum(llm.usage.model_calls for llm in used_llms(graph)),
            "edge_llm_forwards": experiment.reader.forwards if experiment.reader else 0,
            "resumed_iterations": history.num_resumed,
        },
    )


def decoding(config: RunConfig) -> dict[str, Any]:
    """How written replies are drawn; empty where the agents draw from scores themselves.

    Letters are written where a server gives no log-probabilities: the usage says how many replies were.
    """
    served = any(map(is_served, config.agent_llms))
    if config.agent_mode == "text":
        drawn = {"temperature": config.temperature, "max_new_tokens": Request.max_new_tokens, **SAMPLING}
        return drawn | ({"top_k": "the server's"} if served else {})
    return {"temperature": 0.0, "max_new_tokens": Request.max_new_tokens} if served else {}


def edge_llm_usage(experiment: Experiment) -> dict[str, Any]:
    """Questions that the edge LLM's features were needed for; each was read once, in this run or before."""
    if experiment.reader is None:
        return {}
    distinct = {question.id for question in (*experiment.train_questions, *experiment.eval_questions)}
    return {f"edge LLM, {experiment.reader.identity}": {"questions": len(distinct)}}


def used_sources(experiment: Experiment) -> list[Source]:
    """Where the run's data and weights, or the record of them, came from, each once."""
    sources = [*experiment.train_questions.sources, *experiment.eval_questions.sources]
    sources += [
        llm.source if isinstance(llm, RecordedAnswers) else llm.model.source for llm in used_llms(experiment.graph)
    ]
    reader = experiment.reader
    if reader is not None:
        sources.append(recorded_source(reader.path) if isinstance(reader, RecordedReader) else reader.model.source)
    return [_from_the_root(source) for source in dict.fromkeys(sources)]


def _from_the_root(source: Source) -> Source:
    """A record's place as it is written in a run's parameters."""
    return replace(source, location=readable(Path(source.location))) if source.kind == "record" else source
