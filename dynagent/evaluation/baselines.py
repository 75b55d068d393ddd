"""One call that judges an edge policy, whoever wrote it, beside what it has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dynagent.evaluation.evaluate import GivesEdgeLogits, accuracy_table, compare_wirings, difference, evaluate_graph
from dynagent.execution.runner import Runner
from dynagent.graph import AgentGraph
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.policies.static import StaticEdgePolicy
from dynagent.team.protocols import Question


def compare_with_baselines(
    policy: GivesEdgeLogits,
    graph: AgentGraph,
    questions: Sequence[Question],
    train_questions: Sequence[Question] = (),
    config: TrainConfig | None = None,
    **others: GivesEdgeLogits,
) -> pd.DataFrame:
    """Evaluate an edge policy and its baselines on the same questions and the same answers of the agents.

    The rows are those of `dynagent.evaluation.evaluate.compare_wirings`: the policy ("own") with drawn and with most
    probable
    graphs and on shuffled questions, an untrained policy, random graphs, all agents voting, one agent alone, and those
    who mean well, if that is known. With training questions there are also a static policy and a single agent that
    were chosen on them, which takes no reading.

    Args:
        policy: any object with `edge_logits_of(questions)`, see `dynagent.evaluation.evaluate.GivesEdgeLogits`.
        train_questions: what the policy was made with, if anything; none may be among `questions`.
        config: the seed, and how the static policy is trained; by default at the paper's learning rate, 0.1.
        others: more policies to compare with, by name; a learned one, for example.

    Returns:
        One row a wiring: accuracy with its interval and n; mean calls and tokens of the agents for a question; and by
        how much more often the policy's most probable graphs are right, paired on the same questions.

    Raises:
        ValueError: if a question is among both, or the logits are not one for each edge.
    """
    config = config or TrainConfig(learning_rate=0.1)
    runner = Runner(graph, config.seed)
    policies = {"own": policy, **others, "untrained": StaticEdgePolicy.for_graph(graph)}
    if shared := {question.id for question in questions} & {question.id for question in train_questions}:
        raise ValueError(f"{len(shared)} of the training questions are also evaluated on: take them out of one.")
    if train_questions:
        policies["static"] = static = StaticEdgePolicy.for_graph(graph)
        train(static, graph, train_questions, config, runner=runner)
    results = compare_wirings(policies, questions, runner, config)
    if train_questions:
        alone = [graph.single(node) for node in range(graph.decision_node)]
        best = max(alone, key=lambda one: float(evaluate_graph(one, train_questions, runner).scores.mean()))
        results["single agent, best in training"] = evaluate_graph(best, questions, runner)
    table, found = accuracy_table(results), results.values()
    table["calls"] = [round(one.num_agents_asked, 2) for one in found]
    table["tokens"] = [round(one.num_tokens, 1) for one in found]
    gains = [difference(results["own, most probable"], one) for one in found]
    table["own - this"] = [round(gain.mean, 3) for gain in gains]
    table["its 95 % interval"] = [f"{gain.ci_low:+.3f} to {gain.ci_high:+.3f}" for gain in gains]
    return table
