"""Language models: what can be asked of one, and how one is loaded."""

from __future__ import annotations

from dynagent.llm.base import Chat, ChatModel, Reply, Request
from dynagent.llm.recorded import Recorded, RecordedAnswers
from dynagent.llm.transformers import TransformersModel

__all__ = ["Chat", "ChatModel", "Recorded", "RecordedAnswers", "Reply", "Request", "TransformersModel", "load_llm"]


def load_llm(
    name: str, *, dtype: str = "bfloat16", device: str | None = None, trust_remote_code: bool = False
) -> Recorded:
    """A language model by alias, hub id or folder, which remembers its replies on disk.

    Args:
        name: an alias of `dynagent.sources.PINNED` (always that pinned artefact), a hub id, or a folder.
        dtype: of weights and arithmetic; part of the model's identity.
        device: a torch device; by default the GPU of this process, or the CPU.
        trust_remote_code: run the code that a model brings along, where it does; without, such a model is refused.

    Raises:
        ValueError, OSError: in one sentence, when the model is not to be had.
    """
    model = TransformersModel.load(name, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    return Recorded(model)
