"""Time of an optimiser step in one of several processes on the CPU, one core each; rank 0 prints it.

`studies.benchmarks.bench` starts the processes. The head is trained on cached features; with LoRA the edge LLM,
SmolLM2-135M, is trained too, so that a step reads its questions anew.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator

from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.llm.reading import QuestionReader
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.tuned import TunedEdgePolicy
from dynagent.tasks.multiple_choice import load_questions
from studies.benchmarks.cases import Case, InstantModel

NUM_AGENTS, BATCH_SIZE = 16, 4
STEPS = {"head": 100, "lora": 6}


def main() -> None:
    model_name, accelerator = sys.argv[1], Accelerator(cpu=True)
    torch.set_num_threads(1)
    questions = load_questions("mmlu", "train", limit=64)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        case = Case(InstantModel(), questions, NUM_AGENTS, Path(folder)).prepare()
        for kind, steps in STEPS.items():
            policy = (
                EdgePolicy.from_backbone(case.reader, case.graph)
                if kind == "head"
                else TunedEdgePolicy.from_backbone(QuestionReader.load(model_name), case.graph, tune=kind)
            )
            config = TrainConfig(num_iterations=steps, batch_size=BATCH_SIZE)
            case.runner.moments.clear()
            train(policy, case.graph, questions, config, runner=case.runner, accelerator=accelerator)
            found[kind] = case.runner.milliseconds()
    if accelerator.is_main_process:
        sys.stdout.write(json.dumps(found) + "\n")
    accelerator.end_training()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
