"""What a real language model's teams make of the paper's 20 crosswords: `make record-crosswords`.

Its replies are recorded in results/recordings/crosswords and found there again; a recording that is interrupted goes
on where it stopped. What came out is written to results/crosswords_answers.json; with `--replay` from the replies on
record alone, without a model.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from torch import Tensor

from dynagent.artefacts.sources import file_sha256
from dynagent.execution.boards import BoardRunner
from dynagent.graph import AgentGraph
from dynagent.llm.local import TransformersModel
from dynagent.llm.reading import QuestionReader, save_features
from dynagent.llm.replay import RecordedAnswers, recorded_file
from dynagent.llm.store import Recorded
from dynagent.runs.paths import resolve_path
from dynagent.runs.record import Record
from dynagent.sampling import most_probable_dags
from dynagent.tasks.crosswords import load_puzzles
from dynagent.team.crosswords import MAX_NEW_TOKENS, ReturnAll, brute_force, reflection
from studies.common.program import program
from studies.common.record import load_record, place_of, record_path

FOLDER = "results/recordings/crosswords"
WORLD = "crosswords"  # the record that the learned graphs come from
KIND = "crosswords/answers"
LEARNED_IN = "default, self_judged"  # cell of the world, and there its first seed
MODEL = "qwen2.5-coder-1.5b-instruct"
TOKENS_PER_BATCH = 16_384  # all boards of a wave together
# Potential edges of the graphs that nobody learned, by the names that `edge_names` gives them.
ALONE: tuple[str, ...] = ()
CHAIN = ("BruteForce 3 > Greedy 4",)


def team(llm: Any, judge: str = "self_judged") -> AgentGraph:
    """The paper's team: a brute-force agent of three operations and a reflection agent of five."""
    return AgentGraph([brute_force(llm), reflection(llm)], ReturnAll(judge))


def edge_names(graph: AgentGraph) -> list[str]:
    """The potential edges, in order, by operation and number of their nodes: "BruteForce 3 > Greedy 4"."""
    names = [*(f"{node.name} {number}" for number, node in enumerate(graph.nodes[:-1], 1)), "decision"]
    return [f"{names[source]} > {names[target]}" for source, target in graph.potential_edges.tolist()]


def adjacency_of(edges: tuple[str, ...], graph: AgentGraph) -> Tensor:
    """The graph with these potential edges and the fixed ones: [M, M] bool."""
    names = edge_names(graph)
    return graph.adjacency(torch.tensor([name in edges for name in names]))


def learned_probs(policy: str) -> Tensor:
    """Edge probabilities of the 20 puzzles, as the world's first seed has learned them: [n, E]."""
    return torch.tensor(load_record(WORLD).numbers["cells"][LEARNED_IN][0][policy]["edge_probs"])


def fixed_graphs(graph: AgentGraph) -> dict[str, Tensor]:
    """The graphs that are judged on real answers, by name: for each of the 20 puzzles, [n, 1, M, M] bool."""
    num_puzzles = len(load_puzzles("test")[0])
    graphs = {
        name: adjacency_of(edges, graph).expand(num_puzzles, 1, -1, -1)
        for name, edges in (("agents alone", ALONE), ("chain", CHAIN))
    }
    for policy in ("static", "dynamic"):
        logits = learned_probs(policy).clamp(1e-4, 1 - 1e-4).logit()
        graphs[f"learned, {policy}"] = most_probable_dags(logits, graph).adjacency
    return graphs


def recorded_answers(model: str = MODEL) -> RecordedAnswers:
    """The replies on record; a missing one is an error that names the command."""
    return RecordedAnswers(recorded_file(resolve_path(FOLDER), "agent", model), place_of(KIND).command)


def run_graphs(llm: Any) -> tuple[dict[str, Any], BoardRunner]:
    """Every graph on all puzzles: scores by both judges, runs of operations, and calls and tokens up to it."""
    graph = team(llm)
    runner, results = BoardRunner(graph), {}
    puzzles = load_puzzles("test")[0]
    for name, adjacency in fixed_graphs(graph).items():
        outcome = runner.run(puzzles, adjacency)
        results[name] = {
            "scores": {
                judge: scores[:, 0].double().numpy().round(4).tolist() for judge, scores in outcome.scores.items()
            },
            "num_runs": outcome.num_runs[:, 0].tolist(),
            "potential_edges": (adjacency & ~graph.fixed_adjacency).sum((1, 2, 3)).tolist(),
            "usage_so_far": llm.usage_of_run(),
        }
    return results, runner


@program
def main(arguments: list[str] | None = None) -> int:
    """Run fixed graphs of a language model's agents on the paper's 20 crosswords, and record every reply."""
    parser = argparse.ArgumentParser(prog="python -m studies.crosswords.answers", description=main.__doc__)
    parser.add_argument("--agent-llm", default=MODEL, help="alias, hub id or folder; default: %(default)s")
    parser.add_argument("--edge-llm", default="smollm2-135m-instruct", help="default: %(default)s")
    parser.add_argument("--features-only", action="store_true", help="record the edge LLM's features and nothing else")
    parser.add_argument("--replay", action="store_true", help="load no model: all replies have to be on record")
    parser.add_argument("--output", default=place_of(KIND).path, help="default: %(default)s")
    options = parser.parse_args(arguments)
    folder = resolve_path(FOLDER)
    llm: Recorded | RecordedAnswers
    if options.replay:
        llm = recorded_answers(options.agent_llm)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        save_features(QuestionReader.load(options.edge_llm), load_puzzles("all")[0], folder)
        if options.features_only:
            return 0
        model = TransformersModel.load(options.agent_llm)
        model.tokens_per_batch = TOKENS_PER_BATCH
        llm = Recorded(model, folder / f"{model.identity}.jsonl")
    results, _ = run_graphs(llm)
    make_record(llm.identity, results).save(record_path(KIND, options.output))
    return 0


def make_record(agent_llm: str, results: dict[str, Any]) -> Record:
    """What the graphs made of the puzzles on this language model, and where the graphs were learned."""
    recording, puzzles = f"{FOLDER}/{agent_llm}.jsonl", load_puzzles("test")[0]
    files = {agent_llm: recording, WORLD: place_of(WORLD).path}
    return Record.make(
        kind=KIND,
        command=place_of(KIND).command,
        parameters={
            "agent_llm": agent_llm,
            "max_new_tokens": MAX_NEW_TOKENS,
            "learned_in": {"cell": LEARNED_IN, "seed": 0},
        },
        seeds=[0],
        inputs=[
            {"name": name, "kind": "record", "location": file, "sha256": file_sha256(resolve_path(file))}
            for name, file in files.items()
        ],
        questions={"evaluation": {"n": len(puzzles)}},
        numbers={"puzzles": [puzzle.id for puzzle in puzzles], "graphs": results},
    )


if __name__ == "__main__":
    sys.exit(main())
