"""The header row of a CMMLU file, which the released code asks as a question: its reading by the edge LLM.

`python -m studies.released.header` reads it once; results/ablations/header.json keeps the reading.
"""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor

from dynagent.llm.local import READOUTS
from dynagent.llm.reading import QuestionReader
from dynagent.runs.config import RunConfig
from dynagent.runs.paths import resolve_path
from dynagent.tasks.multiple_choice import Question
from studies.common.program import program

PATH = "results/ablations/header.json"


def header_question() -> Question:
    """What becomes of the columns' names where they are read as a record; its answer, "Answer", is no letter."""
    return Question(text="Question", options=("A", "B", "C", "D"), answer=0, subject="header", language="zh")


def read_header(identity: str) -> dict[str, Tensor]:
    """The edge LLM's reading of the header row: readout -> [H].

    Raises:
        ValueError: if it is not on record, or another model's.
    """
    path = resolve_path(PATH)
    again = "`python -m studies.released.header` records it"
    if not path.exists():
        raise ValueError(f"The reading of the header row {path} is missing: {again}.")
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["edge_llm"] != identity:
        raise ValueError(f"{path} is a reading by {found['edge_llm']}, not by {identity}: {again}.")
    return {name: torch.tensor(found[name]) for name in READOUTS}


@program
def main() -> None:
    """Record the edge LLM's reading of a header row."""
    reader = QuestionReader.load(RunConfig().edge_llm)
    states = {name: reader.read([header_question()], name)[0].half().float().tolist() for name in READOUTS}
    path = resolve_path(PATH)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(name) + ": " + json.dumps(value) for name, value in ({"edge_llm": reader.identity} | states).items()
    ]
    path.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    sys.exit(main())
