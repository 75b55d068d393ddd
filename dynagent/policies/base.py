"""What every edge policy is: from questions to one logit for every potential edge, saved and loaded."""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import load_file
from torch import Tensor, nn

from dynagent.graph import AgentGraph
from dynagent.llm.base import Readable, check_finite

CARD = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")  # a template, for saved policies


class LearningRates(Protocol):
    """How fast the parts of a policy are trained: those parameters of a training that concern it."""

    @property
    def learning_rate(self) -> float: ...

    @property
    def backbone_learning_rate(self) -> float: ...

    @property
    def bias_speed(self) -> float: ...


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

    def encode(self, questions: Sequence[Readable]) -> Tensor:
        """Features of the questions: [B, H]."""
        raise NotImplementedError

    def fit_standardization(self, features: Tensor) -> None:
        """Adapt to the training questions' features, [n, H], before training; by default, not at all."""

    def parameter_groups(self, rates: LearningRates) -> list[dict[str, Any]]:
        """What is trained, in groups of parameters with their learning rate, as an optimiser takes them."""
        return [{"params": list(self.parameters()), "lr": rates.learning_rate}]

    def edge_logits_of(self, questions: Sequence[Readable]) -> Tensor:
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
        # The same weights in another precision are the same agent.
        differ = [
            f"agent {i} was {was} and is {now}"
            for i, (was, now) in enumerate(pairs, 1)
            if without_precision(was) != without_precision(now)
        ]
        if differ:
            warnings.warn(
                f"This policy was made for another team: {differ[0]}; {len(differ)} of {len(pairs)} agents differ.",
                stacklevel=3,
            )

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


def team_of(graph: AgentGraph) -> list[str]:
    """Each agent in order, by its name, its group and the identity of its language model, if it has one."""
    identities = [operation.llm.identity if operation.llm is not None else "none" for operation in graph.operations]
    return [f"{node.name} (group {node.group}, LLM {llm})" for node, llm in zip(graph.nodes, identities, strict=False)]


def without_precision(agent: str) -> str:
    """An agent of `team_of` without the precision in which its language model computes.

    >>> without_precision("Truthful (group truthful, LLM smollm2-0123456789ab-float32)")
    'Truthful (group truthful, LLM smollm2-0123456789ab)'
    """
    return re.sub(r"-(?:bfloat16|float32|float16)\)$", ")", agent)


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
