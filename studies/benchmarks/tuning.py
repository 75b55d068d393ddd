"""Does it pay to train the edge LLM itself? Head, LoRA and full on the same questions, answers and number of steps.

`make bench-tuning` writes results/tuning.json and prints the table: the known-answer world "mixture" (simulated agents
on MMLU, `dynagent.worlds`), SmolLM2-135M as edge LLM on one CPU core, about 30 minutes. A run that is done is kept
under results/runs/tuning and not repeated.
"""

import argparse
import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dynagent.evaluation.statistics import seed_interval
from dynagent.execution.runner import Runner
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.llm.reading import QuestionReader
from dynagent.policies.base import Policy
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.tuned import TunedEdgePolicy
from dynagent.runs.paths import resolve_path
from dynagent.runs.record import Origin, Record
from dynagent.tasks.multiple_choice import load_questions
from dynagent.worlds.teams import load_world
from dynagent.worlds.world import World
from studies.common.record import place_of, record_path

KIND = "benchmarks/tuning"
BACKBONE = "smollm2-135m-instruct"
RUNS = "results/runs/tuning"
RECIPES = ("head", "lora", "full")
# For full the better of 1e-5 and 1e-4 on seed 100 with half the training questions. For lora 1e-4 and 1e-3 were equal
# there; both were measured on the three seeds, where 1e-3 did harm.
BACKBONE_LEARNING_RATES = {"head": None, "lora": 1e-4, "full": 1e-5}


def readable(world: World, num_per_domain: int) -> World:
    """The world with the texts of its questions, and only so many held-out questions of each domain.

    Its optimum stays what it was: the domains are all that the agents' accuracies depend on, and stay equally common.
    """
    texts = {question.id: question for question in load_questions("mmlu", "test")}
    held_out: dict[str, list[Any]] = {}
    for question in world.eval_questions:
        held_out.setdefault(world.domain(question), []).append(texts[question.id])
    kept = [question for questions in held_out.values() for question in questions[:num_per_domain]]
    return replace(world, train_questions=[texts[q.id] for q in world.train_questions], eval_questions=kept)


def make_policy(tune: str, reader: QuestionReader, world: World, seed: int) -> Policy:
    if tune == "head":
        return EdgePolicy.from_backbone(reader, world.graph, init_seed=seed)
    return TunedEdgePolicy.from_backbone(reader, world.graph, tune=tune, init_seed=seed)


def measure(tune: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One training and what it reached; `seconds` are the training's on the clock, for head with cached features."""
    rate = BACKBONE_LEARNING_RATES[tune] if options.backbone_learning_rate is None else options.backbone_learning_rate
    settings = {"learning_rate": options.learning_rate, "seed": seed}
    if tune != "head":
        settings["backbone_learning_rate"] = rate
    sizes = {"num_train": options.num_train, "num_per_domain": options.num_per_domain, "passes": options.passes}
    digest = hashlib.sha256(json.dumps([tune, settings, sizes], sort_keys=True).encode()).hexdigest()[:8]
    path = resolve_path(RUNS) / f"{tune}-seed{seed}-{digest}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))

    world = readable(
        load_world("mixture", Path(resolve_path("results/recordings")), seed, options.num_train), options.num_per_domain
    )
    config = TrainConfig(**settings)
    config = config.replace(num_iterations=options.passes * config.steps(len(world.train_questions)))
    reader = QuestionReader.load(BACKBONE)
    policy = make_policy(tune, reader, world, config.stream("init"))
    if tune == "head":
        policy.encode(world.train_questions)  # now they are in the cache
    start = time.monotonic()
    history = train(policy, world.graph, world.train_questions, config, runner=Runner(world.graph, seed))
    seconds = time.monotonic() - start
    logits = policy.edge_logits_of(world.eval_questions)[:, world.graph.decision_edges]  # [n, N]
    accuracy = float(world.accuracy((logits >= 0).double(), world.eval_questions).mean())
    sampled = float(world.accuracy(logits.sigmoid(), world.eval_questions).mean())
    visited = min(len(world.train_questions), len(history.rows) * config.batch_size)
    result = {
        "headroom": world.headroom(accuracy),
        "accuracy": accuracy,
        "sampled_headroom": world.headroom(sampled),
        "best_static": world.best_static.accuracy,
        "best_per_domain": world.best_per_domain.accuracy,
        "expected_edges": float(logits.sigmoid().sum(1).mean()),
        "num_steps": len(history.rows),
        "seconds": seconds,
        "num_train_questions": len(world.train_questions),
        "num_eval_questions": len(world.eval_questions),
        "agent_calls": visited * len(world.graph.team),
        "learning_rate": config.learning_rate,
        "backbone_learning_rate": settings.get("backbone_learning_rate"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    return result


def summarise(tune: str, results: list[dict[str, Any]], command: str) -> dict[str, Any]:
    """A row of the record: means over the seeds, and the headroom's interval."""
    row: dict[str, Any] = {"origin": command, "world": "mixture", "recipe": f"tune {tune}"}
    row["headroom"] = seed_interval([result["headroom"] for result in results])
    for name, value in results[0].items():
        is_real = isinstance(value, float)
        row.setdefault(name, sum(result[name] for result in results) / len(results) if is_real else value)
    return row | {"num_seeds": len(results)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--num-train", type=int, default=160, help="training questions")
    parser.add_argument("--num-per-domain", type=int, default=20, help="held-out questions of each of ten subjects")
    parser.add_argument("--passes", type=int, default=1, help="over the training questions")
    parser.add_argument("--learning-rate", type=float, default=TrainConfig().learning_rate, help="of the head")
    parser.add_argument("--backbone-learning-rate", type=float, help=f"for all; else {BACKBONE_LEARNING_RATES}")
    parser.add_argument("--output", default=place_of(KIND).path)
    options = parser.parse_args()
    torch.set_num_threads(1)

    given = []
    for name, value in vars(options).items():
        if value != parser.get_default(name) and name != "output":
            values = value if isinstance(value, list) else [value]
            given += [f"--{name.replace('_', '-')}", *map(str, values)]
    command = "make bench-tuning" + (f" ARGS='{' '.join(given)}'" if given else "")
    rows = []
    print(f"{'recipe':12}{'headroom':>10}{'95 % interval':>18}{'accuracy':>10}{'edges':>7}{'seconds':>9}")
    for tune in options.recipes:
        row = summarise(tune, [measure(tune, seed, options) for seed in options.seeds], command)
        headroom = row["headroom"]
        interval = f"[{headroom.ci_low:.2f}, {headroom.ci_high:.2f}]"
        print(
            f"{row['recipe']:12}{headroom.mean:>10.2f}{interval:>18}{row['accuracy']:>10.3f}"
            f"{row['expected_edges']:>7.2f}{row['seconds']:>9.0f}",
            flush=True,
        )
        rows.append(row)
    record = Record.make(kind=KIND, command=command, seeds=options.seeds, numbers={"rows": rows})
    origin = Origin(**record.model_dump(include=set(Origin.model_fields)))
    record.model_copy(update={"parts": {command: origin}}).save(record_path(KIND, options.output))


if __name__ == "__main__":
    main()
