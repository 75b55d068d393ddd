"""Before a long run: what will be loaded, does it fit on the GPU, how many calls and tokens, how long?

`python -m dynagent preflight run.json` reads the models' configs and the questions, never the weights, and assumes a
speed. `estimate` takes a run whose models are loaded, and measures on a small pilot.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from itertools import chain
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from accelerate import init_empty_weights

from dynagent.artefacts.sources import PINNED, hub_snapshot, model_folder
from dynagent.execution.runner import Runner, used_llms
from dynagent.learning.order import training_plan
from dynagent.llm.base import Request
from dynagent.llm.endpoints import is_served
from dynagent.llm.loading import refused_in_a_sentence
from dynagent.llm.local import TOKENS_PER_BATCH
from dynagent.llm.store import Recorded
from dynagent.runs.build import build_graph, load_split_questions
from dynagent.runs.config import RunConfig
from dynagent.runs.experiment import Experiment
from dynagent.runs.paths import resolve_path
from dynagent.tasks.multiple_choice import Questions

TOKENS_PER_SECOND = 1500.0  # read and written by a model of 7e9 parameters on one GPU: an assumption, not measured
BYTES_PER_TOKEN = 4  # of text
SHORTEST_PROMPT = 64  # tokens; the shortest prompts make the largest batches
RESERVED = 1.5e9  # bytes for CUDA's own libraries, and what its allocator cannot use
PILOT = 4  # batches, or calls at a server, where as many are asked as it takes at a time
EVALUATED = 85  # graphs a question that `compare_wirings` evaluates, beside one for each agent


class Costs(NamedTuple):
    """What a run asks of its agents' language models; not what the edge LLM reads, which `preflight` counts.

    Attributes:
        calls: different ones of agents that have heard nobody.
        missing: of them not on record.
        tokens, seconds: that the missing ones take.
        most_more: at most as many more calls of agents that have heard others.
        on_record: files of a server's replies from before, and how many each has.
    """

    calls: int
    missing: int
    tokens: float
    seconds: float
    most_more: int
    on_record: tuple[str, ...] = ()

    def __str__(self) -> str:
        calls = f"{self.calls:,} different calls of the agents, {self.missing:,} of them not on record"
        more = f", and at most {self.most_more:,} calls of agents that have heard others" if self.most_more else ""
        costs = f"{calls}: about {self.tokens:,.0f} tokens and {self.seconds / 60:,.1f} minutes{more}"
        before = "; ".join(self.on_record)
        return f"{costs}\n{before}: ask_again asks for them anew, should the server have changed" if before else costs


def estimate(experiment: Experiment) -> Costs:
    """Ask a few of a run's own calls, which then are on record, and scale what they took by the length of the rest.

    Agents that read each other are asked in batches that depend on what was said, which a pilot must not change: on a
    model that is loaded here, theirs is not put on record.

    Raises:
        ValueError, OSError: what the run would raise at its first reply.
    """
    config, runner, questions = experiment.config, experiment.runner, experiment.train_questions
    readers = sum(agent.reads for agent in runner.graph.team)
    on_record = tuple(
        f"{llm.num_on_record:,} replies from before are in {llm.path}"
        for llm in used_llms(runner.graph)
        if isinstance(llm, Recorded) and llm.num_on_record and llm.model.identity.endswith("-served")
    )
    if any(map(is_served, config.agent_llms)):
        runner.prepare(questions[:1])  # whether a server's replies can be used is known after the first
    calls, missing, tokens, seconds = 0, 0, 0.0, 0.0
    for llm, *lists in planned_calls(config, runner, questions, experiment.eval_questions):
        key = Request.key if isinstance(llm, Recorded) else Request.origin_key
        calls += len({key(request, llm.identity) for request in chain(*lists)})
        batches = [batch for requests in lists for batch in llm.missing(requests)] if isinstance(llm, Recorded) else []
        if batches:
            concurrency = getattr(llm.model, "concurrency", 0)
            pilot = batches[:: math.ceil(len(batches) / max(PILOT, concurrency))]
            paid, start = llm.budget.paid, time.monotonic()
            if concurrency or not readers:
                llm.complete(pilot, "pilot")
            else:
                _ = [llm.budget.pay([*batch.values()], llm.model.reply) for batch in pilot]
            scale = num_tokens(batches) / num_tokens(pilot)
            tokens += (llm.budget.paid - paid) * scale
            seconds += (time.monotonic() - start) * scale
            missing += sum(map(len, batches))
    trained = training_plan(len(questions), config)[1].numel() * (config.graphs_per_question + 1)
    graphs = 2 * trained + len(experiment.eval_questions) * (EVALUATED + len(runner.graph.team))
    return Costs(calls, missing, tokens, seconds, readers * graphs, on_record)


def planned_calls(config: RunConfig, runner: Runner, *questions: Questions) -> list[tuple[Any, ...]]:
    """Each language model, and what agents that have heard nobody ask it: in training, and in evaluation.

    Args:
        questions: those to train on, and those to evaluate on.
    """
    visited = torch.cat([indices.flatten() for indices in training_plan(len(questions[0]), config)]).unique()
    parts = ([questions[0][i] for i in visited.tolist()], questions[1])
    return [(llm, *(runner.planned(part, llm) for part in parts)) for llm in used_llms(runner.graph)]


def num_tokens(batches: Iterable[Mapping[str, Request]]) -> int:
    """About as many as are read, and at most as many as are written."""
    requests = [request for batch in batches for request in batch.values()]
    read = sum(len(str(request.prompt).encode()) // BYTES_PER_TOKEN for request in requests)
    return read + sum(request.max_new_tokens for request in requests if not request.options)


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

    Memory is that of one process that trains the head alone, and a time is given only where there is a GPU. Replies
    that are on record already cost no time. Of a model behind a server only the calls are known.

    Raises:
        ValueError: in one sentence, if there is nothing to check, a model's config cannot be read, or the GPU is too
            small, or missing for the preset "paper", which needs one.
        ValueError, OSError: if the questions cannot be loaded, see `dynagent.tasks.multiple_choice.load_questions`.
    """
    if config.data_source == "recordings" or config.tune != "head":
        raise ValueError("Nothing is known beforehand of replays and tuning: set another data_source, or tune 'head'.")
    edge_llms = [config.edge_llm] if config.edge_policy == "dynamic" else []
    local = [name for name in dict.fromkeys([*config.agent_llms, *edge_llms]) if not is_served(name)]
    models = {name: empty_model(name, config.trust_remote_code) for name in local}
    size = {name: sum(parameter.numel() for parameter in model.parameters()) for name, model in models.items()}
    batch = max((batch_bytes(model.config.get_text_config()) for model in models.values()), default=0)
    weights = 2 * sum(size.values())
    lines = [f"{name}: {number:,} parameters, {number * 2 / 1e9:.2f} GB in bfloat16" for name, number in size.items()]
    lines.append(f"memory: {weights / 1e9:.1f} GB of weights, and {batch / 1e9:.1f} GB for a full batch")
    lines.append(_check_memory(config.preset, weights + batch + RESERVED))

    train, held_out = load_split_questions(config)
    stand_ins: list[Any] = [SimpleNamespace(identity=name) for name in config.agent_llms]
    runner, work = Runner(build_graph(config, *stand_ins), config.seed), 0.0
    for llm, *lists in planned_calls(config, runner, train, held_out):
        asked = {request.key(""): request for request in chain(*lists)}
        tokens = num_tokens([asked])
        work += tokens * size.get(llm.identity, 0) / 7e9
        lines.append(f"calls of the agents to {llm.identity}: {len(asked):,}, about {tokens:,} tokens")
    for name in edge_llms:
        read = {text: Request(text, ("",)) for text in (question.render() for question in (*train, *held_out))}
        work += num_tokens([read]) * size[name] / 7e9
        lines.append(f"questions read by {name}: {len(read):,}")
    rate = f"{tokens_per_second:,.0f} tokens a second, read or written, for 7e9 parameters, others in proportion"
    time_on_gpu = f"about {work / tokens_per_second / 60:.1f} minutes (assumed: {rate})"
    unknown = "not known on a CPU; `python -m dynagent train` measures a pilot"
    lines.append(f"time: {time_on_gpu if torch.cuda.is_available() else unknown}")
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
