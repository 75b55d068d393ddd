"""Edge policies: from a question to one logit for every potential edge."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import load_file
from torch import Tensor, nn

from dynagent.config import TrainConfig
from dynagent.graph import AgentGraph
from dynagent.llm.base import check_finite
from dynagent.llm.features import QuestionReader, RecordedReader

CARD = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")  # a template, for saved policies


class Policy(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="dynagent",
    paper_url="https://arxiv.org/abs/2406.11555",
    model_card_template=CARD,
    tags=["language-agents"],
):
    """What training and evaluation need: questions -> features -> edge logits."""

    _hub_mixin_config: dict[str, Any] | None  # what is saved as config.json: the constructor's arguments

    def encode(self, questions: Sequence[Any]) -> Tensor:
        """Features of the questions: [B, H]."""
        raise NotImplementedError

    def fit_standardization(self, features: Tensor) -> None:
        """Adapt to the training questions' features, [n, H], before training; by default, not at all."""

    def parameter_groups(self, config: TrainConfig) -> list[dict[str, Any]]:
        """What is trained, in groups of parameters with their learning rate, as an optimiser takes them."""
        return [{"params": list(self.parameters()), "lr": config.learning_rate}]

    def edge_logits_of(self, questions: Sequence[Any]) -> Tensor:
        """Edge logits of the questions, without gradient, on the CPU: [B, E]."""
        with torch.no_grad():
            logits: Tensor = self(self.encode(questions).to(next(self.parameters()).device))
        check_finite(logits, [question.id for question in questions], "The edge logits")
        return logits.cpu()

    def own_tensors(self) -> dict[str, Tensor]:
        """What is saved, by name."""
        return dict(self.state_dict())

    @property
    def about(self) -> dict[str, Any]:
        """What is saved of the policy in words: "team", see `team_of`, and "record", what its card says of the run.

        A folder that was saved without them loads as well.
        """
        return (self._hub_mixin_config or {}).get("about") or {}

    def note(self, **facts: Any) -> None:
        """Add to what is saved in words, or replace it."""
        self._hub_mixin_config = (self._hub_mixin_config or {}) | {"about": self.about | facts}

    def check_team(self, graph: AgentGraph) -> None:
        """Warn, in one sentence, if the graph's agents are not those that the policy was made for.

        `evaluate`, `train` and `Explorer` do this, so that nobody has to remember it.
        """
        team = team_of(graph)
        pairs = list(zip_longest(self.about.get("team") or team, team, fillvalue="missing"))
        differ = [f"agent {i} was {was} and is {now}" for i, (was, now) in enumerate(pairs, 1) if was != now]
        if differ:
            told = f"This policy was made for another team: {differ[0]}; {len(differ)} of {len(pairs)} agents differ."
            warnings.warn(told, stacklevel=3)

    def generate_model_card(self, *arguments: Any, **values: Any) -> Any:
        """The card in a saved policy's folder: the class that loads it, its team, and what its record says."""
        known = {"module": type(self).__module__, "policy_class": type(self).__name__, "config": self._hub_mixin_config}
        return super().generate_model_card(*arguments, **known, **self.about, **values)

    @classmethod
    def _from_pretrained(cls, **values: Any) -> Any:
        with contextlib.redirect_stdout(None):  # huggingface_hub prints where it reads a local folder
            return super()._from_pretrained(**values)

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        tensors = load_file(model_file, device=map_location)
        if tensors.keys() != model.own_tensors().keys():
            raise ValueError(
                f"{model_file} does not hold the tensors of the class {cls.__name__}: load it with the class that the "
                "README.md beside it names, and with the versions of the packages that it was saved with."
            )
        model.load_state_dict(tensors, strict=False)  # what is not saved is already there
        return model.eval()


class StaticEdgePolicy(Policy):
    """One free logit an edge, the same for every question: GPTSwarm's edge optimisation."""

    def __init__(self, num_edges: int, initial_probability: float = 0.5, about: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.edge_logits = nn.Parameter(torch.full((num_edges,), logit(initial_probability)))

    @classmethod
    def for_graph(cls, graph: AgentGraph, probability: float | None = None) -> StaticEdgePolicy:
        """A new policy, at `initial_probability(graph)` unless a probability is given."""
        probability = initial_probability(graph) if probability is None else probability
        return cls(graph.num_edges, probability, {"team": team_of(graph)})

    def encode(self, questions: Sequence[Any]) -> Tensor:
        """A static policy reads nothing: [B, 0]."""
        return torch.zeros(len(questions), 0)

    def forward(self, features: Tensor) -> Tensor:
        """Edge logits: [B, E]."""
        return self.edge_logits.repeat(len(features), 1)


class EdgePolicy(Policy):
    """edge_logits = W h(x) + b, where h(x) is a frozen language model's reading of the question (arXiv 2406.11555).

    Features are standardised with the mean and the deviation of the training questions and divided by sqrt(H), so
    that a question's features have norm 1. A zero W and a bias of logit(initial_probability) make every edge start at
    exactly the initial probability. `standardize=False` and `head_init="default"` are the released behaviour: raw
    hidden states and PyTorch's random initialisation.

    W has one row for each edge of its team; `dynagent.agent_aware` makes that row from a description of the edge's
    two agents instead.

    `save_pretrained(folder)` writes the head, the statistics and the backbone's identity, never the backbone;
    `EdgePolicy.from_pretrained(folder)` gives the policy back and loads the backbone when it first reads.

    Args:
        hidden_size: H, width of the features.
        num_edges: E, potential edges of the graph.
        backbone: alias, hub id or folder of the edge LLM.
        backbone_identity: what `backbone` has to be when it is loaded again.
        readout: one of `dynagent.llm.transformers.READOUTS`.
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

    def encode(self, questions: Sequence[Any]) -> Tensor:
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
        # A folder may have moved: hash and precision are what counts, not the name before them.
        if self.reader.identity.split("-")[-2:] != self.backbone_identity.split("-")[-2:]:
            raise ValueError(
                f"This policy was trained on the edge LLM {self.backbone_identity}, but {self.backbone!r} is now "
                f"{self.reader.identity}: give the original weights, or train again."
            )
        return self.reader

    def parameter_groups(self, config: TrainConfig) -> list[dict[str, Any]]:
        """The weights, and the bias at `bias_speed` times their learning rate."""
        return [
            {"params": [self.head.weight], "lr": config.learning_rate},
            {"params": [self.head.bias], "lr": config.learning_rate * config.bias_speed},
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


def team_of(graph: AgentGraph) -> list[str]:
    """Each agent in order, by its name, its group and the identity of its language model, if it has one."""
    agents = [(node, getattr(getattr(node.operation, "llm", None), "identity", "none")) for node in graph.nodes[:-1]]
    return [f"{node.name} (group {node.group}, LLM {llm})" for node, llm in agents]


def initial_probability(graph: AgentGraph) -> float:
    """Where training starts: six agents speak to the decision on average, and at most three of eight.

    In a vote of many no single voice counts, so that the first graphs of a large team would tell little about each.
    """
    return min(3 / 8, 6 / len(graph.team))


def logit(probability: float) -> float:
    """The logit of a probability strictly between 0 and 1."""
    if not 0 < probability < 1:
        raise ValueError(f"An initial edge probability lies strictly between 0 and 1, not {probability}.")
    return math.log(probability / (1 - probability))
