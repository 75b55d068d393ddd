"""Language models: what can be asked of one, and how one is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynagent.artefacts.sources import cache_dir
from dynagent.llm.budget import Budget
from dynagent.llm.endpoints import is_served
from dynagent.llm.local import TransformersModel
from dynagent.llm.served import ServedModel
from dynagent.llm.store import Recorded

OURS = ("model", "messages", "prompt", "echo", "n", "stream", "logprobs", "top_logprobs")  # what makes a call readable


def load_llm(
    name: str,
    *,
    concurrency: int = 8,
    budget: Budget | None = None,
    ask_again: bool = False,
    max_new_tokens: int | None = None,
    request_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Recorded:
    """A language model by alias, hub id, folder or address, which remembers its replies on disk.

    Args:
        name: an alias of `dynagent.artefacts.sources.PINNED` (always that pinned artefact), a hub id, a folder, or
            `openai:<base_url>#<model>` for a model behind a server, see `dynagent.llm.served`.
        concurrency: calls under way at a time, at a server.
        budget: of the tokens that may be paid for.
        ask_again: make every call anew, since the model has changed under its name; the old replies are laid aside.
        max_new_tokens: bound of written replies, thoughts included; by default the agents' own.
        request_options: more of what a server is asked, such as {"chat_template_kwargs": {"enable_thinking": False}};
            they win over what is asked otherwise.
        options: dtype, device and trust_remote_code of a model that is loaded here, see `TransformersModel.load`.

    Raises:
        ValueError, OSError: in one sentence, when the model cannot be loaded.
    """
    changes: dict[str, Any] = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    if request_options:
        if not is_served(name):
            raise ValueError(
                f"request_options are for a model behind a server, and {name} is run here: leave them out."
            )
        if taken := [option for option in request_options if option in OURS]:
            raise ValueError(f"request_options may not hold {', '.join(taken)}: without it replies cannot be read.")
        changes["request_options"] = dict(request_options)
    if not is_served(name):
        return Recorded(TransformersModel.load(name, **options), None, budget, ask_again, changes)
    model = ServedModel(name, concurrency)
    # Its replies do not depend on the packages here, and may have cost money.
    return Recorded(model, cache_dir() / "calls" / f"{model.identity}.jsonl", budget, ask_again, changes)
