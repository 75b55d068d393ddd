"""What each thing that the released code does changes."""

from __future__ import annotations

from studies.common.study import FOLDER, INDEX, QWEN_ANSWERS, SMOLLM2_FEATURES, Answer, Study

HEADER = f"{FOLDER}/header.json"

AS_RELEASED = Study(
    name="as_released",
    kind="released/as_released",
    folder="released",
    question="Which behaviours of the released code make its numbers?",
    settings="studies.released.measure:settings",
    measure="studies.released.training:measure",
    write="studies.released.measure:write",
    record=f"{FOLDER}/as_released.json",
    inputs=(INDEX, QWEN_ANSWERS, SMOLLM2_FEATURES, HEADER),
    seeds_together=True,
    answers=(
        Answer(
            "All behaviours together change the gain of dynamic over static graphs by {} points on the "
            "adversarial team and by {} on the specialized one.",
            tuple(
                ("rows", {"task": task, "recipe": "paper", "kind": "all"}, "dynamic - static", "effect")
                for task in ("adversarial", "specialized")
            ),
        ),
    ),
)
NO_EFFECT = Study(
    name="no_effect",
    kind="released/no_effect",
    folder="released",
    question="Do the behaviours that concern no vote leave every edge into the decision as it is, to the bit?",
    settings="studies.released.no_effect:settings",
    measure="studies.released.no_effect:measure",
    write="studies.released.no_effect:write",
    record=f"{FOLDER}/no_effect.json",
    inputs=(INDEX, QWEN_ANSWERS, SMOLLM2_FEATURES),
    seeds_together=True,
    answers=(
        Answer(
            "Deciding edges between agents changes no probability of an edge into the decision by more than {}.",
            (
                (
                    "exact",
                    {"kind": "alone", "switch": "1 edges between agents are decided"},
                    "dynamic",
                    "largest change of a probability",
                ),
            ),
            scale=1,
            digits=0,
        ),
    ),
)
STUDIES = (AS_RELEASED, NO_EFFECT)
