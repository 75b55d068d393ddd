"""Language models: what can be asked of one, and how one is loaded."""

from __future__ import annotations

from typing import Any

from dynagent.artefacts.sources import cache_dir
from dynagent.llm.base import Chat, ChatModel, Reply, Request
from dynagent.llm.budget import Budget
from dynagent.llm.endpoints import is_served
from dynagent.llm.local import TransformersModel
from dynagent.llm.replay import RecordedAnswers
from dynagent.llm.served import ServedModel
from dynagent.llm.store import Recorded

__all__ = ["Chat", "ChatModel", "Recorded", "RecordedAnswers", "Reply", "Request", "TransformersModel", "load_llm"]


def load_llm(name: str, *, concurrency: int = 8, budget: Budget | None = None, **options: Any) -> Recorded:
    """A language model by alias, hub id, folder or address, which remembers its replies on disk.

    Args:
        name: an alias of `dynagent.artefacts.sources.PINNED` (always that pinned artefact), a hub id, a folder, or
            `openai:<base_url>#<model>` for a model behind a server, see `dynagent.llm.served`.
        concurrency: calls under way at a time, at a server.
        budget: of the tokens that may be paid for.
        options: dtype, device and trust_remote_code of a model that is loaded here, see `TransformersModel.load`.

    Raises:
        ValueError, OSError: in one sentence, when the model is not to be had.
    """
    if not is_served(name):
        return Recorded(TransformersModel.load(name, **options), budget=budget)
    model = ServedModel(name, concurrency)
    # Its replies do not depend on the packages here, and may have cost money.
    return Recorded(model, cache_dir() / "calls" / f"{model.identity}.jsonl", budget)
