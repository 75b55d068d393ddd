"""One seed of a cell of Table 2: training, evaluation, and what is kept of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynagent.evaluation.controls import control_policies
from dynagent.evaluation.evaluate import evaluate, evaluate_graph, truthful_graphs, truthful_ratio
from dynagent.execution.runner import Runner, used_llms
from dynagent.graph import AgentGraph
from dynagent.learning.loop import train
from dynagent.policies.base import Policy
from dynagent.runs.build import again, prepare
from dynagent.runs.experiment import Experiment, used_sources
from dynagent.runs.provenance import questions_digest
from dynagent.runs.run import STATIC_LEARNING_RATE
from dynagent.team.protocols import Decision
from dynagent.team.votes import NOT_ASKED
from studies.common.calls import agent_calls
from studies.table2.cell import Cell

POLICIES = ("dynamic", "static")
GRAPHS = {"sampled": "sampled", "most probable": "most_probable"}


@dataclass
class Measurement:
    """What one seed of a cell leaves.

    Attributes:
        scores: wiring -> [n], each evaluation question's probability of a right answer.
        utility: policy -> [iterations], of the training batches.
        values: name -> one number.
        edge_probs: policy -> "all" or a language -> [M, M] mean probabilities; row and column 0 are the decision.
        by_votes: language -> [5, 5] accuracy if the first i English and the first j Chinese specialists vote.
        usage: what training took, and what distinct calls and tokens all of it needs.
        about: questions and inputs, the same for all seeds.
    """

    scores: dict[str, np.ndarray] = field(default_factory=dict)
    utility: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    edge_probs: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    by_votes: dict[str, np.ndarray] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def measure(cell: Cell, seed: int) -> Measurement:
    """Train the dynamic and the static policy of one seed, and evaluate both on the same answers."""
    torch.set_num_threads(1)  # processes run side by side
    dynamic = prepare(cell.config(seed))  # a language model of its own, that counts no other seed's calls
    static = again(dynamic, edge_policy="static", learning_rate=STATIC_LEARNING_RATE)
    runner, questions = dynamic.runner, dynamic.eval_questions
    measurement = Measurement()
    if cell.with_controls:
        untrained = copy.deepcopy(dynamic.policy)
        untrained.fit_standardization(untrained.encode(dynamic.train_questions))
        _score(measurement, "untrained", untrained, dynamic, runner)
    for name, experiment in zip(POLICIES, (dynamic, static), strict=True):
        history = train(experiment.policy, runner.graph, experiment.train_questions, experiment.config, runner=runner)
        measurement.utility[name] = np.array(history.column("utility"))
        sizes = len(experiment.train_questions), len(experiment.graph.team)
        measurement.usage[f"agents' answers in training, {name}"] = agent_calls(experiment.config, history, *sizes)
        _score(measurement, name, experiment.policy, experiment, runner)
        _describe_probs(measurement, name, experiment)
    if cell.with_controls:
        controls = control_policies(dynamic.policy, dynamic.train_questions, questions, seed)
        for name, control in controls.items():
            _score(measurement, name, control, dynamic, runner)
    _score_fixed_graphs(measurement, runner, questions)
    _describe_answers(measurement, runner, questions)
    llm = next(iter(used_llms(dynamic.graph))).usage_of_run()
    measurement.usage |= {name: llm[name] for name in ("distinct_calls", "prompt_tokens", "completion_tokens")}
    measurement.usage["questions read by the edge LLM"] = len(dynamic.train_questions) + len(questions)
    measurement.about = about(dynamic)
    return measurement


def about(experiment: Experiment) -> dict[str, Any]:
    """Questions and inputs of an experiment."""
    train_questions, eval_questions = experiment.train_questions, experiment.eval_questions
    return {
        "questions": {"training": questions_digest(train_questions), "evaluation": questions_digest(eval_questions)},
        "inputs": [source.to_dict() for source in used_sources(experiment)],
        "groups": {name: sum(agent.group == name for agent in experiment.graph.team) for name in
                   experiment.graph.groups},
        "subjects": [f"{question.language}/{question.subject}" for question in eval_questions],
    }  # fmt: skip


def _score(measurement: Measurement, name: str, policy: Policy, experiment: Experiment, runner: Runner) -> None:
    """Sampled graphs and the most probable ones, as `dynagent.evaluation.evaluate.compare_wirings` takes them."""
    config, questions = experiment.config, experiment.eval_questions
    for kind, graphs in GRAPHS.items():
        evaluation = evaluate(
            policy, runner.graph, questions, graphs=graphs, order=config.order, decide=config.decide, runner=runner,
            seed=config.stream("evaluation"),
        )  # fmt: skip
        measurement.scores[f"{name}, {kind}"] = evaluation.scores.numpy()
        measurement.values[f"{name}, {kind}: edges"] = evaluation.num_edges
        measurement.values[f"{name}, {kind}: no answer"] = evaluation.no_answer


def _score_fixed_graphs(measurement: Measurement, runner: Runner, questions: Sequence[Any]) -> None:
    graph = runner.graph
    fixed = {
        "full graph": evaluate_graph(graph.full(), questions, runner),
        "truthful agents only (told)": evaluate_graph(truthful_graphs(graph, questions), questions, runner),
    }
    for name, evaluation in fixed.items():
        measurement.scores[name] = evaluation.scores.numpy()
        measurement.values[f"{name}: edges"] = evaluation.num_edges


def _describe_probs(measurement: Measurement, name: str, experiment: Experiment) -> None:
    """Edges, ratio, dependence on the question, and mean probabilities, of a trained policy."""
    graph, questions = experiment.graph, experiment.eval_questions
    probs = experiment.policy.edge_logits_of(questions).sigmoid()  # [n, E]
    into = probs[:, graph.decision_edges]  # [n, N]
    everyone = torch.ones(len(questions), dtype=torch.bool)
    languages = {value: torch.tensor([q.language == value for q in questions]) for value in _languages(questions)}
    decided = graph.effective | (experiment.config.decide == "all")
    measurement.values[f"{name}: expected edges"] = float(into.sum(1).mean())
    measurement.values[f"{name}: ratio"] = truthful_ratio(probs, graph, questions)
    measurement.values[f"{name}: deviation over questions"] = float(into.std(0, correction=0).mean())
    measurement.edge_probs[name] = {
        value: edge_matrix(probs[chosen].mean(0), graph, decided)
        for value, chosen in ({"all": everyone} | languages).items()
    }
    for value, chosen in languages.items():
        measurement.values[f"{name}: expected edges, {value}"] = float(into[chosen].sum(1).mean())


def _languages(questions: Sequence[Any]) -> list[str]:
    """Both languages of mixed questions; none where there is just one to speak of."""
    found = sorted({question.language for question in questions})
    return found if len(found) > 1 else []


def edge_matrix(edge_probs: Tensor, graph: AgentGraph, decided: Tensor) -> np.ndarray:
    """[M, M] with the decision as node 0, as the paper numbers; not a number where no edge is decided.

    Args:
        edge_probs: [E].
        decided: [E] bool.
    """
    matrix = np.where(graph.adjacency(decided).numpy(), graph.adjacency(edge_probs).numpy(), np.nan)
    order = [graph.decision_node, *range(graph.decision_node)]
    return matrix[np.ix_(order, order)]


def _describe_answers(measurement: Measurement, runner: Runner, questions: Sequence[Any]) -> None:
    """How good single agents are, how often two of one kind agree, and what every number of votes would give."""
    graph = runner.graph
    everyone = graph.full().expand(len(questions), 1, graph.num_nodes, graph.num_nodes)
    answers = runner.run(questions, everyone).answers[:, 0]  # [n, N]
    truthful = torch.tensor([[agent.tells_truth(question) for agent in graph.team] for question in questions])
    right = answers == torch.tensor([question.answer for question in questions])[:, None]
    measurement.scores["single agent"] = right.float().mean(1).numpy()
    pairs = [(i, j) for i, j in combinations(range(len(graph.team)), 2) if graph.team[i].group == graph.team[j].group]
    kinds = {"truthful": truthful, "misleading": ~truthful}
    chosen = {"": torch.ones(len(questions), dtype=torch.bool)} | {
        f", {value}": torch.tensor([q.language == value for q in questions]) for value in _languages(questions)
    }
    for (kind, means_it), (of, rows) in product(kinds.items(), chosen.items()):
        if means_it[rows].any():
            measurement.values[f"accuracy of one {kind} agent{of}"] = float(right[rows][means_it[rows]].float().mean())
        agreeing = [(answers[:, i] == answers[:, j])[means_it[:, i] & means_it[:, j] & rows] for i, j in pairs]
        if agreeing and torch.cat(agreeing).numel():
            measurement.values[f"agreement of two {kind} agents{of}"] = float(torch.cat(agreeing).float().mean())
    if graph.groups == ["en", "zh"]:
        by_votes = accuracy_by_votes(answers, graph, questions)
        for of, rows in list(chosen.items())[1:]:
            measurement.by_votes[of.removeprefix(", ")] = by_votes[rows].mean(0).numpy()


def accuracy_by_votes(answers: Tensor, graph: AgentGraph, questions: Sequence[Any]) -> Tensor:
    """Each question's score if the first i agents of the first group and the first j of the second vote.

    Args:
        answers: [n, N] option indices.

    Returns:
        [n, i, j], from nobody to all.
    """
    sizes = [sum(agent.group == group for agent in graph.team) for group in graph.groups]
    agent = torch.arange(len(graph.team))
    votes = torch.stack(
        [(agent < i) | ((agent >= sizes[0]) & (agent < sizes[0] + j)) for i in range(sizes[0] + 1)
         for j in range(sizes[1] + 1)]
    )  # [all numbers of votes, N]  # fmt: skip
    cast = torch.where(votes, answers[:, None], NOT_ASKED)
    assert isinstance(graph.decision, Decision)
    option_probs = graph.decision.option_probs(cast, max(len(question.options) for question in questions))
    right = torch.tensor([question.answer for question in questions])
    scores = option_probs[torch.arange(len(questions)), :, right]
    return scores.view(len(questions), sizes[0] + 1, sizes[1] + 1)
