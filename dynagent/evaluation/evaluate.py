"""How good is a policy, or a fixed graph: a score for every question, intervals, paired comparisons."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from dynagent.evaluation.statistics import Estimate, mean_interval
from dynagent.execution.runner import Runner
from dynagent.graph import AgentGraph, Node
from dynagent.learning.config import TrainConfig
from dynagent.policies.base import Policy
from dynagent.policies.static import StaticEdgePolicy
from dynagent.progress import progress
from dynagent.sampling import edge_noise, most_probable_dags, sample_dags
from dynagent.team.protocols import Question, StatesIntent
from dynagent.team.replies import CUT_OFF, CUT_OFF_ADVICE, REFUSED, TIMED_OUT, UNPARSABLE

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

CHUNK = 256  # questions whose graphs are held in memory at a time


class GivesEdgeLogits(Protocol):
    """What evaluation needs of an edge policy: `dynagent.policies.base.Policy`, or any class of one's own."""

    def edge_logits_of(self, questions: Sequence[Question]) -> Tensor:
        """One finite logit for each question and potential edge, in the graph's order: [n, E] on the CPU."""


@dataclass(frozen=True)
class Evaluation:
    """What came of one way to wire the team.

    Attributes:
        scores: [n], each question's probability of a right answer, averaged over the graphs drawn for it.
        edge_probs: [n, E], or None for a fixed graph.
        num_edges: mean number of edges into the decision node.
        num_agents_asked: mean number of agents that have a say.
        no_answer: share of the graphs in which nobody cast a vote.
        num_tokens: mean number of tokens that these agents read and write for a question.
    """

    scores: Tensor
    num_edges: float
    num_agents_asked: float
    no_answer: float
    num_tokens: float = 0.0
    edge_probs: Tensor | None = field(default=None, repr=False)

    @property
    def accuracy(self) -> Estimate:
        return mean_interval(self.scores)


def evaluate(
    policy: GivesEdgeLogits,
    graph: AgentGraph,
    questions: Sequence[Question],
    *,
    graphs: str = "sampled",
    num_graphs: int = 16,
    shuffle: bool = False,
    order: str = "random",
    decide: str = "effective",
    runner: Runner | None = None,
    seed: int = 0,
) -> Evaluation:
    """Evaluate an edge policy.

    Args:
        graphs: "sampled" averages over `num_graphs` drawn graphs a question; "most_probable" takes one, the
            edges of probability one half or more.
        shuffle: the control: every question gets the graph of another one, next to it in a random circle.
        order, decide: see `dynagent.sampling.sample_dags`.
        runner: executes the graphs; a given one brings along the answers that it already knows.
        seed: of the graphs and the shuffling.

    Raises:
        ValueError: for another kind of graphs, or logits that are not one for each question and edge, and finite.
    """
    if graphs not in ("sampled", "most_probable"):
        raise ValueError(f"The graphs are 'sampled' or 'most_probable', not {graphs!r}.")
    if isinstance(policy, Policy):
        policy.check_team(graph)
    runner = runner or Runner(graph, seed)
    runner.prepare(questions)
    generator = torch.Generator().manual_seed(seed)
    edge_logits = policy.edge_logits_of(questions).clone()  # [n, E]
    if edge_logits.shape != (len(questions), graph.num_edges) or not edge_logits.isfinite().all():
        asked = f"{len(questions)} questions with finite logits of {graph.num_edges} edges, not {[*edge_logits.shape]}"
        raise ValueError(f"An edge policy answers {asked}: see dynagent.evaluation.evaluate.GivesEdgeLogits.")
    if shuffle:
        circle = torch.randperm(len(edge_logits), generator=torch.Generator().manual_seed(seed))
        edge_logits[circle] = edge_logits[circle.roll(1)]

    def draw(chunk: slice) -> Tensor:
        logits = edge_logits[chunk]
        if graphs == "most_probable":
            return most_probable_dags(logits, graph, decide=decide).adjacency
        noise = edge_noise(len(logits), num_graphs, graph.num_edges, generator)
        return sample_dags(logits, graph, noise, order=order, decide=decide).adjacency

    return _evaluate(draw, questions, runner, edge_logits.sigmoid())


def evaluate_graph(adjacency: Tensor, questions: Sequence[Question], runner: Runner) -> Evaluation:
    """Evaluate given graphs: [M, M] bool, the same for all questions, or [n, M, M], one for each."""
    runner.prepare(questions)
    return _evaluate(_everywhere(adjacency, questions).__getitem__, questions, runner)


def _everywhere(adjacency: Tensor, questions: Sequence[Question]) -> Tensor:
    """One graph for each question: [n, 1, M, M]."""
    return adjacency.expand(len(questions), *adjacency.shape[-2:])[:, None]


def _evaluate(
    draw: Callable[[slice], Tensor], questions: Sequence[Question], runner: Runner, edge_probs: Tensor | None = None
) -> Evaluation:
    """Run the graphs, [B, K, M, M] bool, that `draw` gives for B of the questions at a time."""
    parts = []
    for start in progress(range(0, len(questions), CHUNK), desc="evaluating", unit="batch", delay=1.0):
        chunk = slice(start, start + CHUNK)
        adjacency = draw(chunk)
        outcome = runner.run(questions[chunk], adjacency)
        silent = outcome.option_probs.sum(-1) == 0
        found = (outcome.utility, adjacency[..., -1].sum(-1), outcome.asked.sum(-1), silent, outcome.tokens)  # [B, K]
        parts.append(torch.stack([values.float().mean(1) for values in found]))  # [5, B]
    scores, *of_questions = torch.cat(parts, 1)
    num_edges, num_asked, no_answer, tokens = (float(values.mean()) for values in of_questions)
    return Evaluation(scores, num_edges, num_asked, no_answer, tokens, edge_probs)


def truthful_graphs(graph: AgentGraph, questions: Sequence[Question]) -> Tensor:
    """[n, M, M] bool: for each question the agents that mean to answer it rightly, and only they, speak.

    A learner does not know who they are; this is what the best routing by kind of agent would give.
    """
    return graph.adjacency(_well_meant(graph, questions) & graph.decision_edges)


def truthful_ratio(edge_probs: Tensor, graph: AgentGraph, questions: Sequence[Question]) -> float:
    """Mean P(truthful agent -> decision) / mean P(adversarial agent -> decision), over agents and questions.

    It is not a number where one of the two kinds is missing.

    Args:
        edge_probs: [n, E].
    """
    into = graph.decision_edges
    truthful, probs = _well_meant(graph, questions)[:, into], edge_probs[:, into]
    return float(probs[truthful].mean() / probs[~truthful].mean())


def agent_accuracies(graph: AgentGraph, questions: Sequence[Question], runner: Runner) -> dict[str, Estimate]:
    """How often one agent is right where it means well, and where it misleads: a mean over agents, then questions."""
    singles = [evaluate_graph(graph.single(node), questions, runner) for node in range(graph.decision_node)]
    alone = torch.stack([one.scores for one in singles], 1)  # [n, N]
    truthful = _well_meant(graph, questions)[:, graph.decision_edges]  # [n, N]
    accuracies = {}
    for name, kind in (("meaning well", truthful), ("misleading", ~truthful)):
        asked = kind.any(1)
        if asked.any():
            accuracies[name] = mean_interval((alone * kind).sum(1)[asked] / kind.sum(1)[asked])
    return accuracies


def answer_counts(graph: AgentGraph, questions: Sequence[Question], runner: Runner) -> dict[str, int]:
    """Answers in the full graph: right, wrong, without an option that could be read, and without a reply in time.

    Where there are any, also replies that ended before an answer, in thoughts or at their token limit ("cut off"), of
    which a warning says what to do, and those that a server's filter refused.
    """
    given = runner.run(questions, _everywhere(graph.full(), questions)).answers[:, 0]  # [n, N]
    right = given == torch.tensor([question.answer for question in questions])[:, None]
    kinds = {"right": right, "wrong": (given >= 0) & ~right}
    kinds |= {"unparsable": given == UNPARSABLE, "timed out": given == TIMED_OUT}
    rare = {"cut off": given == CUT_OFF, "refused": given == REFUSED}
    kinds |= {kind: answers for kind, answers in rare.items() if answers.any()}
    counts = {kind: int(answers.sum()) for kind, answers in kinds.items()}
    if "cut off" in counts:
        log.warning("%d of %d replies of the agents %s", counts["cut off"], given.numel(), CUT_OFF_ADVICE)
    return counts


def difference(one: Evaluation, other: Evaluation) -> Estimate:
    """Mean score of `one` minus `other` with its interval, paired on the same questions in the same order."""
    if len(one.scores) != len(other.scores):
        raise ValueError("A paired comparison needs both evaluations on the same questions.")
    return mean_interval(one.scores - other.scores)


def contrasting_pair(edge_probs: Tensor) -> tuple[int, int]:
    """Indices of two questions whose graphs differ most: the far ends of the main direction of variation.

    Args:
        edge_probs: [n, E].
    """
    centred = edge_probs - edge_probs.mean(0)
    projection = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[0]  # [n]
    ranked = projection.argsort(stable=True)
    return int(ranked[0]), int(ranked[-1])


def accuracy_table(evaluations: Mapping[str, Evaluation]) -> pd.DataFrame:
    """One row an evaluation: accuracy with its interval, edges into the decision, agents asked."""
    import pandas as pd

    columns = ("accuracy", "95 % interval", "n", "edges into the decision", "no answer")
    rows = [
        (round(e.mean, 3), f"{e.ci_low:.3f} to {e.ci_high:.3f}", e.n, round(one.num_edges, 2), round(one.no_answer, 3))
        for one, e in ((one, one.accuracy) for one in evaluations.values())
    ]
    return pd.DataFrame(rows, index=[*evaluations], columns=columns)


def compare_wirings(
    policies: Mapping[str, GivesEdgeLogits], questions: Sequence[Question], runner: Runner, config: TrainConfig
) -> dict[str, Evaluation]:
    """Evaluate policies beside what they have to beat, all on the same questions and the same answers.

    The first policy is also evaluated on shuffled questions: where its graphs do not depend on the question, that
    changes nothing. The last row is there if any agent means well: by its `tells_truth`, or by the name of its group.
    """
    graph = runner.graph
    shared: dict[str, Any] = {"runner": runner, "decide": config.decide, "order": config.order}
    shared["seed"] = config.stream("evaluation")
    results = {}
    for name, policy in policies.items():
        results[f"{name}, sampled"] = evaluate(policy, graph, questions, **shared)
        results[f"{name}, most probable"] = evaluate(policy, graph, questions, graphs="most_probable", **shared)
    name, policy = next(iter(policies.items()))
    results[f"{name}, questions shuffled"] = evaluate(policy, graph, questions, shuffle=True, **shared)
    coin = StaticEdgePolicy.for_graph(graph, 0.5)
    results["random graph, p = 0.5"] = evaluate(coin, graph, questions, **shared)
    results["full graph"] = evaluate_graph(graph.full(), questions, runner)
    singles = [evaluate_graph(graph.single(node), questions, runner) for node in range(graph.decision_node)]
    results["single agent, mean over all"] = average(singles)
    if (well_meaning := truthful_graphs(graph, questions)).any():
        results["truthful agents only (told, not learned)"] = evaluate_graph(well_meaning, questions, runner)
    return results


def average(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Mean over several evaluations on the same questions, question by question."""
    names = ("num_edges", "num_agents_asked", "no_answer", "num_tokens")
    means = {name: sum(getattr(one, name) for one in evaluations) / len(evaluations) for name in names}
    return Evaluation(torch.stack([one.scores for one in evaluations]).mean(0), **means)


COMPARISONS = (
    ("learned, sampled", "untrained, sampled"),
    ("learned, sampled", "static, sampled"),
    ("learned, sampled", "learned, questions shuffled"),
    ("learned, most probable", "full graph"),
    ("learned, most probable", "static, most probable"),
    ("truthful agents only (told, not learned)", "static, most probable"),
)


def comparisons(results: Mapping[str, Evaluation]) -> dict[str, Estimate]:
    """Paired differences of accuracy between the wirings that are there."""
    return {
        f"{one} - {other}": difference(results[one], results[other])
        for one, other in COMPARISONS
        if one in results and other in results
    }


def _well_meant(graph: AgentGraph, questions: Sequence[Question]) -> Tensor:
    """Whether an edge's source means to answer the question rightly: [n, E] bool.

    An agent that does not say so with `tells_truth` is taken by its group.
    """
    rows = [[_means_well(node, question) for node in graph.nodes[:-1]] for question in questions]
    return torch.tensor(rows)[:, graph.potential_edges[:, 0]]


def _means_well(node: Node, question: Question) -> bool:
    if isinstance(node.operation, StatesIntent):
        return node.operation.tells_truth(question)
    return node.group == "truthful"
