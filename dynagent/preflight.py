"""Before a long run: what will be loaded, does it fit on the GPU, how many calls, how long?

It reads the models' configs and the questions, never the weights: `python -m dynagent.preflight run.json`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import init_empty_weights

from dynagent.config import RunConfig, resolve_path
from dynagent.endpoints import is_served
from dynagent.execution import Runner
from dynagent.experiment import build_graph, load_split_questions
from dynagent.llm import Reply, Request
from dynagent.llm.transformers import TOKENS_PER_BATCH, refused_in_a_sentence
from dynagent.sources import PINNED, hub_snapshot, model_folder

TOKENS_PER_SECOND = 1500.0  # read and written by a model of 7e9 parameters on one GPU: an assumption, not measured
BYTES_PER_TOKEN = 4  # of text
SHORTEST_PROMPT = 64  # tokens; the shortest prompts make the largest batches
RESERVED = 1.5e9  # bytes for CUDA's own libraries, and what its allocator cannot use


class _Calls:
    """In place of a language model: takes every different request down and answers nothing."""

    identity = ""

    def __init__(self) -> None:
        self.requests: dict[str, Request] = {}

    def reply(self, requests: Sequence[Request]) -> list[Reply]:
        self.requests |= {request.key(self.identity): request for request in requests}
        return [Reply("", (0.0,) * len(request.options), (1,) * len(request.options)) for request in requests]

    def num_tokens(self) -> int:
        """About as many as are read, and at most as many as are written."""
        read = sum(len(str(request.prompt).encode()) // BYTES_PER_TOKEN for request in self.requests.values())
        return read + sum(request.max_new_tokens for request in self.requests.values() if not request.options)


def empty_model(name: str, trust_remote_code: bool = False) -> Any:
    """A language model by alias, hub id or folder, on the device "meta": all shapes and no weights.

    Raises:
        ValueError: in one sentence, if its config cannot be read or wants to run code of its own.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        path = resolve_path(model_folder(name)[0] if name in PINNED else name)
        files = ["config.json", "*.py"] if trust_remote_code else ["config.json"]
        folder = path if path.is_dir() else hub_snapshot(name, files)
        with refused_in_a_sentence(name), init_empty_weights():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(f"The config of {name} could not be read, so that its size is unknown: {error}") from error
    model.tie_weights()
    return model


def batch_bytes(config: Any) -> int:
    """Memory that a full batch takes on a GPU beside the weights: keys and values, activations, logits."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    num_read, num_texts = TOKENS_PER_BATCH[1], TOKENS_PER_BATCH[1] // SHORTEST_PROMPT
    cache = 2 * config.num_hidden_layers * heads * width * (num_read + num_texts * Request.max_new_tokens)
    # Of one layer at a time: four states, and three of the wider ones inside its feed-forward part.
    activations = (4 * config.hidden_size + 3 * config.intermediate_size) * num_read
    return 2 * (cache + activations) + 3 * 4 * num_texts * config.vocab_size  # logits: as computed, scaled and sorted


def preflight(config: RunConfig, tokens_per_second: float = TOKENS_PER_SECOND) -> str:
    """What a run loads, asks and takes, as lines of text.

    Memory is that of one process that trains the head alone. Replies that are on record already cost no time.

    Raises:
        ValueError: in one sentence, if there is nothing to check, a model's config cannot be read, or the GPU is too
            small, or missing for the preset "paper", which needs one.
        ValueError, OSError: if the questions are not to be had, see `dynagent.tasks.load_questions`.
    """
    if config.data_source == "recordings" or config.tune != "head" or any(map(is_served, config.agent_llms)):
        raise ValueError("Nothing is known beforehand of replays and tuning, and of models at a server: choose others.")
    asked: dict[str, Any] = {name: _Calls() for name in config.agent_llms}
    read = {config.edge_llm: _Calls()} if config.edge_policy == "dynamic" else {}
    models = {name: empty_model(name, config.trust_remote_code) for name in asked | read}
    size = {name: sum(parameter.numel() for parameter in model.parameters()) for name, model in models.items()}
    weights, batch = 2 * sum(size.values()), max(batch_bytes(m.config.get_text_config()) for m in models.values())
    lines = [f"{name}: {number:,} parameters, {number * 2 / 1e9:.2f} GB in bfloat16" for name, number in size.items()]
    lines.append(f"memory: {weights / 1e9:.1f} GB of weights, and {batch / 1e9:.1f} GB for a full batch")
    lines.append(_check_memory(config.preset, weights + batch + RESERVED))

    train, held_out = load_split_questions(config)
    trained = train[: config.steps(len(train)) * config.batch_size]
    Runner(build_graph(config, *asked.values()), config.seed).prepare([*trained, *held_out])
    for reader in read.values():
        reader.reply([Request(question.render(), ("",)) for question in (*train, *held_out)])
    lines += [f"calls of the agents to {name}: {len(calls.requests):,}" for name, calls in asked.items()]
    lines += [f"questions read by {name}: {len(calls.requests):,}" for name, calls in read.items()]
    work = sum(calls.num_tokens() * size[name] / 7e9 for name, calls in (*asked.items(), *read.items()))
    rate = f"{tokens_per_second:,.0f} tokens a second, read or written, for 7e9 parameters, others in proportion"
    lines.append(f"time: about {work / tokens_per_second / 60:.1f} minutes (assumed: {rate})")
    return "\n".join(lines) + "\n"


def _check_memory(preset: str, need: float) -> str:
    """What the GPU has free, or why that is not enough; all in bytes."""
    free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (0, 0)
    if not total and preset != "paper":
        return "GPU: none, so the run uses the CPU"
    if need > free:
        here = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB are free" if total else "there is none"
        raise ValueError(
            f"The run needs a CUDA GPU with {need / 1e9:.1f} GB of free memory, and here {here}: take another "
            "machine, end what else uses its GPU, or choose smaller models."
        )
    return f"GPU: {free / 1e9:.1f} of {total / 1e9:.1f} GB are free, and {need / 1e9:.1f} GB are needed"


def main(arguments: list[str] | None = None) -> int:
    """Say what the run that a JSON file of parameters describes loads, asks and takes, and whether it fits."""
    parser = argparse.ArgumentParser(prog="python -m dynagent.preflight", description=main.__doc__)
    parser.add_argument("run", help="the file that python -m dynagent.train takes")
    try:
        sys.stdout.write(preflight(RunConfig.from_json(parser.parse_args(arguments).run)))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"dynagent: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
