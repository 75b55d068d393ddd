"""What a run costs beside its language models, as a table: `make bench`.

Prints the table and writes results/bench.json, results/figures/cost.png and .svg, and the table of goals in
docs/benchmarks.md; five minutes on two cores. Values are medians, with quartiles; what is compared is measured in the
same run, in turn. A goal is about the value. "The released code" was measured on two cores with agents that answer at
once; of a range the middle
is the reference. Only tokens/s, calls, and the steps with LoRA need a real language model:
SmolLM2-135M-Instruct, which is downloaded like anywhere else.

With BENCH_CLOCK=cpu in the environment (and OMP_NUM_THREADS=1) the time is the process's own, for a machine that is
busy with other things; several processes are always timed by the wall clock. The record says which clock it was.
`make bench ARGS="--only tokens"` measures one part anew and keeps the others.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from dynagent.evaluation.evaluate import evaluate
from dynagent.graph import AgentGraph
from dynagent.llm.reading import QuestionReader
from dynagent.llm.store import Recorded
from dynagent.runs.paths import project_root
from dynagent.runs.provenance import code_version, environment, now
from dynagent.runs.record import Code, Environment, Origin, Record
from dynagent.sampling import edge_noise, sample_dags
from dynagent.tasks.multiple_choice import load_questions
from dynagent.team.agents import Truthful
from dynagent.team.votes import MajorityVote
from studies.benchmarks.bare import bare_features, bare_scores, bare_texts, token_count
from studies.benchmarks.cases import Case, CountingModel, InstantModel
from studies.benchmarks.rows import CLOCK, Row, between_marks, exponent, in_turn, markdown, row, seconds, table
from studies.common.program import choose, program
from studies.common.record import load_record, place_of, record_path

ROOT = project_root()
KIND = "benchmarks/costs"

MODEL = "smollm2-135m-instruct"
RELEASED = "the released code"
STATIC_ITERATION = {8: 29.7, 16: 80.5}  # ms by number of agents; its edge LLM comes on top where the policy is dynamic
DRAWING = {8: 2.0, 16: 7.0, 32: 25.0, 64: 120.0, 128: 650.0, 256: 3900.0}  # ms a graph by number of agents
TWO_CLIQUES = 15_500.0  # ms a graph; 10 to 21 s
DYNAMIC_RUN = 263.0  # s for 200 iterations of 16 agents, of which its edge LLM takes 250

# What is decided in an iteration, and with how many graphs a question: the released code draws one.
ITERATIONS: dict[str, dict[str, Any]] = {
    "edges that matter, default recipe": {"estimator": "exact"},
    "edges that matter, one graph": {"estimator": "reinforce", "graphs_per_question": 1},
    "edges that matter, 16 graphs": {"estimator": "leave_one_out", "graphs_per_question": 16},
    "all edges, one graph": {"estimator": "reinforce", "graphs_per_question": 1, "decide": "all"},
    "all edges, 16 graphs": {"estimator": "leave_one_out", "graphs_per_question": 16, "decide": "all"},
}
GRAPHS_A_BATCH = 64


def iterations(folder: Path) -> Iterator[Row]:
    """One iteration, 4 questions a batch: against the number of agents."""
    questions = load_questions("mmlu", "train")
    for num_agents in (4, 8, 16, 32, 64):
        case = Case(InstantModel(), questions, num_agents, folder / str(num_agents)).prepare()
        for line, options in ITERATIONS.items():
            case.train(20, **options)
            goal = "<= 15" if "all" in line else "<= 3"
            yield row(
                f"iteration, {num_agents} agents: {line}",
                case.milliseconds(200 if num_agents <= 16 else 40, **options),
                "ms",
                goal=goal if num_agents == 16 else "",
                reference=STATIC_ITERATION.get(num_agents),
                compared_with=RELEASED if num_agents in STATIC_ITERATION else "",
                against="agents",
                at=num_agents,
                line=line,
            )


def training(folder: Path) -> Iterator[Row]:
    """All of a training, and passes over more and more questions, with everything cached."""
    case = Case(InstantModel(), load_questions("mmlu", "train"), 16, folder / "train").prepare()
    for line, options in ITERATIONS.items():
        case.train(20, **options)
        samples = [seconds(partial(case.train, 200, **options)) for _ in range(5)]
        released = {"reference": DYNAMIC_RUN, "compared_with": f"{RELEASED}, reading anew"}
        yield row(f"200 iterations, dynamic, 8 + 8 agents: {line}", samples, "s", goal="<= 3", **released)
    case = Case(InstantModel(), load_questions("mmlu", "test", limit=4000), 16, folder / "test").prepare()
    policy = case.train("auto", 100)
    for num_questions in (100, 400, 800, 1600, 4000):
        questions, repeats = case.questions[:num_questions], 3
        point = {"against": "questions", "at": num_questions}
        samples = [seconds(partial(case.train, "auto", num_questions)) for _ in range(repeats)]
        reference = STATIC_ITERATION[16] * 200 / 1000 if num_questions == 800 else None
        yield row(
            f"training, one pass over {num_questions:,} questions, cached",
            samples,
            "s",
            reference=reference,
            compared_with=f"{RELEASED}, static" if reference else "",
            line="training, one pass",
            **point,
        )
        evaluation = partial(evaluate, policy, case.graph, questions, runner=case.runner)
        samples = [seconds(evaluation) for _ in range(repeats)]
        yield row(f"evaluation of {num_questions:,} questions, cached", samples, "s", line="evaluation", **point)


def drawing(folder: Path) -> Iterator[Row]:
    """One graph, all edges decided, in a batch of 64 at p = 1/2; and two dense cliques with nothing between them."""
    medians: dict[int, float] = {}
    for num_agents in (8, 16, 32, 64, 128, 256):
        graph = AgentGraph([Truthful(None)] * num_agents, MajorityVote())
        samples = draw(graph, torch.zeros(1, graph.num_edges), repeats=5)
        released = {"reference": DRAWING[num_agents], "compared_with": RELEASED}
        point = {"against": "agents", "at": num_agents, "line": "drawing a graph"}
        goal = "<= 20" if num_agents == 128 else ""
        drawn = row(
            f"drawing one graph of {num_agents} agents, all edges", samples, "ms", goal=goal, **released, **point
        )
        assert drawn.value is not None
        medians[num_agents] = drawn.value
        yield drawn
    yield Row(
        "exponent of drawing's growth with the agents, 8 to 256",
        exponent([*medians], [*medians.values()]),
        "",
        reference=exponent([*DRAWING], [*DRAWING.values()]),
        compared_with=RELEASED,
    )
    graph = AgentGraph([Truthful(None)] * 44, MajorityVote())
    first = graph.potential_edges < 22
    within = (first[:, 0] == first[:, 1]) | graph.decision_edges
    samples = draw(graph, torch.where(within, 20.0, -20.0)[None], repeats=5, order="fixed")
    name = "drawing one graph of two dense cliques, 44 agents"
    yield row(name, samples, "ms", goal="<= 20", reference=TWO_CLIQUES, compared_with=RELEASED)


def draw(graph: AgentGraph, edge_logits: torch.Tensor, repeats: int, order: str = "random") -> list[float]:
    """Milliseconds a graph."""
    generator = torch.Generator().manual_seed(0)

    def one_batch() -> None:
        noise = edge_noise(1, GRAPHS_A_BATCH, graph.num_edges, generator)
        sample_dags(edge_logits, graph, noise, order=order, decide="all")

    return (1000 / GRAPHS_A_BATCH * in_turn([one_batch], repeats)[:, 0]).tolist()


def calls(folder: Path) -> Iterator[Row]:
    """Everything that reaches a language model in 200 iterations with nothing cached, counted where it arrives."""
    case = Case(CountingModel.load(MODEL), load_questions("mmlu", "train", limit=24), 16, folder / "real")
    took = seconds(partial(case.train, 200))
    yield from counted(case, "8 + 8 agents", took)
    agent = {"mode": "text", "reads": True}
    case = Case(InstantModel(), load_questions("mmlu", "train", limit=40), 8, folder / "reading", **agent)
    case.train(50, estimator="leave_one_out", graphs_per_question=4)
    yield from counted(case, "4 + 4 simulated agents that read each other")


def counted(case: Case, what: str, took: float | None = None) -> Iterator[Row]:
    """Calls over distinct calls, and questions read over distinct questions."""
    asked, read = case.model.asked, case.model.read
    generations, forwards = (None, None) if took is None else (6386 / 284, 800 / 284)
    name = f"LLM calls / distinct LLM calls, {what} ({len(set(asked)):,} distinct)"
    yield Row(name, len(asked) / len(set(asked)), "", "== 1", generations, RELEASED if took else "")
    name = f"backbone forwards / distinct questions, {what} ({len(set(read)):,} distinct)"
    yield Row(name, len(read) / len(set(read)), "", "== 1", forwards, RELEASED if took else "")
    if took:
        yield Row(f"200 iterations on {len(case.questions)} questions, nothing cached, {MODEL}", took, "s")


def tokens(folder: Path) -> Iterator[Row]:
    """Features and option scoring beside the same model in a bare loop over length-sorted batches."""
    model = CountingModel.load(MODEL)
    questions = load_questions("mmlu", "train", limit=16)
    requests = [Truthful(None).request(question) for question in questions]
    fresh = iter(range(10**6))

    def features() -> None:
        QuestionReader(model, folder / f"{next(fresh)}.safetensors").read(questions)

    def scores() -> None:
        Recorded(model, folder / f"{next(fresh)}.jsonl").reply(requests)

    texts = [question.render() for question in questions]
    prompts = [str(request.prompt) for request in requests]
    whole = [prompt + option for request, prompt in zip(requests, prompts, strict=True) for option in request.options]
    loops = [
        ("features", features, partial(bare_features, model, texts), token_count(model, texts),
         "a bare loop", ">= 0.95", 7),
        ("option scoring", scores, partial(bare_scores, model, requests), token_count(model, whole),
         "a bare loop with the same shared prefixes", ">= 0.95", 5),
        ("option scoring", scores, partial(bare_texts, model, whole), token_count(model, whole),
         "a bare loop over whole texts", "> 1", 3),
    ]  # fmt: skip
    for what, ours, bare, num_tokens, compared_with, goal, repeats in loops:
        took = in_turn([ours, bare], repeats)  # [repeats, 2]
        rate = torch.tensor(num_tokens / took)
        bare_rate = float(rate[:, 1].median())
        name = f"{what}, tokens/s / {compared_with}"
        yield row(f"{what}, tokens/s", rate[:, 0].tolist(), "1/s", reference=bare_rate, compared_with=compared_with)
        yield row(name, (rate[:, 0] / rate[:, 1]).tolist(), "", goal=goal)


def memory(folder: Path) -> Iterator[Row]:
    """What the caches hold, measured in a process of its own."""
    for mode, shared in (("options", "two kinds of agents share calls"), ("text", "every agent its own call")):
        found = json.loads(printed_by("memory.py", mode))
        name = f"memory of 1,000 questions x 64 agents, {shared}"
        yield Row(f"{name}, cached", found["cached"], "MB", "<= 200")
        yield Row(f"{name}, at its peak", found["peak"], "MB", "<= 200")


def processes(folder: Path) -> Iterator[Row]:
    """An optimiser step, 4 questions, in one and in two processes of one core each."""
    lines = {"head": "the head, features cached", "lora": "LoRA on SmolLM2-135M"}
    for number in (1, 2):
        found = json.loads(printed_by("processes.py", MODEL, number=number))
        for kind, line in lines.items():
            name = f"step of {line}, {number} process{'es' if number > 1 else ''}"
            yield row(name, found[kind], "ms", against="processes", at=number, line=line)


def printed_by(name: str, argument: str, number: int = 1) -> str:
    """What a program beside this one prints, run in so many processes as `torchrun` would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "BENCH_CLOCK": "wall"}
    group = {
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    command = [sys.executable, "-m", f"studies.benchmarks.{Path(name).stem}", argument]
    started = []
    for rank in range(number):
        mine = env | ({**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} if number > 1 else {})
        started.append(subprocess.Popen(command, env=mine, cwd=ROOT, stdout=subprocess.PIPE, text=True))
    try:
        printed = [process.communicate(timeout=600)[0] for process in started]
    finally:  # where one has ended early, the others would wait for it
        for process in started:
            process.kill()
    if any(process.returncode for process in started):
        sys.exit(f"{name} failed: see above.")
    return printed[0].splitlines()[-1]


PARTS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "iterations": iterations,
    "training": training,
    "drawing": drawing,
    "calls": calls,
    "tokens": tokens,
    "memory": memory,
    "processes": processes,
}


def machine() -> Environment:
    """The versions of the packages, and of the machine the processor, its cores, and the memory in GB."""
    found = Environment(**environment())
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    found.hardware["memory_gb"] = round(gigabytes, 1)
    return found


@program
def main(only: Annotated[list[str] | None, typer.Option(help="measure only this part anew")] = None) -> None:
    """Measure what a run costs beside its language models: `make bench`."""
    chosen = choose(only or (), list(PARTS), "part")
    os.environ["TQDM_DISABLE"] = "1"
    path, page = record_path(KIND), ROOT / "docs" / "benchmarks.md"
    record = load_record(KIND) if path.exists() else Record(kind=KIND, command=place_of(KIND).command)
    parts = {part: [one for one in record.numbers.get("rows", []) if one["part"] == part] for part in PARTS}
    for part in chosen:
        found = []
        with tempfile.TemporaryDirectory() as folder:
            for one in PARTS[part](Path(folder)):
                found.append({"part": part} | one.to_dict())
                print(table(found[-1:]), flush=True)
        parts[part], record.parts[part] = found, circumstances(part)
    rows = [one for found in parts.values() for one in found]
    goals = [one["met"] for one in rows if one["met"] is not None]
    print(f"\n{sum(goals)} of {len(goals)} goals met.")
    here = record.model_copy(update={"environment": machine(), "numbers": {"rows": rows}})
    here.save(path)
    from studies.benchmarks.figure import save_cost_figure

    save_cost_figure(here, ROOT / "results" / "figures")
    if new := between_marks(page.read_text(encoding="utf-8"), markdown(rows)):
        page.write_text(new, encoding="utf-8")
    print(f"Written: {path.relative_to(ROOT)}, results/figures/cost.png and the table in {page.relative_to(ROOT)}.")


def circumstances(part: str) -> Origin:
    """When and with what code a part was measured, by which clock, and how many processes wanted a core before."""
    return Origin(
        command=f"{place_of(KIND).command} ARGS='--only {part}'",
        parameters={"clock": CLOCK},
        code=Code(**code_version()),
        timing={"saved_at": now(), "load_before": LOAD},
    )


LOAD = round(os.getloadavg()[0], 1)

if __name__ == "__main__":
    sys.exit(main())
