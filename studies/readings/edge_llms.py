"""Readings of the questions by other edge LLMs: another pretrained one, and untrained ones of the same shapes.

`make read` fills results/ablations/features. An untrained edge LLM has the shape and the tokenizer of a pretrained one
and the random weights that transformers gives a new model, drawn from a seed that is part of its name. A feature is
kept in eight bits, in steps of a sixteenth of its standard deviation or more where its range asks for it: a file then
takes a third of the space, and what that changes is measured in `model_size`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dynagent.artefacts.sources import Source, combined_sha256, model_folder
from dynagent.llm.local import READOUTS, TransformersModel
from dynagent.llm.reading import QuestionReader, RecordedReader
from dynagent.runs.paths import resolve_path
from dynagent.runs.record import Record
from dynagent.tasks.multiple_choice import Question, load_questions
from studies.common.program import program
from studies.recordings.record import CMMLU, world_questions

FOLDER = "results/ablations/features"
PRETRAINED = ("smollm2-135m-instruct", "gemma-3-270m")
INITS = (0, 1, 2)
CHUNK = 128  # questions that are read and remembered at a time
STEPS_PER_DEVIATION = 16
MMLU = (("mmlu", "train", None), ("mmlu", "test", 500))  # the English half of the mixed questions


def untrained_name(shape: str, seed: int) -> str:
    """The name of an untrained edge LLM of the shape of a pretrained one."""
    return f"{shape}-untrained-{seed}"


def load_untrained(shape: str, seed: int) -> TransformersModel:
    """A model of this shape with the random weights that transformers gives it, and its tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder, source = model_folder(shape)
    with torch.random.fork_rng(devices=[]):  # the weights are drawn from the global generator
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    weights = {name: hashlib.sha256(_bytes(tensor)).hexdigest() for name, tensor in model.state_dict().items()}
    location = f"random weights of the shape of {shape}, torch.manual_seed({seed})"
    name, licence = untrained_name(shape, seed), source.licence
    drawn = Source(name, "builtin", location, None, combined_sha256(weights), licence)
    return TransformersModel(model, AutoTokenizer.from_pretrained(folder), drawn)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def load_edge_llm(name: str) -> TransformersModel:
    """An edge LLM by its name, pretrained or untrained."""
    shape, untrained, seed = name.rpartition("-untrained-")
    return load_untrained(shape, int(seed)) if untrained else TransformersModel.load(name)


def questions_to_read(cmmlu: str) -> list[Question]:
    """The mixed questions of the specialists, then those of the world of ten subjects; each once.

    Args:
        cmmlu: folder of CMMLU in its official layout.
    """
    sets = [load_questions(name, split, limit=limit) for name, split, limit in MMLU]
    sets += [load_questions(name, split, cmmlu, limit) for name, split, limit in CMMLU]
    return list({question.id: question for of in (*sets, world_questions()) for question in of}.values())


def quantized(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whole numbers from -127 to 127, and each feature's step and middle: from [n, 3, H], int8 and twice [3, H].

    >>> steps, step, middle = quantized(torch.randn(100, 3, 8))
    >>> steps.dtype, tuple(step.shape)
    (torch.int8, (3, 8))
    """
    low, high = features.amin(0), features.amax(0)
    step = torch.maximum((high - low) / 254, features.std(0) / STEPS_PER_DEVIATION).clamp(min=1e-12)
    middle = (low + high) / 2
    return ((features - middle) / step).round().clamp(-127, 127).to(torch.int8), step, middle


def feature_arrays(features: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """What a file of features holds: ids [n], and the features [n, 3, H] in eight bits."""
    steps, step, middle = quantized(torch.stack(list(features.values())).float())
    return {
        "ids": np.array(list(features)), "steps": steps.numpy(), "step": step.numpy(), "middle": middle.numpy(),
    }  # fmt: skip


class QuantizedReader(RecordedReader):
    """Features in eight bits, see `feature_arrays`, as a policy reads them."""

    command = "make read ARGS='--cmmlu FOLDER'"

    @staticmethod
    def load(path: Path) -> dict[str, Tensor]:
        with np.load(path) as found:
            features = found["steps"].astype(np.float32) * found["step"] + found["middle"]
            return dict(zip(found["ids"].tolist(), torch.from_numpy(features), strict=True))


def read_and_write(name: str, questions: Sequence[Question], folder: Path) -> Path:
    """Let an edge LLM read the questions and keep its features; what it has read before is remembered."""
    reader = QuestionReader(load_edge_llm(name))
    for start in range(0, len(questions), CHUNK):
        reader.read(questions[start : start + CHUNK])
    stacked = torch.stack([reader.read(questions, readout) for readout in READOUTS], 1)  # [n, 3, H]
    path = folder / f"{reader.identity}.npz"
    record = Record.make(
        kind="readings/features",
        command=f"make read ARGS='--cmmlu FOLDER --models {name}'",
        inputs=[reader.model.source.to_dict()],
    )
    features = {question.id: row for question, row in zip(questions, stacked, strict=True)}
    record.save(path.with_suffix(".json"), feature_arrays(features))
    return path


@program
def main(arguments: list[str] | None = None) -> int:
    """Let other edge LLMs read the questions, and keep their features for replay."""
    parser = argparse.ArgumentParser(prog="python -m studies.readings.edge_llms", description=main.__doc__)
    names = [PRETRAINED[1], *(untrained_name(PRETRAINED[0], seed) for seed in INITS)]
    parser.add_argument("--cmmlu", required=True, help="folder of CMMLU in its official layout")
    parser.add_argument("--models", nargs="+", metavar="NAME", default=names, help="default: " + ", ".join(names))
    parser.add_argument("--output", default=FOLDER, help="default: %(default)s")
    options = parser.parse_args(arguments)
    questions = questions_to_read(options.cmmlu)
    for name in options.models:
        print(read_and_write(name, questions, resolve_path(options.output)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
