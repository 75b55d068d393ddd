"""What a real language model's teams make of the paper's 20 crosswords: `make record-crosswords`.

Its replies are recorded in results/recordings/crosswords and found there again, so that everything but the recording
needs no model. A recording that is interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch

from dynagent.boards import BoardRunner
from dynagent.config import resolve_path
from dynagent.graph import AgentGraph
from dynagent.llm import Recorded, RecordedAnswers, TransformersModel
from dynagent.llm.features import QuestionReader, save_features
from dynagent.solvers import ReturnAll, brute_force, reflection
from dynagent.tasks.crosswords import load_puzzles

FOLDER = "results/recordings/crosswords"
MODEL = "qwen2.5-coder-1.5b-instruct"
COMMAND = "make record-crosswords"
TOKENS_PER_BATCH = 16_384  # all boards of a wave together: writing is bound by memory, not by arithmetic
# Potential edges of the fixed graphs, by the names that `edge_name` gives them.
ALONE: tuple[str, ...] = ()
CHAIN = ("BruteForce 3 > Greedy 4",)


def team(llm: Any, judge: str = "self_judged") -> AgentGraph:
    """The paper's team: a brute-force agent of three operations and a reflection agent of five."""
    return AgentGraph([brute_force(llm), reflection(llm)], ReturnAll(judge))


def edge_names(graph: AgentGraph) -> list[str]:
    """The potential edges, in order, by operation and number of their nodes: "BruteForce 3 > Greedy 4"."""
    names = [*(f"{node.name} {number}" for number, node in enumerate(graph.nodes[:-1], 1)), "decision"]
    return [f"{names[source]} > {names[target]}" for source, target in graph.potential_edges.tolist()]


def adjacency_of(edges: tuple[str, ...], graph: AgentGraph) -> torch.Tensor:
    """The graph with these potential edges and the fixed ones: [M, M] bool."""
    names = edge_names(graph)
    return graph.adjacency(torch.tensor([name in edges for name in names]))


def recorded_answers(model: str = MODEL) -> RecordedAnswers:
    """The replies on record; a missing one is an error that names the command."""
    found = sorted(resolve_path(FOLDER).glob(f"{model}-*.jsonl"))
    return RecordedAnswers(found[0] if found else resolve_path(FOLDER) / f"{model}.jsonl", COMMAND)


def main(arguments: list[str] | None = None) -> int:
    """Record what the fixed graphs ask a language model about the paper's 20 crosswords, and the features of all."""
    parser = argparse.ArgumentParser(prog="python -m experiments.crosswords_answers", description=main.__doc__)
    parser.add_argument("--agent-llm", default=MODEL, help="alias, hub id or folder; default: %(default)s")
    parser.add_argument("--edge-llm", default="smollm2-135m-instruct", help="default: %(default)s")
    parser.add_argument("--limit", type=int, default=20, help="puzzles; default: all %(default)s")
    options = parser.parse_args(arguments)
    folder = resolve_path(FOLDER)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_features(QuestionReader.load(options.edge_llm), load_puzzles("all")[0], folder)
        model = TransformersModel.load(options.agent_llm)
        model.tokens_per_batch = TOKENS_PER_BATCH
        record(Recorded(model, folder / f"{model.identity}.jsonl"), options.limit)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"dynagent: {error}\n")
        return 2
    return 0


def record(llm: Recorded, limit: int) -> None:
    """Run the fixed graphs on the puzzles, all puzzles of a graph together."""
    puzzles = load_puzzles("test")[0][:limit]
    graph = team(llm)
    runner = BoardRunner(graph)
    for name, edges in fixed_graphs().items():
        started = time.monotonic()
        wired = adjacency_of(edges, graph).expand(len(puzzles), 1, -1, -1)
        words = runner.run(puzzles, wired).scores["oracle"][..., 0].mean()
        usage = llm.usage_of_run()
        sys.stdout.write(f"{name}: {time.monotonic() - started:.0f} s, words {words:.3f}, {usage}\n")
        sys.stdout.flush()


def fixed_graphs() -> dict[str, tuple[str, ...]]:
    """The graphs that are judged on real answers, by name."""
    return {"agents alone": ALONE, "chain": CHAIN}


if __name__ == "__main__":
    sys.exit(main())
