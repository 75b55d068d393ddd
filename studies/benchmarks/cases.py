"""What is measured: teams on a simulated language model that answers at once, and models that count their calls.

The simulated model takes no time, so that what a run costs is the framework around its language models.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from dynagent.execution.runner import Runner
from dynagent.execution.utility import Ballots
from dynagent.graph import AgentGraph
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.llm.base import Reply, Request
from dynagent.llm.local import READOUTS, TransformersModel
from dynagent.llm.reading import QuestionReader
from dynagent.llm.store import Recorded
from dynagent.policies.edge import EdgePolicy
from dynagent.team.agents import Adversarial, Truthful
from dynagent.team.votes import MajorityVote
from studies.benchmarks.rows import now

BATCH = 64  # questions in a batch of the simulated model


class InstantModel:
    """A simulated language model: replies and features are pseudo-random numbers of the text; counts what it is given.

    Attributes:
        asked: every request that it was given, by what determines the reply.
        read: every text that it has read.
    """

    identity = "instant-simulated-float32"
    hidden_size = 576  # SmolLM2's
    source = SimpleNamespace(name="instant-simulated")

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.read: list[str] = []

    def batches(self, requests: Sequence[Any]) -> list[list[int]]:
        return [list(range(start, min(start + BATCH, len(requests)))) for start in range(0, len(requests), BATCH)]

    encode_batches = batches

    def reply(self, requests: Sequence[Request]) -> list[Reply]:
        self.asked += map(determining, requests)
        return [self._reply(request) for request in requests]

    def encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        self.read += texts
        seeds = [torch.Generator().manual_seed(zlib.crc32(text.encode())) for text in texts]
        return {
            name: torch.stack([torch.randn(self.hidden_size, generator=seed) for seed in seeds]) for name in READOUTS
        }

    def _reply(self, request: Request) -> Reply:
        number = zlib.crc32(repr(determining(request)).encode())
        if not request.options:
            return Reply('{"answer": "' + "ABCD"[number % 4] + '"}', prompt_tokens=100, completion_tokens=8)
        scores = tuple(-1.0 - (number >> 8 * option) % 256 / 256 for option in range(len(request.options)))
        return Reply(None, scores, (1,) * len(scores), 100, len(scores))


class CountingModel(TransformersModel):
    """A language model that notes what it is given, as `InstantModel` does."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: list[Any] = []
        self.read: list[str] = []

    def reply(self, requests: Sequence[Request]) -> list[Reply]:
        self.asked += map(determining, requests)
        return super().reply(requests)

    def encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        self.read += texts
        return super().encode(texts)


def determining(request: Request) -> Any:
    """All of a request that can change its reply."""
    return request.prompt, request.options, request.temperature, request.max_new_tokens, request.sample


class TimedRunner(Runner):
    """Notes the moment at which each iteration wants its utilities."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.moments: list[float] = []

    def net_utility(self, *arguments: Any, **options: Any) -> Tensor:
        self.moments.append(now())
        return super().net_utility(*arguments, **options)

    def ballots(self, *arguments: Any, **options: Any) -> Ballots:
        self.moments.append(now())
        return super().ballots(*arguments, **options)

    def milliseconds(self) -> list[float]:
        """Of every iteration, from its moment to the next one's; the first is left out, since it is like no other."""
        return [1000 * (end - start) for start, end in zip(self.moments[1:-1], self.moments[2:], strict=True)]


class Case:
    """A team of truthful and adversarial agents, half and half, whose answers and features are cached.

    Args:
        model: of the agents and of the edge policy, an `InstantModel` or a `CountingModel`.
        folder: an empty one, for the records of answers and features.
        agent: options of the agents, see `dynagent.team.agents.Truthful`.
    """

    def __init__(self, model: Any, questions: Sequence[Any], num_agents: int, folder: Path, **agent: Any) -> None:
        self.model, self.questions = model, questions
        llm = Recorded(model, folder / f"{model.identity}.jsonl")
        team = [Truthful(llm, **agent)] * (num_agents // 2) + [Adversarial(llm, **agent)] * (num_agents // 2)
        self.graph = AgentGraph(team, MajorityVote())
        self.reader = QuestionReader(model, folder / f"{model.identity}.safetensors")
        self.runner = TimedRunner(self.graph)

    def prepare(self) -> Case:
        """Put all answers and features into the caches."""
        self.runner.prepare(self.questions)
        self.reader.read(self.questions)
        return self

    def train(
        self, num_iterations: int | Literal["auto"] = 200, num_questions: int | None = None, **options: Any
    ) -> EdgePolicy:
        """A training of the dynamic policy, on the first questions, or on all."""
        policy = EdgePolicy.from_backbone(self.reader, self.graph)
        config = TrainConfig(num_iterations=num_iterations, batch_size=4, **options)
        self.runner.moments.clear()
        train(policy, self.graph, self.questions[:num_questions], config, runner=self.runner)
        return policy

    def milliseconds(self, num_iterations: int = 200, **options: Any) -> list[float]:
        """Of each iteration of a training."""
        self.train(num_iterations, **options)
        return self.runner.milliseconds()
