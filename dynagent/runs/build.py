"""From a run's parameters to its parts: questions, team, graph and policy; and all of a run.

Many seeds on what is loaded once:

    experiment = prepare(config)
    for seed in range(5):
        experiment = again(experiment, seed=seed)
        policies, history = train_all(experiment)
        results = compare_wirings(policies, experiment.eval_questions, experiment.runner, experiment.config)
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from dynagent.artefacts.sources import check_model_name
from dynagent.execution.runner import Runner, used_llms
from dynagent.graph import AgentGraph
from dynagent.llm.budget import Budget
from dynagent.llm.load import load_llm
from dynagent.llm.local import TransformersModel
from dynagent.llm.reading import QuestionReader, RecordedReader
from dynagent.llm.replay import RecordedAnswers, recorded_file
from dynagent.llm.store import Recorded
from dynagent.policies.agent_aware import AgentAwarePolicy
from dynagent.policies.base import Policy, initial_probability
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.static import StaticEdgePolicy
from dynagent.policies.tuned import TunedEdgePolicy
from dynagent.runs.config import RunConfig
from dynagent.runs.experiment import Experiment
from dynagent.runs.paths import resolve_path
from dynagent.runs.tracking import check_tracker
from dynagent.tasks.mixed import half_and_half
from dynagent.tasks.multiple_choice import Questions, load_questions
from dynagent.tasks.recorded import load_recorded
from dynagent.team.agents import AREAS, LANGUAGES, Adversarial, Constant, Specialist, Truthful
from dynagent.team.votes import MajorityVote

HEADS: dict[str, type[EdgePolicy]] = {"per_edge": EdgePolicy, "agent_aware": AgentAwarePolicy}
# What an experiment has loaded depends on these.
LOADED_BY = (
    "dataset", "data_source", "cmmlu_source", "recordings", "train_split", "eval_split", "train_limit", "eval_limit",
    "edge_llm", "agent_llm", "second_agent_llm", "concurrency", "token_budget",
    "max_new_tokens", "request_options",
)  # fmt: skip


def prepare(config: RunConfig) -> Experiment:
    """Load and build everything that `config` names; data first, since it is quickly found wrong."""
    train_questions, eval_questions = load_split_questions(config)
    graph = build_graph(config)
    policy = build_policy(config, graph)
    return Experiment(config, train_questions, eval_questions, graph, policy, Runner(graph, config.seed))


def again(experiment: Experiment, **changes: Any) -> Experiment:
    """The same questions, language models and features with other parameters, untrained: another seed, for example.

    Raises:
        ValueError: for a parameter that needs something else to be loaded.
    """
    for name in LOADED_BY:
        if name in changes and changes[name] != getattr(experiment.config, name):
            raise ValueError(f"Another {name} needs other parts: load them with prepare().")
    config = experiment.config.replace(**changes)
    graph = build_graph(config, *used_llms(experiment.graph))
    policy = build_policy(config, graph, experiment.reader)
    return replace(experiment, config=config, graph=graph, policy=policy, runner=Runner(graph, config.seed))


def load_split_questions(config: RunConfig) -> tuple[Questions, Questions]:
    """Training and evaluation questions, after a look at what else could be found wrong before anything is loaded.

    A question that is among both is refused as a training question; `Questions.refused` says how many were.
    """
    check_tracker(config)
    if config.data_source != "recordings":
        for name in (*config.agent_llms, config.edge_llm):
            check_model_name(_folder_or_name(name))
    output = resolve_path(config.output_dir)
    existing = next(folder for folder in (output, *output.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ValueError(f"Nothing can be saved in {output}: choose an output_dir that can be written to.")
    train = load_split(config, config.train_split, config.train_limit)
    held_out = load_split(config, config.eval_split, config.eval_limit)
    in_evaluation = {question.id for question in held_out}
    kept = tuple(question for question in train if question.id not in in_evaluation)
    if not kept:
        raise ValueError(
            f"All training questions of split {config.train_split!r} are also in the evaluation split "
            f"{config.eval_split!r}: choose splits that do not overlap."
        )
    train = replace(train, items=kept, refused=len(train) - len(kept))  # the published splits share a few
    for question in (*train, *held_out):
        _ = question.area  # a subject without an area is found before anything is trained
    return train, held_out


def load_split(config: RunConfig, split: str, limit: int | str) -> Questions:
    """Questions of one split; of "mixed", MMLU's and CMMLU's in turn, for "train" CMMLU's dev split."""
    most = limit if isinstance(limit, int) else None
    if config.dataset != "mixed":
        return _load_one(config, config.dataset, split, config.data_source, most)
    each = None if most is None else (most + 1) // 2
    english = _load_one(config, "mmlu", split, config.data_source, each)
    chinese_split = "dev" if split == "train" else split
    return half_and_half(english, _load_one(config, "cmmlu", chinese_split, config.cmmlu_source, each), most)


def _load_one(config: RunConfig, dataset: str, split: str, source: str, limit: int | None) -> Questions:
    if config.data_source == "recordings":
        return load_recorded(resolve_path(config.recordings), dataset, split, limit)
    return load_questions(dataset, split, source if source in ("package", "hub") else str(resolve_path(source)), limit)


def _folder_or_name(name: str) -> str:
    """A model's folder starts at the project's root, like every path; any other name stays what it is."""
    return str(resolve_path(name)) if resolve_path(name).is_dir() else name


def load_agent_llm(config: RunConfig, name: str, budget: Budget | None = None) -> Recorded | RecordedAnswers:
    """What answers for the agents: a language model, or the record of one."""
    if config.data_source == "recordings":
        return RecordedAnswers(recorded_file(resolve_path(config.recordings), "agent", name))
    shared: dict[str, Any] = {"concurrency": config.concurrency, "budget": budget}
    shared |= {"max_new_tokens": config.max_new_tokens, "request_options": config.request_options}
    shared["ask_again"] = config.ask_again
    return load_llm(_folder_or_name(name), trust_remote_code=config.trust_remote_code, **shared)


def _short_names(models: list[str]) -> list[str]:
    """The last parts of hub ids or folders, where they tell the models apart."""
    short = [Path(name).name for name in models]
    return short if len(set(short)) == len(models) else models


def build_graph(config: RunConfig, *llms: Recorded | RecordedAnswers) -> AgentGraph:
    """The configured team around a majority vote; on LLMs that are already loaded, or the configured ones."""
    budget = Budget(config.token_budget)  # of all together
    llms = llms or tuple(load_agent_llm(config, name, budget) for name in config.agent_llms)
    llm = llms[0]
    lying = "least_likely" if config.adversary == "constant" else config.adversary
    options: dict[str, Any] = {"mode": config.agent_mode, "temperature": config.temperature, "lying": lying}
    options["reads"] = config.communicate
    team: list[Any]
    if config.team == "adversarial":
        adversary = Constant("A") if config.adversary == "constant" else Adversarial(llm, **options)
        team = [Truthful(llm, **options)] * config.num_truthful + [adversary] * config.num_adversarial
    elif config.team == "two_models":
        team = [
            Truthful(of, name=f"Truthful({name})", group=name, **options)
            for of, name in zip(llms, _short_names(config.agent_llms), strict=True)
            for _ in range(config.num_per_domain)
        ]
    else:
        domains = AREAS if config.team == "specialists" else LANGUAGES
        team = [Specialist(llm, domain=domain, **options) for domain in domains for _ in range(config.num_per_domain)]
    return AgentGraph(team, MajorityVote())


def build_policy(config: RunConfig, graph: AgentGraph, reader: QuestionReader | RecordedReader | None = None) -> Policy:
    """The configured edge policy, untrained; on the LLM of `reader`, or the agents' own if it is the same."""
    probability = config.initial_probability
    if isinstance(probability, str):  # "auto"
        probability = initial_probability(graph)
    if config.edge_policy == "static":
        return StaticEdgePolicy.for_graph(graph, probability)
    if reader is None and config.data_source == "recordings":
        reader = RecordedReader(recorded_file(resolve_path(config.recordings), "edge", config.edge_llm))
    elif reader is None and config.edge_llm in config.agent_llms:
        loaded = dict(zip(config.agent_llms, used_llms(graph), strict=False)).get(config.edge_llm)
        reader = QuestionReader(loaded.model) if loaded and isinstance(loaded.model, TransformersModel) else None
    options: dict[str, Any] = {
        "readout": config.readout,
        "initial_probability": probability,
        "standardize": config.standardize,
        "head_init": config.head_init,
        "init_seed": config.stream("init"),
    }
    name, trusted = _folder_or_name(config.edge_llm), config.trust_remote_code
    reader = reader or QuestionReader.load(name, trust_remote_code=trusted)
    if config.tune == "head":
        return HEADS[config.head].from_backbone(reader, graph, **options)
    # The reader's model stays beside the copy that is trained.
    return TunedEdgePolicy.from_backbone(reader, graph, tune=config.tune, **options)
