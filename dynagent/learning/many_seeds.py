"""Many seeds trained in one go: what `dynagent.learning.loop` does to each of them, with the seeds as one more axis.

A training takes hundreds of small steps, and most of its time goes to starting operations on a few numbers each; twenty
seeds side by side cost little more than one. The objectives are the same; what differs is that answers come from a
table and that only edges into the decision are trained: every edge has parameters of its own, so that the others cannot
change them (which `studies.released.no_effect` measures). A test holds this trainer to `dynagent.learning.loop` over
every option, and what it does not do is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynagent.execution.utility import Ballots
from dynagent.graph import AgentGraph
from dynagent.learning.baselines import moving_average
from dynagent.learning.config import TrainConfig
from dynagent.learning.contribution import Draws
from dynagent.learning.objectives import OBJECTIVES
from dynagent.learning.optimizer import OPTIMIZERS, make_schedule
from dynagent.learning.order import data_order
from dynagent.policies.base import Policy
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.static import StaticEdgePolicy
from dynagent.sampling import edge_noise, log_prob
from dynagent.team.protocols import Decision

# Parameters that `train` heeds and this trainer does not, each with the value at which they do nothing.
WITHOUT_EFFECT = {"early_stopping": 0.0, "cost_weight": 0.0, "mixed_precision": "no", "gradient_accumulation_steps": 1}


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

    def ballots(self, graph: AgentGraph, rows: Tensor | None = None) -> Ballots:
        """The votes of all questions, [S, n, N], or of those in the rows, [S, B], of each seed."""
        assert isinstance(graph.decision, Decision)
        if rows is None:
            return Ballots(graph.decision, self.answers, self.right, self.num_options)
        seeds = torch.arange(len(rows))[:, None]
        return Ballots(graph.decision, self.answers[seeds, rows], self.right.gather(1, rows), self.num_options)


@dataclass(frozen=True)
class SeedsBatch:
    """B questions for each of S seeds, see `dynagent.learning.contribution.Batch`; E = N, the edges into the decision.

    Attributes:
        noise: [S, B, K, 2, N].
        penalised: [N] bool; all, since they are decided and have an effect, whatever the configuration.
    """

    noise: Tensor
    votes: Ballots
    penalised: Tensor
    sparsity: float
    cost_weight: float = 0.0

    def into_decision(self, values: Tensor) -> Tensor:
        return values

    def draw(self, edge_logits: Tensor) -> Draws:
        """Edges into the decision close no cycle: each is taken with its probability."""
        taken = self.noise[..., 0, :] < edge_logits.detach().sigmoid()[:, :, None]  # [S, B, K, N]
        log_probs = log_prob(edge_logits[:, :, None], taken, torch.ones_like(taken))
        return Draws(log_probs, self.votes.utility(taken), taken)

    def ballots(self, device: torch.device) -> Ballots:
        return self.votes


def train_side_by_side(
    policies: Sequence[Policy], graph: AgentGraph, known: Answered, configs: Sequence[TrainConfig]
) -> None:
    """Train one policy a seed in place; see the module's first lines.

    Args:
        policies: S policies of one kind, `EdgePolicy` or `StaticEdgePolicy`.
        graph: the team, whose agents do not read each other, and its decision.
        known: the training questions.
        configs: S configurations that differ in their seed alone.

    Raises:
        ValueError: for policies, a team or a parameter that `dynagent.learning.loop.train` has to be used for.
    """
    config, objective = configs[0], OBJECTIVES[configs[0].estimator]
    _check(policies, graph, configs)
    num_questions = known.right.shape[1]
    order = torch.stack([data_order(num_questions, config) for config in configs])  # [S, T, B]
    for policy, features, visited in zip(policies, known.features, order, strict=True):
        policy.fit_standardization(features[visited.unique()])
    features = standardized(policies, known.features)  # [S, n, H]
    weight, bias = (tensor.clone().requires_grad_() for tensor in heads(policies, graph))
    optimizer = OPTIMIZERS[config.optimizer](_parameter_groups(weight, bias, config))
    schedule = make_schedule(optimizer, config.schedule, order.shape[1])
    generators = [config.generator("graphs") for config in configs]
    noise_shape = config.batch_size, objective.num_graphs(config.graphs_per_question), graph.num_edges
    into_decision = graph.decision_edges.nonzero()[:, 0]  # [N]
    all_edges = torch.ones(len(into_decision), dtype=torch.bool)
    average: Tensor | None = None  # [S]
    seeds = torch.arange(len(configs))[:, None]
    for step in range(order.shape[1]):
        rows = order[:, step]  # [S, B]
        edge_logits = features[seeds, rows] @ weight.mT + bias[:, None]  # [S, B, N]
        noise = _noise(generators, noise_shape)[..., into_decision]  # [S, B, K, 2, N]
        batch = SeedsBatch(noise, known.ballots(graph, rows), all_edges, config.sparsity)
        contribution = objective(edge_logits, batch, average)
        optimizer.zero_grad()
        contribution.loss.sum().backward()  # each seed has parameters of its own
        optimizer.step()
        schedule.step()
        average = moving_average(average, contribution.utility.mean((-2, -1)))
    _put_back(policies, graph, weight.detach(), bias.detach())


def _check(policies: Sequence[Policy], graph: AgentGraph, configs: Sequence[TrainConfig]) -> None:
    """Refuse, in one sentence, what `train` does and this trainer does not."""
    instead = "train its seeds one by one with dynagent.learning.loop.train"
    for policy in policies:
        if type(policy).forward not in (EdgePolicy.forward, StaticEdgePolicy.forward):
            raise ValueError(f"Policies of class {type(policy).__name__} cannot be trained side by side: {instead}.")
    if any(operation.reads for operation in graph.operations):
        raise ValueError(f"Seeds of a team whose agents read each other cannot be trained side by side: {instead}.")
    OBJECTIVES[configs[0].estimator].check_graph(graph)
    parameters: list[dict[str, Any]] = [config.to_dict() | {"seed": None} for config in configs]
    for name, value in WITHOUT_EFFECT.items():
        if (other := parameters[0][name]) != value:
            raise ValueError(f"{name} {other!r} is not for seeds side by side: leave it at {value!r}, or {instead}.")
    for name in parameters[0]:
        values = [each[name] for each in parameters]
        if any(value != values[0] for value in values):
            raise ValueError(f"Seeds side by side differ in their seed alone, and these in {name}, too: {values}.")


def _parameter_groups(weight: Tensor, bias: Tensor, config: TrainConfig) -> list[dict[str, Any]]:
    """As the policies' own groups: a static policy, whose weights [S, N, 0] are empty, has one learning rate."""
    if not weight.shape[-1]:
        return [{"params": [bias], "lr": config.learning_rate}]
    return [
        {"params": [weight], "lr": config.learning_rate},
        {"params": [bias], "lr": config.learning_rate * config.bias_speed},
    ]


def edge_logits(policies: Sequence[Policy], graph: AgentGraph, features: Tensor) -> Tensor:
    """Logits of the edges into the decision: [S, n, N]."""
    weight, bias = heads(policies, graph)
    return standardized(policies, features) @ weight.mT + bias[:, None]


def accuracies(logits: Tensor, graph: AgentGraph, known: Answered) -> dict[str, Tensor]:
    """Each question's probability of a right answer, [S, n]: expected over drawn graphs, and of the most probable."""
    ballots = known.ballots(graph)
    votes = {"drawn": logits.sigmoid(), "most probable": (logits >= 0).to(logits)}
    return {kind: ballots.expected_utility(vote_probs) for kind, vote_probs in votes.items()}


def standardized(policies: Sequence[Policy], features: Tensor) -> Tensor:
    """What the heads see: [S, n, H]; nothing, H = 0, for static policies."""
    dynamic = [policy for policy in policies if isinstance(policy, EdgePolicy)]
    if not dynamic:
        return features[..., :0]
    mean = torch.stack([policy.feature_mean for policy in dynamic])[:, None]  # [S, 1, H]
    scale = torch.stack([policy.feature_scale for policy in dynamic])[:, None]  # [S, 1, H]
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


def _put_back(policies: Sequence[Policy], graph: AgentGraph, weights: Tensor, biases: Tensor) -> None:
    """Write the trained parameters, [S, N, H] and [S, N], into the policies."""
    with torch.no_grad():
        for policy, weight, bias in zip(policies, weights, biases, strict=True):
            if isinstance(policy, EdgePolicy):
                policy.head.weight[graph.decision_edges] = weight
                policy.head.bias[graph.decision_edges] = bias
            else:
                assert isinstance(policy, StaticEdgePolicy)
                policy.edge_logits[graph.decision_edges] = bias


def _noise(generators: Sequence[torch.Generator], shape: tuple[int, int, int]) -> Tensor:
    """The numbers that draw a batch's graphs, the same as in a training by itself: [S, B, K, 2, E].

    Args:
        shape: B, K and E; where K is 0 no generator is asked.
    """
    num_questions, num_graphs, num_edges = shape
    if not num_graphs:
        return torch.zeros(len(generators), num_questions, 0, 2, num_edges)
    return torch.stack([edge_noise(*shape, generator) for generator in generators])
