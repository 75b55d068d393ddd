"""Mini Crosswords: policies in a simulated world. What a real model answers is recorded by `answers`."""

from __future__ import annotations

from studies.common.study import Answer, Study

FOLDER = "results/recordings/crosswords"
FEATURES = f"{FOLDER}/smollm2-135m-instruct-b179c9523d0e-bfloat16.safetensors"
REPLIES = f"{FOLDER}/qwen2.5-coder-1.5b-instruct-cc324af070c2-bfloat16.jsonl"
ANSWERS = "results/crosswords_answers.json"

CROSSWORDS = Study(
    name="crosswords",
    kind="crosswords",
    folder="crosswords",
    question="Does a graph that depends on the puzzle solve more words than a static one, and how far is the optimum?",
    settings="studies.crosswords.measure:settings",
    measure="studies.crosswords.measure:measure",
    once="studies.crosswords.measure:optimum",
    write="studies.crosswords.measure:write",
    record="results/crosswords.json",
    inputs=(FEATURES,),
    seeds={"smoke": 2, "laptop": 10},
    answers=(
        Answer(
            "Judged by the agents' own confidence, the best graph for all puzzles solves {} % of the words; with "
            "the best graph for each family of puzzles it is {} % of the terse and {} % of the wordy ones.",
            tuple(
                ("optimum", "judges", "self_judged", "enumerated", family, "words")
                for family in ("all", "terse", "wordy")
            ),
        ),
    ),
)
STUDIES = (CROSSWORDS,)
