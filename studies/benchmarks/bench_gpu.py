"""How fast a GPU reads, scores and trains, beside the matrix products that it can do: results/bench_gpu.json.

    make bench-gpu                                              # or: python -m studies.benchmarks.bench_gpu
    make bench-gpu ARGS="--smollm2 FOLDER"                      # and one real training run on SmolLM2's weights
    python -m studies.benchmarks.bench_gpu --shape tiny --device cpu --output /tmp/bench.json    # that it runs at all

Nothing is downloaded: the language model has Gemma-2B's shape and random weights, its tokens are bytes, and the agents
are simulated (each always gives the same letter). Without a CUDA GPU every row's value is null.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accelerate import Accelerator
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GemmaConfig, GemmaForCausalLM, PreTrainedTokenizerFast

from dynagent.artefacts.sources import Source
from dynagent.execution.runner import Runner
from dynagent.execution.utility import Ballots
from dynagent.graph import AgentGraph
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.llm.base import Request
from dynagent.llm.local import TransformersModel
from dynagent.llm.reading import QuestionReader
from dynagent.policies.base import Policy
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.tuned import TunedEdgePolicy
from dynagent.runs.config import RunConfig
from dynagent.runs.paths import resolve_path
from dynagent.runs.record import Record, RunRecord
from dynagent.runs.run import run_experiment
from dynagent.tasks.multiple_choice import Question
from dynagent.team.agents import Constant
from dynagent.team.votes import MajorityVote
from studies.benchmarks.rows import Row
from studies.common.program import choose, program

GEMMA_2B = {
    "vocab_size": 256_000,
    "hidden_size": 2048,
    "intermediate_size": 16_384,
    "num_hidden_layers": 18,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "max_position_embeddings": 8192,
}
TINY = GEMMA_2B | {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "head_dim": 16,
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How much is measured: side of the square matrices, texts, and questions a step."""

    shape: dict[str, int]
    matrix: int
    num_texts: int
    batch_size: int
    steps: int


SIZES = {"gemma-2b": Sizes(GEMMA_2B, 8192, 256, 16, 10), "tiny": Sizes(TINY, 256, 12, 4, 3)}
TEXT_BYTES = 400  # about what a question of MMLU has; a byte is a token here
REPEATS = 3


ROWS = {
    "matrix product, bf16": "TFLOP/s",
    "features": "tokens/s",
    "features, share of the matrix product's rate": "TFLOP/s",
    "features, torch.compile": "tokens/s",
    "option scoring": "tokens/s",
    "option scoring, share of the matrix product's rate": "TFLOP/s",
    "step, head": "s",
    "step, lora": "s",
    "step, lora, share of the matrix product's rate": "TFLOP/s",
    "step, lora, 2 micro-batches": "s",
    "step, full": "s",
    "step, full, share of the matrix product's rate": "TFLOP/s",
    "peak memory, lora": "GB",
    "peak memory, lora, 2 micro-batches": "GB",
    "peak memory, full": "GB",
    "training run on SmolLM2": "s",
    "accuracy of that run, learned": "",
}


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Median time of the work, after a first time that does not count."""
    times = []
    for _ in range(1 + REPEATS):
        _wait(device)
        begun = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(side: int, device: torch.device) -> float:
    """TFLOP/s of a product of two square matrices in bf16."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds(lambda: left @ right, device) / 1e12


def random_model(shape: dict[str, int], device: torch.device, seed: int = 0) -> TransformersModel:
    """A language model with random weights in bf16, and a tokenizer of bytes."""
    symbols = ["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        model = GemmaForCausalLM(GemmaConfig(**shape, pad_token_id=0, eos_token_id=0)).to(torch.bfloat16)
    source = Source("random weights", "builtin", "this benchmark", None, "0" * 64, "none")
    return TransformersModel(model, PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>"), source)


def questions_of(number: int, seed: int = 0) -> list[Question]:
    """Random letters, of lengths between half and one and a half times `TEXT_BYTES`."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(TEXT_BYTES // 2, 3 * TEXT_BYTES // 2, (number,), generator=generator).tolist()
    texts = ["".join(chr(97 + i) for i in torch.randint(26, (n,), generator=generator).tolist()) for n in lengths]
    return [Question(text, ("one", "two", "three", "four"), i % 4, "none", "en") for i, text in enumerate(texts)]


class Stopwatch(Runner):
    """Notes the time at two of its calls, when the device has done what it was given; others do not wait."""

    def __init__(self, graph: AgentGraph, device: torch.device, at: tuple[int, int]) -> None:
        super().__init__(graph)
        self.device, self.at, self.num_calls = device, at, 0
        self.stamps: list[float] = []

    def ballots(self, *arguments: Any) -> Ballots:
        if self.num_calls in self.at:
            _wait(self.device)
            self.stamps.append(time.perf_counter())
        self.num_calls += 1
        return super().ballots(*arguments)


def weights_of(model: TransformersModel) -> int:
    """Weights that a token is multiplied with in the backbone: without the table of embeddings."""
    backbone = model.model.base_model
    return sum(p.numel() for p in backbone.parameters()) - backbone.get_input_embeddings().weight.numel()


class Bench:
    """The rows, filled in one after the other."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        self.rows = {name: Row(name, None, unit) for name, unit in ROWS.items()}
        self.sizes, self.device = sizes, device
        self.rate = matrix_rate(sizes.matrix, device)
        self.put("matrix product, bf16", self.rate)

    def put(self, name: str, value: float, reference: float | None = None) -> None:
        row = self.rows[name] = replace(self.rows[name], value=value, reference=reference)
        print(f"{name:55} {value:14.4g} {row.unit:9}" + (f" ratio {row.ratio:.3f}" if row.ratio else ""), flush=True)

    def put_share(self, name: str, operations: float, seconds: float) -> None:
        """What the model's own products come to a second, beside the card's rate."""
        self.put(f"{name}, share of the matrix product's rate", operations / seconds / 1e12, self.rate)

    def reading(self, model: TransformersModel, questions: Sequence[Question], compiled: bool) -> None:
        """Features and scores of options, by the calls that a run makes."""
        texts = [question.render() for question in questions]
        batches = model.encode_batches(texts)
        tokens = sum(len(model.tokenizer(text).input_ids) for text in texts)

        def read() -> None:
            for batch in batches:
                model.encode([texts[i] for i in batch])

        eager = seconds(read, self.device)
        self.put("features", tokens / eager)
        self.put_share("features", 2 * tokens * weights_of(model), eager)

        requests = [Request(text, ("A", "B", "C", "D")) for text in texts]
        work = model.batches(requests)
        score = seconds(lambda: [model.reply([requests[i] for i in batch]) for batch in work], self.device)
        self.put("option scoring", tokens / score)
        self.put_share("option scoring", 2 * tokens * weights_of(model), score)

        if compiled:
            backbone = model.model.base_model
            eager_forward = backbone.forward
            backbone.forward = torch.compile(eager_forward, dynamic=True)
            self.put("features, torch.compile", tokens / seconds(read, self.device), tokens / eager)
            backbone.forward = eager_forward

    def steps(self, name: str, policy: Policy, questions: Sequence[Question], micro_batches: int = 1) -> None:
        """Seconds of an optimiser step, without the first one."""
        graph = AgentGraph([Constant(letter) for letter in "ABCDABCD"], MajorityVote())
        sizes, steps = self.sizes, self.sizes.steps
        accelerator = Accelerator(cpu=self.device.type == "cpu", mixed_precision="bf16")
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        config = TrainConfig(
            num_iterations=2 + steps, batch_size=sizes.batch_size, gradient_accumulation_steps=micro_batches,
            estimator="exact", mixed_precision="bf16",
        )  # fmt: skip
        times = []
        for _ in range(REPEATS):
            runner = Stopwatch(graph, self.device, (micro_batches, micro_batches * (1 + steps)))
            train(policy, graph, questions[: sizes.batch_size], config, runner=runner, accelerator=accelerator)
            accelerator.free_memory()
            times.append((runner.stamps[1] - runner.stamps[0]) / steps)
        step = statistics.median(times)
        self.put(f"step, {name}", step)
        if isinstance(policy, TunedEdgePolicy) and self.device.type == "cuda":
            self.put(f"peak memory, {name}", torch.cuda.max_memory_allocated() / 1e9)
        # Forward 2, backward 2 for what goes through, and 2 more for the weights' own gradient.
        of_weights = {"lora": 4, "full": 6}.get(name)
        if of_weights and isinstance(policy, TunedEdgePolicy):
            ids = policy.encode(questions[: sizes.batch_size])
            weights = sum(p.numel() for n, p in policy.language_model.named_parameters() if "embed_tokens" not in n)
            self.put_share(f"step, {name}", of_weights * int((ids >= 0).sum()) * weights, step)


def real_run(folder: str, bench: Bench) -> None:
    """The questions that come with dynagent, SmolLM2 as edge LLM and as the agents'."""
    with tempfile.TemporaryDirectory() as output:
        os.environ["DYNAGENT_CACHE"] = output  # so that every answer is computed
        config = RunConfig(
            dataset="sample", edge_llm=folder, agent_llm=folder, output_dir=output, eval_limit="all",
            mixed_precision="bf16",
        )  # fmt: skip
        begun = time.perf_counter()
        run = run_experiment(config, "make bench-gpu")
        assert run is not None
        bench.put("training run on SmolLM2", time.perf_counter() - begun)
        wirings = RunRecord.load(run / "record.json").metrics["wirings"]
    bench.put("accuracy of that run, learned", wirings["learned, most probable"]["accuracy"].mean)


def measure(shape: str, device_name: str, smollm2: str, compiled: bool) -> list[Row]:
    """All rows; the last on a real training run, where there are weights for it."""
    device, sizes = torch.device(device_name), SIZES[shape]
    bench, questions = Bench(sizes, device), questions_of(sizes.num_texts)
    model = random_model(sizes.shape, device)
    bench.reading(model, questions, compiled)
    with tempfile.TemporaryDirectory() as cache:
        reader = QuestionReader(model, Path(cache) / "features.safetensors")
        graph = AgentGraph([Constant(letter) for letter in "ABCDABCD"], MajorityVote())
        bench.steps("head", EdgePolicy.from_backbone(reader, graph), questions)
        for tune, rows in (("lora", (1, 2)), ("full", (1,))):
            policy = TunedEdgePolicy.from_backbone(reader, graph, tune=tune)
            for micro_batches in rows:
                name = tune if micro_batches == 1 else f"{tune}, {micro_batches} micro-batches"
                try:
                    bench.steps(name, policy, questions, micro_batches)
                except torch.cuda.OutOfMemoryError:
                    print(f"step, {name}: the card's memory is too small; the row stays empty.", flush=True)
            del policy
    if smollm2:
        real_run(smollm2, bench)
    return list(bench.rows.values())


@program
def main(
    shape: Annotated[str, typer.Option(help="of the models: " + ", ".join(SIZES))] = "gemma-2b",
    device: Annotated[str, typer.Option(help="cuda or cpu")] = "cuda",
    smollm2: Annotated[str, typer.Option(help="folder of weights that save_pretrained wrote")] = "",
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="whether to try torch.compile")] = True,
    output: Annotated[str, typer.Option(help="path of the record")] = "results/bench_gpu.json",
) -> None:
    """Measure reading, scoring and training on a GPU: `make bench-gpu`."""
    choose([shape], list(SIZES), "shape")
    choose([device], ("cuda", "cpu"), "device")
    os.environ["TQDM_DISABLE"] = "1"
    found = device == "cpu" or torch.cuda.is_available()
    rows = (
        measure(shape, device, smollm2, compiled) if found else [Row(name, None, unit) for name, unit in ROWS.items()]
    )
    note = "" if found else "There is no CUDA GPU on this machine: nothing was measured, and every value is empty."
    given = {"shape": (shape, "gemma-2b"), "device": (device, "cuda"), "smollm2": (smollm2, "")}
    options = [f"--{name} {value}" for name, (value, default) in given.items() if value != default]
    command = " ".join(["python -m studies.benchmarks.bench_gpu", *options]) if options else "make bench-gpu"
    record = Record.make(
        kind="benchmarks/gpu",
        command=command,
        parameters={"shape": shape, "device": device},
        numbers={"note": note, "rows": [row.to_dict() for row in rows]},
    )
    path = record.save(resolve_path(output))
    print(note or f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
