"""A run as a whole: its parts, what they used, and the record of what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dynagent.config import RunConfig
from dynagent.endpoints import is_served
from dynagent.evaluate import Evaluation, agent_accuracies, comparisons, truthful_ratio
from dynagent.execution import Runner
from dynagent.graph import AgentGraph
from dynagent.llm import RecordedAnswers, Request
from dynagent.llm.features import QuestionReader, RecordedReader
from dynagent.llm.recorded import recorded_source
from dynagent.llm.transformers import SAMPLING
from dynagent.policy import EdgePolicy, Policy
from dynagent.results import RunRecord, describe, elapsed, peak_memory_gb, questions_digest, readable, run_folder
from dynagent.sources import Source
from dynagent.tasks import Questions
from dynagent.train import History


@dataclass
class Experiment:
    """The parts of a run, ready to train and evaluate."""

    config: RunConfig
    train_questions: Questions
    eval_questions: Questions
    graph: AgentGraph
    policy: Policy
    runner: Runner

    @property
    def reader(self) -> QuestionReader | RecordedReader | None:
        """The edge LLM, loaded; a static policy has none."""
        return self.policy.reader if isinstance(self.policy, EdgePolicy) else None


def save_run(
    experiment: Experiment, history: History, results: Mapping[str, Evaluation], command: str
) -> tuple[RunRecord, Path]:
    """Save the policy and the record of a finished run in its folder; returns the record and the folder."""
    config, graph, questions = experiment.config, experiment.graph, experiment.eval_questions
    folder = run_folder(config)
    experiment.policy.save_pretrained(folder / "policy")
    edge_probs = results["learned, sampled"].edge_probs
    assert edge_probs is not None
    record = RunRecord(
        parameters=config.to_dict(),
        command=command,
        sources=[source.to_dict() for source in used_sources(experiment)],
        questions={
            "training": questions_digest(experiment.train_questions),
            "evaluation": questions_digest(experiment.eval_questions),
        },
        metrics=describe(
            {
                "wirings": results,
                "differences": comparisons(results),
                "agents": agent_accuracies(graph, questions, experiment.runner),
                "truthful_ratio": truthful_ratio(edge_probs, graph, questions),
                "expected_edges": float(edge_probs[:, graph.decision_edges].sum(1).mean()),
            }
        ),
        usage={f"agents, {llm.identity}": llm.usage_of_run() for llm in used_llms(graph)} | edge_llm_usage(experiment),
        decoding=decoding(config, any(llm.wrote for llm in used_llms(graph))),
        history=history.rows,
        timing={
            "seconds": elapsed(),
            "peak_memory_gb": peak_memory_gb(),
            "model_calls": sum(llm.usage.model_calls for llm in used_llms(graph)),
            "edge_llm_forwards": experiment.reader.forwards if experiment.reader else 0,
            "saved_at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    record.save(folder)
    return record, folder


def decoding(config: RunConfig, wrote: bool = False) -> dict[str, Any]:
    """How written replies are drawn; empty where the agents draw from scores themselves.

    Args:
        wrote: whether a reply was written; in mode "letter", because a server gives no log-probabilities.
    """
    if config.agent_mode == "text":
        top_k = {"top_k": "the server's"} if any(map(is_served, config.agent_llms)) else {}
        return {"temperature": config.temperature, "max_new_tokens": Request.max_new_tokens, **SAMPLING, **top_k}
    return {"temperature": 0.0, "max_new_tokens": Request.max_new_tokens, "letters": "parsed"} if wrote else {}


def edge_llm_usage(experiment: Experiment) -> dict[str, Any]:
    """Questions that the edge LLM's features were needed for; each was read once, in this run or before."""
    if experiment.reader is None:
        return {}
    distinct = {question.id for question in (*experiment.train_questions, *experiment.eval_questions)}
    return {f"edge LLM, {experiment.reader.identity}": {"questions": len(distinct)}}


def used_llms(graph: AgentGraph) -> list[Any]:
    """The agents' language models, each once."""
    models = {id(agent.llm): agent.llm for agent in graph.team if agent.llm is not None}
    return list(models.values())


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
