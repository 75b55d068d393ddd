"""Edge policies: from a question to one logit for every potential edge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from dynagent.graph import AgentGraph
from dynagent.llm.features import QuestionReader

CARD = """---
{{ card_data }}
---

An edge policy of dynagent: it gives every potential edge of a team of language agents a probability. What it was
trained on stands in the `record.json` beside its folder.

```python
from dynagent import EdgePolicy  # or StaticEdgePolicy
policy = EdgePolicy.from_pretrained("this folder")
```
"""


class Policy(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="dynagent",
    paper_url="https://arxiv.org/abs/2406.11555",
    model_card_template=CARD,
):
    """What training and evaluation need: questions -> features -> edge logits."""

    def encode(self, questions: Sequence[Any]) -> Tensor:
        """Features of the questions: [B, H]."""
        raise NotImplementedError

    def fit_standardization(self, features: Tensor) -> None:
        """Adapt to the training questions' features, [n, H], before training; by default, not at all."""

    def edge_logits_of(self, questions: Sequence[Any]) -> Tensor:
        """Edge logits of the questions, without gradient, on the CPU: [B, E]."""
        with torch.no_grad():
            logits: Tensor = self(self.encode(questions).to(next(self.parameters()).device))
        return logits.cpu()


class StaticEdgePolicy(Policy):
    """One free logit an edge, the same for every question: GPTSwarm's edge optimisation."""

    def __init__(self, num_edges: int, initial_probability: float = 0.5) -> None:
        super().__init__()
        self.edge_logits = nn.Parameter(torch.full((num_edges,), logit(initial_probability)))

    @classmethod
    def for_graph(cls, graph: AgentGraph, initial_probability: float = 0.5) -> StaticEdgePolicy:
        return cls(graph.num_edges, initial_probability)

    def encode(self, questions: Sequence[Any]) -> Tensor:
        """A static policy reads nothing: [B, 0]."""
        return torch.zeros(len(questions), 0)

    def forward(self, features: Tensor) -> Tensor:
        """Edge logits: [B, E]."""
        return self.edge_logits.repeat(len(features), 1)


class EdgePolicy(Policy):
    """edge_logits = W h(x) + b, where h(x) is a frozen language model's reading of the question (arXiv 2406.11555).

    Features are standardised with the mean and the deviation of the training questions and divided by H. One step
    of Adam, which moves every weight by about the learning rate, then moves W h(x) about as much as b: what holds
    for all questions is learned as fast as without an LLM, and what holds for one question is not learned by heart.
    A zero W and a bias of logit(initial_probability) make every edge start at exactly the initial probability.
    `standardize=False` and `head_init="default"` are the released behaviour: raw hidden states and PyTorch's random
    initialisation.

    `save_pretrained(folder)` writes the head, the statistics and the backbone's identity, never the backbone;
    `EdgePolicy.from_pretrained(folder)` gives the policy back and loads the backbone when it first reads.

    Args:
        hidden_size: H, width of the features.
        num_edges: E, potential edges of the graph.
        backbone: alias, hub id or folder of the edge LLM.
        backbone_identity: what `backbone` has to be when it is loaded again.
        readout: one of `dynagent.llm.transformers.READOUTS`.
    """

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(
        self,
        hidden_size: int,
        num_edges: int,
        backbone: str = "",
        backbone_identity: str = "",
        readout: str = "last_hidden",
        initial_probability: float = 0.5,
        standardize: bool = True,
        head_init: str = "zero",
        init_seed: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.backbone_identity = backbone_identity
        self.readout = readout
        self.standardize = standardize
        self.reader: QuestionReader | None = None
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
    def from_backbone(cls, backbone: str | QuestionReader, graph: AgentGraph, **options: Any) -> EdgePolicy:
        """A new policy on a pretrained language model.

        Args:
            backbone: alias, hub id or folder, or a `QuestionReader` that is already loaded.
            options: the constructor's, from `readout` on.
        """
        reader = backbone if isinstance(backbone, QuestionReader) else QuestionReader.load(backbone)
        model = reader.model
        policy = cls(model.hidden_size, graph.num_edges, model.source.name, model.identity, **options)
        policy.reader = reader
        return policy

    def encode(self, questions: Sequence[Any]) -> Tensor:
        """The backbone's features, [B, H]; every question is read once and then remembered."""
        if self.reader is None:
            *_, dtype = self.backbone_identity.rpartition("-")
            self.reader = QuestionReader.load(self.backbone, dtype=dtype)
        # A folder may have moved: hash and precision are what counts, not the name before them.
        if self.reader.model.identity.split("-")[-2:] != self.backbone_identity.split("-")[-2:]:
            raise ValueError(
                f"This policy was trained on the edge LLM {self.backbone_identity}, but {self.backbone!r} is now "
                f"{self.reader.model.identity}: give the original weights, or train again."
            )
        return self.reader.read(questions, self.readout)

    def fit_standardization(self, features: Tensor) -> None:
        """Take mean and scale from the training questions' features, [n, H]; without `standardize`, nothing."""
        if self.standardize:
            self.feature_mean.copy_(features.mean(0))
            deviation = features.std(0, correction=0).clamp(min=1e-6)
            self.feature_scale.copy_(deviation * features.shape[1])

    def forward(self, features: Tensor) -> Tensor:
        """Edge logits: [B, E] from features [B, H]."""
        standardized = (features.to(self.feature_mean) - self.feature_mean) / self.feature_scale
        logits: Tensor = self.head(standardized)
        return logits


def logit(probability: float) -> float:
    """The logit of a probability strictly between 0 and 1."""
    if not 0 < probability < 1:
        raise ValueError(f"An initial edge probability lies strictly between 0 and 1, not {probability}.")
    return math.log(probability / (1 - probability))
