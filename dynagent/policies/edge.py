"""Edge policies: from a question to one logit for every potential edge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from dynagent.graph import AgentGraph
from dynagent.llm.base import Readable
from dynagent.llm.reading import QuestionReader, RecordedReader
from dynagent.policies.base import LearningRates, Policy, initial_probability, logit, team_of


class EdgePolicy(Policy):
    """edge_logits = W h(x) + b, where h(x) is a frozen language model's reading of the question (arXiv 2406.11555).

    Features are standardised with the mean and the deviation of the training questions and divided by sqrt(H), so
    that a question's features have norm 1. A zero W and a bias of logit(initial_probability) make every edge start at
    exactly the initial probability. `standardize=False` and `head_init="default"` are the released behaviour: raw
    hidden states and PyTorch's random initialisation.

    W has one row for each edge of its team; `dynagent.policies.agent_aware` makes that row from a description of the
    edge's two agents instead.

    `save_pretrained(folder)` writes the head, the statistics and the backbone's identity, never the backbone;
    `EdgePolicy.from_pretrained(folder)` gives the policy back and loads the backbone when it first reads.

    Args:
        hidden_size: H, width of the features.
        num_edges: E, potential edges of the graph.
        backbone: alias, hub id or folder of the edge LLM.
        backbone_identity: what `backbone` has to be when it is loaded again.
        readout: one of `dynagent.llm.local.READOUTS`.
        about: see `Policy.about`.
    """

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(
        self,
        hidden_size: int,
        num_edges: int,
        backbone: str = "",
        backbone_identity: str = "",
        readout: str = "mean_hidden",
        initial_probability: float = 0.5,
        standardize: bool = True,
        head_init: str = "zero",
        init_seed: int = 0,
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.backbone_identity = backbone_identity
        self.readout = readout
        self.standardize = standardize
        self.reader: QuestionReader | RecordedReader | None = None
        self.head = nn.Linear(hidden_size, num_edges)
        self.register_buffer("feature_mean", torch.zeros(hidden_size))
        self.register_buffer("feature_scale", torch.ones(hidden_size))
        with torch.no_grad():
            if head_init == "zero":
                self.head.weight.zero_()
                self.head.bias.fill_(logit(initial_probability))
            elif head_init == "default":
                bound, generator = 1 / math.sqrt(hidden_size), torch.Generator().manual_seed(init_seed)
                for parameter in (self.head.weight, self.head.bias):
                    parameter.uniform_(-bound, bound, generator=generator)
            else:
                raise ValueError(f"The head's initialisation is 'zero' or 'default', not {head_init!r}.")

    @classmethod
    def from_backbone(cls, backbone: str | QuestionReader | RecordedReader, graph: AgentGraph, **options: Any) -> Self:
        """A new policy on a pretrained language model.

        Args:
            backbone: alias, hub id or folder, or a reader that is already loaded.
            options: the constructor's, from `readout` on; the initial probability is `initial_probability(graph)`
                unless it is given.
        """
        reader = QuestionReader.load(backbone) if isinstance(backbone, str) else backbone
        options = {"initial_probability": initial_probability(graph)} | options
        model: dict[str, Any] = {"backbone": reader.name, "backbone_identity": reader.identity}
        model["about"] = {"team": team_of(graph)}
        policy = cls(hidden_size=reader.hidden_size, num_edges=graph.num_edges, **model, **options)
        policy.reader = reader
        return policy

    def encode(self, questions: Sequence[Readable]) -> Tensor:
        """The backbone's features, [B, H]; every question is read once and then remembered."""
        return self.open_reader().read(questions, self.readout)

    def open_reader(self) -> QuestionReader | RecordedReader:
        """What reads questions for this policy, loaded if it is not yet there.

        Raises:
            ValueError: if the name of the backbone now means other weights than those of the training.
        """
        if self.reader is None:
            *_, dtype = self.backbone_identity.rpartition("-")
            self.reader = QuestionReader.load(self.backbone, dtype=dtype)
        # The weights count, by their hash: a folder may have moved, and a reader that was given may compute in another
        # precision, which changes features by no more than rounding.
        if self.reader.identity.split("-")[-2] != self.backbone_identity.split("-")[-2]:
            raise ValueError(
                f"This policy was trained on the edge LLM {self.backbone_identity}, but {self.backbone!r} is now "
                f"{self.reader.identity}: give the original weights, or train again."
            )
        return self.reader

    def parameter_groups(self, rates: LearningRates) -> list[dict[str, Any]]:
        """The weights, and the bias at `bias_speed` times their learning rate."""
        return [
            {"params": [self.head.weight], "lr": rates.learning_rate},
            {"params": [self.head.bias], "lr": rates.learning_rate * rates.bias_speed},
        ]

    def fit_standardization(self, features: Tensor) -> None:
        """Take mean and scale from the training questions' features, [n, H]; without `standardize`, nothing."""
        if self.standardize:
            self.feature_mean.copy_(features.mean(0))
            deviation = features.std(0, correction=0).clamp(min=1e-6)
            self.feature_scale.copy_(deviation * math.sqrt(features.shape[1]))

    def forward(self, features: Tensor) -> Tensor:
        """Edge logits: [B, E] from features [B, H]."""
        standardized = (features.to(self.feature_mean, non_blocking=True) - self.feature_mean) / self.feature_scale
        logits: Tensor = self.head(standardized)
        return logits
