"""Accuracy against tokens a question."""

from __future__ import annotations

from studies.common.study import INDEX, QWEN_ANSWERS, SMOLLM2_FEATURES, Answer, Study

FRONTIER = Study(
    name="frontier",
    kind="frontier",
    folder="frontier",
    question="What accuracy does a learned wiring give for its tokens, beside votes that cost the same?",
    settings="studies.frontier.measure:settings",
    measure="studies.frontier.measure:measure",
    write="studies.frontier.measure:write",
    record="results/frontier.json",
    inputs=(INDEX, QWEN_ANSWERS, SMOLLM2_FEATURES),
    answers=(
        Answer(
            "On questions in two languages, a wiring that was learned with a cost of tokens spends {} % of the "
            "tokens of a vote of all agents, at a difference in accuracy of {} points.",
            (
                ("languages", "wirings", "dynamic, cost 0.3", "spend"),
                ("languages", "wirings", "dynamic, cost 0.3", "minus full graph"),
            ),
        ),
    ),
)
STUDIES = (FRONTIER,)
