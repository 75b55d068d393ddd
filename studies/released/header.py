"""The header row of a CMMLU file, which the released code asks as a question: its reading by the edge LLM.

`python -m studies.released.header` reads it once; results/ablations/header.json keeps the reading.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from dynagent.llm.local import READOUTS
from dynagent.llm.reading import QuestionReader
from dynagent.runs.config import RunConfig
from dynagent.runs.record import Record
from dynagent.tasks.multiple_choice import Question
from studies.common.record import load_record, place_of, record_path

KIND = "released/header"


def header_question() -> Question:
    """What becomes of the columns' names where they are read as a record; its answer, "Answer", is no letter."""
    return Question(text="Question", options=("A", "B", "C", "D"), answer=0, subject="header", language="zh")


def read_header(identity: str) -> dict[str, Tensor]:
    """The edge LLM's reading of the header row: readout -> [H].

    Raises:
        ValueError: if it is not on record, or another model's.
    """
    record = load_record(KIND)
    read_by = record.parameters["edge_llm"]
    if read_by != identity:
        path, command = record_path(KIND), place_of(KIND).command
        raise ValueError(f"{path} is a reading by {read_by}, not by {identity}: `{command}` records it.")
    return {name: torch.tensor(record.numbers[name]) for name in READOUTS}


def main() -> int:
    """Record the edge LLM's reading of a header row."""
    reader = QuestionReader.load(RunConfig().edge_llm)
    states = {name: reader.read([header_question()], name)[0].half().float().tolist() for name in READOUTS}
    record = Record.make(
        kind=KIND,
        command=place_of(KIND).command,
        parameters={"edge_llm": reader.identity},
        inputs=[reader.model.source.to_dict()],
        numbers=states,
    )
    print(record.save(record_path(KIND)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
