"""Many seeds trained in one go: what `dynagent.learning.loop` does to each of them, with the seeds as one more axis.

A training takes hundreds of small steps, and most of its time goes to starting operations on a few numbers each; twenty
seeds side by side cost little more than one. Only edges into the decision are trained: every edge has parameters of its
own, so that the others cannot change them (which `studies.released.measure` measures). A test compares the result with
`dynagent.learning.loop` for every estimator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynagent.graph import AgentGraph
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import data_order
from dynagent.learning.objectives import leave_one_out, moving_average
from dynagent.policies.base import Policy
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.static import StaticEdgePolicy
from dynagent.sampling import edge_noise, log_prob
from dynagent.team.votes import NOT_ASKED, MajorityVote


@dataclass(frozen=True)
class Answered:
    """Questions that a team has answered, for S seeds.

    Attributes:
        features: [S, n, H], the edge LLM's reading.
        answers: [S, n, N] option indices; a negative one is no answer.
        right: [S, n], the right option.
        num_options: C.
    """

    features: Tensor
    answers: Tensor
    right: Tensor
    num_options: int = 4

    def utility(self, option_probs: Tensor, rows: Tensor | None = None) -> Tensor:
        """The right option's probability: [S, B, ...] from [S, B, ..., C], of the questions in rows [S, B]."""
        right = self.right if rows is None else self.right.gather(1, rows)
        right = right.view(*right.shape, *([1] * (option_probs.dim() - 2))).expand(*option_probs.shape[:-1], 1)
        return option_probs.gather(-1, right).squeeze(-1)


def train_side_by_side(
    policies: Sequence[Policy], graph: AgentGraph, known: Answered, configs: Sequence[TrainConfig]
) -> None:
    """Train one policy a seed in place; see the module's first lines.

    Args:
        policies: S policies of one kind, `EdgePolicy` or `StaticEdgePolicy`.
        graph: the team, whose agents do not read each other, and its decision, a `MajorityVote`.
        known: the training questions.
        configs: S configurations that differ in their seed alone.
    """
    config, decision = configs[0], graph.decision
    num_seeds, num_questions = known.right.shape
    order = torch.stack([data_order(num_questions, of) for of in configs])  # [S, T, B]
    for policy, features, visited in zip(policies, known.features, order, strict=True):
        policy.fit_standardization(features[visited.unique()])
    features = standardized(policies, known.features)  # [S, n, H]
    weight, bias = (tensor.clone().requires_grad_() for tensor in heads(policies, graph))
    groups = [{"params": [weight], "lr": config.learning_rate}] if features.shape[-1] else []
    speed = config.bias_speed if features.shape[-1] else 1.0
    optimizer = torch.optim.Adam([*groups, {"params": [bias], "lr": config.learning_rate * speed}])
    generators, average = [of.generator("graphs") for of in configs], None
    seeds = torch.arange(num_seeds)[:, None]
    for step in range(order.shape[1]):
        rows = order[:, step]  # [S, B]
        logits = features[seeds, rows] @ weight.mT + bias[:, None]  # [S, B, N]
        answers, probs = known.answers[seeds, rows], logits.sigmoid()
        if config.estimator == "exact":
            expected = decision.expected_option_probs(probs, answers, known.num_options)
            utility = known.utility(expected, rows)[..., None]  # [S, B, 1]
            loss = -utility.mean((1, 2))
        else:
            noise = _noise(generators, config, graph)
            heard = noise < probs.detach()[:, :, None]  # [S, B, K, N]
            cast = torch.where(heard, answers[:, :, None], NOT_ASKED)
            utility = known.utility(decision.option_probs(cast, known.num_options), rows)  # [S, B, K]
            advantage = utility - _baseline(config.estimator, utility, average)
            loss = -(advantage * log_prob(logits[:, :, None], heard, torch.ones_like(heard))).mean((1, 2))
        loss = loss + config.sparsity * probs.sum(-1).mean(1)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        average = moving_average(average, utility.detach().mean((1, 2)))
    _put_back(policies, graph, weight.detach(), bias.detach())


def edge_logits(policies: Sequence[Policy], graph: AgentGraph, features: Tensor) -> Tensor:
    """Logits of the edges into the decision: [S, n, N]."""
    weight, bias = heads(policies, graph)
    return standardized(policies, features) @ weight.mT + bias[:, None]


def accuracies(logits: Tensor, graph: AgentGraph, known: Answered) -> dict[str, Tensor]:
    """Each question's probability of a right answer, [S, n]: expected over drawn graphs, and of the most probable."""
    assert isinstance(graph.decision, MajorityVote)
    votes = {"drawn": logits.sigmoid(), "most probable": (logits >= 0).to(logits)}
    return {
        kind: known.utility(graph.decision.expected_option_probs(probs, known.answers, known.num_options))
        for kind, probs in votes.items()
    }


def standardized(policies: Sequence[Policy], features: Tensor) -> Tensor:
    """What the heads see: [S, n, H]; nothing, H = 0, for static policies."""
    if isinstance(policies[0], StaticEdgePolicy):
        return features[..., :0]
    mean, scale = (torch.stack([getattr(p, name) for p in policies])[:, None]
                   for name in ("feature_mean", "feature_scale"))  # fmt: skip
    return (features - mean) / scale


def heads(policies: Sequence[Policy], graph: AgentGraph) -> tuple[Tensor, Tensor]:
    """Weights [S, N, H] and biases [S, N] of the edges into the decision."""
    weights, biases = [], []
    for policy in policies:
        if isinstance(policy, EdgePolicy):
            weights.append(policy.head.weight.detach()[graph.decision_edges])
            biases.append(policy.head.bias.detach()[graph.decision_edges])
        else:
            assert isinstance(policy, StaticEdgePolicy)
            biases.append(policy.edge_logits.detach()[graph.decision_edges])
            weights.append(torch.zeros(len(biases[-1]), 0))
    return torch.stack(weights), torch.stack(biases)


def _put_back(policies: Sequence[Policy], graph: AgentGraph, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        for policy, of_weight, of_bias in zip(policies, weight, bias, strict=True):
            if isinstance(policy, EdgePolicy):
                policy.head.weight[graph.decision_edges] = of_weight
                policy.head.bias[graph.decision_edges] = of_bias
            else:
                assert isinstance(policy, StaticEdgePolicy)
                policy.edge_logits[graph.decision_edges] = of_bias


def _noise(generators: Sequence[torch.Generator], config: TrainConfig, graph: AgentGraph) -> Tensor:
    """The numbers that draw a batch's graphs, the same as in a training by itself: [S, B, K, N]."""
    drawn = [edge_noise(config.batch_size, config.graphs_per_question, graph.num_edges, g) for g in generators]
    return torch.stack(drawn)[:, :, :, 0][..., graph.decision_edges]


def _baseline(estimator: str, utility: Tensor, average: Tensor | None) -> Tensor:
    """What is subtracted from the utilities, [S, B, K]; see `dynagent.learning.objectives`."""
    if estimator == "leave_one_out":
        return leave_one_out(utility.flatten(0, 1)).view_as(utility)
    if estimator == "moving_average" and average is not None:
        return average[:, None, None].expand_as(utility)
    if estimator in ("reinforce", "moving_average"):
        return torch.zeros_like(utility)
    raise ValueError(f"Seeds are not trained side by side by the estimator {estimator!r}.")
