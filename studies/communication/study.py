"""What edges between agents earn, in a world and on recorded replies."""

from __future__ import annotations

from studies.common.study import INDEX, SMOLLM2_FEATURES, Answer, Study

REPLIES = "results/recordings/communication/qwen2.5-coder-1.5b-instruct-cc324af070c2-bfloat16.jsonl"

COMMUNICATION = Study(
    name="communication",
    kind="communication",
    folder="communication",
    question="Do agents that read each other answer better than as many tokens of votes alone?",
    settings="studies.communication.measure:settings",
    measure="studies.communication.measure:learn_in_world",
    write="studies.communication.measure:write",
    record="results/communication.json",
    inputs=(INDEX, SMOLLM2_FEATURES, REPLIES),
    answers=(
        Answer(
            "In a world where one agent has a hint that another needs, edges between agents gain {} points of "
            "accuracy, {} % of what is possible. On recorded replies, two voters that hear a sender gain {} "
            "points over votes alone at the same tokens.",
            (
                ("world", "gain of edges between agents"),
                ("world", "share of what edges can gain"),
                ("real", "warm", "wirings", "1 heard by 2", "gain"),
            ),
        ),
    ),
)
STUDIES = (COMMUNICATION,)
