"""Two real questions and what a trained policy makes of them, for figure 1."""

from __future__ import annotations

from studies.common.study import INDEX, QWEN_ANSWERS, SMOLLM2_FEATURES, Answer, Study

IDEA = Study(
    name="idea",
    kind="idea",
    folder="idea",
    question="What does a trained policy make of two real questions, and what is reading the question worth?",
    settings="studies.idea.measure:settings",
    measure="studies.idea.measure:measure",
    write="studies.idea.measure:write",
    record="results/idea.json",
    inputs=(INDEX, QWEN_ANSWERS, SMOLLM2_FEATURES),
    answers=(
        Answer(
            "Graphs that depend on the question gain {} points of accuracy over a learned static graph.",
            (("differences", "learned, most probable - static, most probable"),),
        ),
    ),
)
STUDIES = (IDEA,)
