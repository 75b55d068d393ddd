"""What several tests share: agents without a language model, a known world, a tiny backbone, plain references."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import networkx as nx
import pytest
import torch
from torch import Tensor

from dynagent.execution.runner import Runner
from dynagent.graph import AgentGraph
from dynagent.learning.objectives import OBJECTIVES, local_expectation
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.static import StaticEdgePolicy
from dynagent.sampling import sample_dags
from dynagent.team.votes import MajorityVote

EXPECTATIONS = tuple(name for name in OBJECTIVES if not OBJECTIVES[name].takes_readers)


# --- teams -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Knows:
    """An agent that is right on questions of the given kinds, and one option further on all others."""

    kinds: tuple[int, ...] = ()
    reads: bool = False
    name: str = "Knows"
    group: str = "knowing"
    llm: ClassVar[None] = None

    def answer(self, question: Any, reply: None, draw: float) -> int:
        return question.answer if question.kind in self.kinds else (question.answer + 1) % 4


@dataclass(frozen=True)
class Lucky:
    """An agent whose own luck decides: right with the given probability."""

    probability: float
    reads: bool = False
    name: str = "Lucky"
    group: str = "lucky"
    llm: ClassVar[None] = None

    def answer(self, question: Any, reply: None, draw: float) -> int:
        return question.answer if draw < self.probability else (question.answer + 1 + int(draw * 300) % 3) % 4


def chain(num_operations: int, reads: bool = True) -> SimpleNamespace:
    """An agent of several operations."""
    operations = tuple(SimpleNamespace(name=f"step {i}", reads=reads, llm=None) for i in range(num_operations))
    return SimpleNamespace(name="Chain", group="chains", reads=reads, operations=operations)


def readers(num_agents: int) -> AgentGraph:
    """A team whose agents all read, so that every potential edge counts."""
    return AgentGraph([Knows(reads=True)] * num_agents, MajorityVote())


# --- graphs, the plain way -------------------------------------------------------------------------------------


def is_acyclic(adjacency: Tensor) -> bool:
    """[M, M] bool."""
    return nx.is_directed_acyclic_graph(nx.from_numpy_array(adjacency.numpy(), create_using=nx.DiGraph))


def naive_visit(
    graph: AgentGraph, coins: Sequence[bool], order: Sequence[int], decided: Sequence[bool]
) -> tuple[list[bool], list[bool]]:
    """Taken and considered of one graph, edge after edge."""
    drawn = nx.DiGraph()
    drawn.add_nodes_from(range(graph.num_nodes))
    drawn.add_edges_from(graph.fixed_adjacency.nonzero().tolist())
    taken, considered = [False] * graph.num_edges, [False] * graph.num_edges
    for edge in order:
        source, target = graph.potential_edges[edge].tolist()
        if not decided[edge] or nx.has_path(drawn, target, source):
            continue
        considered[edge] = True
        if coins[edge]:
            taken[edge] = True
            drawn.add_edge(source, target)
    return taken, considered


def naive_outcomes(graph: AgentGraph, probs: Tensor, order: Sequence[int]) -> dict[tuple[bool, ...], Tensor]:
    """Every graph that can be drawn and its probability, a plain product of p and 1 - p, given the order."""
    outcomes: dict[tuple[bool, ...], Tensor] = {}
    for coins in product((False, True), repeat=graph.num_edges):
        taken, considered = naive_visit(graph, coins, order, [True] * graph.num_edges)
        factors = [probs[e] if taken[e] else 1 - probs[e] for e in range(graph.num_edges) if considered[e]]
        outcomes[tuple(taken)] = torch.stack(factors).prod()
    return outcomes


@dataclass(frozen=True)
class Enumerated:
    """All O different graphs that `sample_dags` can draw in one order of the visit."""

    taken: Tensor  # [O, E]
    considered: Tensor  # [O, E]
    log_prob: Tensor  # [O]


def enumerate_dags(
    edge_logits: Tensor, graph: AgentGraph, priority: Tensor | None = None, **options: Any
) -> Enumerated:
    """Toss the coins in every way: an edge is proposed by noise 0 and not by noise 1.

    Args:
        edge_logits: [E].
        priority: [E], smaller is visited earlier; without it the order of the potential edges.
    """
    coins = torch.tensor(list(product((0.0, 1.0), repeat=graph.num_edges)))  # [2^E, E]
    priority = torch.arange(graph.num_edges).float() if priority is None else priority
    noise = torch.stack([coins, priority.expand_as(coins)], 1)[None]  # [1, 2^E, 2, E]
    dags = sample_dags(edge_logits[None], graph, noise, **options)
    _, group = dags.taken[0].unique(dim=0, return_inverse=True)
    first = torch.tensor([int((group == g).nonzero()[0]) for g in range(int(group.max()) + 1)])
    return Enumerated(dags.taken[0][first], dags.considered[0][first], dags.log_prob[0][first])


# --- a world whose optimum is known ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ToyQuestion:
    id: str
    kind: int
    answer: int
    text: str = ""
    options: tuple[str, ...] = ("one", "two", "three", "four")

    def render(self) -> str:
        return self.text or f"question {self.id}"


def toy_questions(num_questions: int, share_of_kind_1: float = 0.3) -> list[ToyQuestion]:
    num_ones = round(num_questions * share_of_kind_1)
    return [ToyQuestion(f"q{i}", int(i < num_ones), (7 * i) % 4) for i in range(num_questions)]


def toy_graph() -> AgentGraph:
    """Two agents that know kind 0 and two that know kind 1; nobody reads."""
    return AgentGraph([Knows((0,))] * 2 + [Knows((1,))] * 2, MajorityVote())


class ToyPolicy(EdgePolicy):
    """An edge policy whose features are a question's kind beside numbers that say nothing."""

    def encode(self, questions: Sequence[Any]) -> Tensor:
        rows = []
        for question in questions:
            number = int(question.id[1:])
            rows.append([float(question.kind), (number * 37 % 11) / 11, (number * 53 % 17) / 17])
        return torch.tensor(rows)

    @classmethod
    def for_graph(cls, graph: AgentGraph, **options: Any) -> ToyPolicy:
        return cls(3, graph.num_edges, **options)


def decision_subsets(graph: AgentGraph) -> Tensor:
    """Every choice of edges into the decision: [S, E] bool."""
    into = graph.decision_edges.nonzero().flatten()
    subsets = torch.zeros(2 ** len(into), graph.num_edges, dtype=torch.bool)
    subsets[:, into] = torch.tensor(list(product((False, True), repeat=len(into))))
    return subsets


def utilities_of_subsets(graph: AgentGraph, questions: Sequence[Any]) -> Tensor:
    """Utility of every question under every choice of edges into the decision: [n, S]."""
    adjacency = graph.adjacency(decision_subsets(graph))  # [S, M, M]
    return Runner(graph).run(questions, adjacency.expand(len(questions), -1, -1, -1)).utility


def expected_utility(edge_probs: Tensor, graph: AgentGraph, questions: Sequence[Any]) -> float:
    """Of a team whose agents do not read: over all graphs, exactly. `edge_probs` is [n, E]."""
    subsets = decision_subsets(graph)[:, graph.decision_edges]  # [S, N]
    probs = edge_probs[:, None, graph.decision_edges]  # [n, 1, N]
    weights = torch.where(subsets, probs, 1 - probs).prod(-1)  # [n, S]
    return float((weights * utilities_of_subsets(graph, questions)).sum(1).mean())


def local_expected_utility(
    runner: Runner, questions: Sequence[Any], edge_probs: Tensor, noise: Tensor, cost_weight: float = 0.0
) -> Tensor:
    """What `LocalExpectation` makes of the questions, by the runner: [B]."""
    ballots = runner.ballots(questions, edge_probs.device)
    vote_probs = edge_probs[:, runner.graph.decision_edges]
    expected = local_expectation(vote_probs, ballots.utility, noise)
    return expected - ballots.expected_cost(vote_probs, cost_weight)


# --- a tiny language model ---------------------------------------------------------------------------------------


def save_tiny_backbone(folder: Path, seed: int = 0) -> str:
    """Write a randomly initialised Llama of two layers and a tokenizer of bytes; returns the folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    symbols = ["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(symbols),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        for parameter in model.parameters():  # the usual 0.02 would make all readings nearly equal
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return str(folder)


# --- trainings that several processes repeat -------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def in_two_processes(folder: Path, call: str, ended: Sequence[int] = (0, 0)) -> list[Any]:
    """What a call gives in each of two processes, started as `torchrun` or `accelerate launch` would.

    Args:
        call: an expression that names a function with its module, say "tests.support.toy.train_adapters(...)".
        ended: the exit codes that are expected.
    """
    folder.mkdir(exist_ok=True)
    script = folder / "call.py"
    script.write_text(
        f"import sys, torch, {call.partition('(')[0].rpartition('.')[0]}\n"
        "torch.set_num_threads(1)\n"
        f"torch.save({call}, sys.argv[1])\n"
        "torch.distributed.destroy_process_group()\n"
    )
    paths = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]))
    env = os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    env |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = []
    for rank in ("0", "1"):
        command = [sys.executable, str(script), str(folder / f"{rank}.pt")]
        mine = env | {"RANK": rank, "LOCAL_RANK": rank}
        processes.append(subprocess.Popen(command, env=mine, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert codes == list(ended), errors[0][-3000:] + errors[1][-3000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2) if codes[rank] == 0]


def train_with_every_estimator(accumulate: Sequence[int] = (1,)) -> dict[str, Any]:
    """Rows and weights of 20 steps, by estimator and policy, in one process or in several, in double precision.

    Two estimators are there also in single precision, and with other numbers of micro-batches. The entry "error" is
    that of a batch that several processes cannot share.
    """
    from accelerate import Accelerator

    from dynagent.learning.config import TrainConfig
    from dynagent.learning.loop import train

    questions = toy_questions(30)
    accelerator = Accelerator(cpu=True)
    shared: dict[str, Any] = {"num_iterations": 20, "graphs_per_question": 2, "sparsity": 0.02, "seed": 5}
    results: dict[str, Any] = {"num_processes": accelerator.num_processes}

    def fit(name: str, policy: Any, graph: AgentGraph, config: TrainConfig) -> None:
        history = train(policy, graph, questions, config, accelerator=accelerator)
        results[name] = {"rows": history.rows, "weights": policy.state_dict()}

    for estimator in OBJECTIVES:
        reads = estimator not in EXPECTATIONS
        graph = AgentGraph([Knows((0,), reads=reads), Lucky(0.6), Lucky(0.8, reads=reads)], MajorityVote())
        for kind in (ToyPolicy, StaticEdgePolicy):
            variants = estimator in ("moving_average", "exact")
            for steps in accumulate if variants else (1,):
                config = TrainConfig(estimator=estimator, batch_size=6, gradient_accumulation_steps=steps, **shared)
                name = f"{estimator}/{kind.__name__}" + (f"/{steps}" if steps > 1 else "")
                fit(name, kind.for_graph(graph).double(), graph, config)
            if variants:
                single = TrainConfig(estimator=estimator, batch_size=6, **shared)
                fit(f"{estimator}/{kind.__name__}/float32", kind.for_graph(graph), graph, single)
    try:
        train(StaticEdgePolicy.for_graph(graph), graph, questions, TrainConfig(batch_size=5), accelerator=accelerator)
    except ValueError as error:
        results["error"] = str(error)
    return results


def train_with_checkpoints(path: str, killed_at: int | None = None, **options: Any) -> dict[str, Any]:
    """A training of 12 steps that saves after each; where it is to be killed, every process does it to itself."""
    from accelerate import Accelerator

    from dynagent.learning import checkpoint as checkpoints
    from dynagent.learning.config import TrainConfig
    from dynagent.learning.loop import train

    checkpoints.EVERY, checkpoints.SHARE = 0.0, float("inf")
    accelerator = Accelerator(cpu=True)

    class Killed(Runner):
        num_calls = 0

        def net_utility(self, *arguments: Any) -> Tensor:
            if self.num_calls == killed_at:
                accelerator.wait_for_everyone()
                os.kill(os.getpid(), signal.SIGKILL)
            self.num_calls += 1
            return super().net_utility(*arguments)

    graph = AgentGraph([Knows((0,), reads=True), Lucky(0.6), Lucky(0.8, reads=True)], MajorityVote())
    policy = ToyPolicy.for_graph(graph)
    config = TrainConfig(
        num_iterations=12, estimator="moving_average", batch_size=4, graphs_per_question=2, schedule="cosine", **options
    )
    checkpoint = checkpoints.Checkpoint(Path(path), {"run": "a"})
    runner = Killed(graph)
    history = train(
        policy, graph, toy_questions(30), config, runner=runner, accelerator=accelerator, checkpoint=checkpoint
    )
    return {"rows": history.rows, "resumed": history.num_resumed, "weights": policy.state_dict()}


def error_of(call: Callable[..., Any], *arguments: Any) -> str:
    """The ValueError that a call ends with."""
    with pytest.raises(ValueError) as error:
        call(*arguments)
    return str(error.value)
