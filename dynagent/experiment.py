"""From a run's parameters to its parts: questions, team, graph, policy, and the comparison of all wirings."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from dynagent.agents import AREAS, LANGUAGES, Adversarial, Constant, MajorityVote, Specialist, Truthful
from dynagent.config import RunConfig, resolve_path
from dynagent.evaluate import Evaluation, agent_accuracies, compare_wirings, comparisons, truthful_ratio
from dynagent.execution import Runner
from dynagent.graph import AgentGraph
from dynagent.llm import TransformersModel, load_llm
from dynagent.llm.features import QuestionReader
from dynagent.policy import EdgePolicy, Policy, StaticEdgePolicy
from dynagent.results import (
    RunRecord,
    describe,
    elapsed,
    peak_memory_gb,
    questions_digest,
    run_folder,
    summary,
)
from dynagent.sources import Source, check_model_name
from dynagent.tasks import Questions, load_questions
from dynagent.train import History, train

log = logging.getLogger(__name__)

STATIC_LEARNING_RATE = 0.1  # the paper's, for the static policy beside a dynamic one


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
    def reader(self) -> QuestionReader | None:
        """The edge LLM, loaded; a static policy has none."""
        return self.policy.reader if isinstance(self.policy, EdgePolicy) else None


def prepare(config: RunConfig) -> Experiment:
    """Load and build everything that `config` names; data first, since it is quickly found wrong."""
    train_questions, eval_questions = load_split_questions(config)
    graph = build_graph(config)
    policy = build_policy(config, graph)
    return Experiment(config, train_questions, eval_questions, graph, policy, Runner(graph, config.seed))


def load_split_questions(config: RunConfig) -> tuple[Questions, Questions]:
    """Training and evaluation questions, after a look at what else could be found wrong before anything is loaded.

    A question that is among both is held out from training.
    """
    for name in (config.agent_llm, config.edge_llm):
        check_model_name(_folder_or_name(name))
    output = resolve_path(config.output_dir)
    existing = next(folder for folder in (output, *output.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ValueError(f"Nothing can be saved in {output}: choose an output_dir that can be written to.")
    source = config.data_source
    if source not in ("package", "hub"):
        source = str(resolve_path(source))
    wanted = ((config.train_split, config.train_limit), (config.eval_split, config.eval_limit))
    train, held_out = (
        load_questions(config.dataset, split, source, limit if isinstance(limit, int) else None)
        for split, limit in wanted
    )
    shared = {question.id for question in train} & {question.id for question in held_out}
    if len(shared) == len(train):
        raise ValueError(
            f"All training questions of split {config.train_split!r} are also in the evaluation split "
            f"{config.eval_split!r}: choose splits that do not overlap."
        )
    if shared:  # the published splits have a few questions in common
        log.info("%d questions are held out from training, since they are evaluation questions, too", len(shared))
        train = replace(train, items=tuple(question for question in train if question.id not in shared))
    for question in (*train, *held_out):
        _ = question.area  # a subject without an area is found before anything is trained
    return train, held_out


def _folder_or_name(name: str) -> str:
    """A model's folder starts at the project's root, like every path; any other name stays what it is."""
    return str(resolve_path(name)) if resolve_path(name).is_dir() else name


def build_graph(config: RunConfig) -> AgentGraph:
    """The configured team around a majority vote."""
    llm = load_llm(_folder_or_name(config.agent_llm))
    lying = "asked" if config.adversary == "asked" else "least_likely"
    options: dict[str, Any] = {"mode": config.agent_mode, "temperature": config.temperature, "lying": lying}
    team: list[Any]
    if config.team == "adversarial":
        adversary = Constant("A") if config.adversary == "constant" else Adversarial(llm, **options)
        team = [Truthful(llm, **options)] * config.num_truthful + [adversary] * config.num_adversarial
    else:
        domains = AREAS if config.team == "specialists" else LANGUAGES
        team = [Specialist(llm, domain=domain, **options) for domain in domains for _ in range(config.num_per_domain)]
    return AgentGraph(team, MajorityVote())


def build_policy(config: RunConfig, graph: AgentGraph, reader: QuestionReader | None = None) -> Policy:
    """The configured edge policy, untrained; on the LLM of `reader`, or the agents' own if it is the same."""
    if config.edge_policy == "static":
        return StaticEdgePolicy.for_graph(graph, config.initial_probability)
    if reader is None and config.edge_llm == config.agent_llm:
        loaded = [llm.model for llm in used_llms(graph) if isinstance(llm.model, TransformersModel)]
        reader = QuestionReader(loaded[0]) if loaded else None
    return EdgePolicy.from_backbone(
        reader or _folder_or_name(config.edge_llm),
        graph,
        readout=config.readout,
        initial_probability=config.initial_probability,
        standardize=config.standardize,
        head_init=config.head_init,
        init_seed=config.stream("init"),
    )


def train_all(experiment: Experiment, accelerator: Accelerator | None = None) -> tuple[dict[str, Policy], History]:
    """Train the configured policy, and beside it a static one on the same questions and the same answers.

    Returns:
        The policies "learned", "static" (only beside a dynamic one) and "untrained", and the history of the first.
    """
    config, graph, runner = experiment.config, experiment.graph, experiment.runner
    untrained = build_policy(config, graph, reader=experiment.reader)
    untrained.fit_standardization(untrained.encode(experiment.train_questions))
    shared: dict[str, Any] = {"runner": runner, "accelerator": accelerator}
    history = train(experiment.policy, graph, experiment.train_questions, config, **shared)
    policies = {"learned": experiment.policy}
    if config.edge_policy == "dynamic":
        static_config = replace(config, edge_policy="static", learning_rate=STATIC_LEARNING_RATE)
        policies["static"] = static = build_policy(static_config, graph)
        train(static, graph, experiment.train_questions, static_config, **shared)
    return policies | {"untrained": untrained}, history


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


def edge_llm_usage(experiment: Experiment) -> dict[str, Any]:
    """Questions that the edge LLM's features were needed for; each was read once, in this run or before."""
    if experiment.reader is None:
        return {}
    distinct = {question.id for question in (*experiment.train_questions, *experiment.eval_questions)}
    return {f"edge LLM, {experiment.reader.model.identity}": {"questions": len(distinct)}}


def used_llms(graph: AgentGraph) -> list[Any]:
    """The agents' language models, each once."""
    models = {id(agent.llm): agent.llm for agent in graph.team if agent.llm is not None}
    return list(models.values())


def used_sources(experiment: Experiment) -> list[Source]:
    """Where the run's data and weights came from, each once."""
    sources = [*experiment.train_questions.sources, *experiment.eval_questions.sources]
    sources += [llm.model.source for llm in used_llms(experiment.graph)]
    if experiment.reader is not None:
        sources.append(experiment.reader.model.source)
    return list(dict.fromkeys(sources))


def run_experiment(config: RunConfig, command: str) -> Path | None:
    """All of a run: prepare, train, evaluate, save.

    Under `accelerate launch` every process trains; the main one evaluates, saves, and returns the run's folder.
    """
    # The others wait while the main process asks the agents, which may take hours.
    patience = InitProcessGroupKwargs(timeout=timedelta(days=1))
    accelerator = Accelerator(mixed_precision=config.mixed_precision, kwargs_handlers=[patience])
    experiment = prepare(config)
    policies, history = train_all(experiment, accelerator)
    folder = None
    if accelerator.is_main_process:
        results = compare_wirings(policies, experiment.eval_questions, experiment.runner, config)
        _, folder = save_run(experiment, history, results, command)
    accelerator.end_training()
    return folder


def main(arguments: list[str] | None = None) -> int:
    """Train and evaluate the run that a JSON file of parameters describes (those of notebooks/train.ipynb)."""
    parser = argparse.ArgumentParser(prog="python -m dynagent.train", description=main.__doc__)
    parser.add_argument("run", help='a file with, for example, {"dataset": "mmlu", "team": "adversarial", "seed": 1}')
    path = parser.parse_args(arguments).run
    try:
        config = RunConfig.from_json(path)
        folder = run_experiment(config, command=f"python -m dynagent.train {shlex.quote(path)}")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"dynagent: {error}\n")
        return 2
    if folder is not None:
        sys.stdout.write(summary(folder))
    return 0
