"""What each thing that the released code does changes."""

from __future__ import annotations

from studies.common.study import FOLDER, INDEX, QWEN_ANSWERS, SMOLLM2_FEATURES, Study

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
)
STUDIES = (AS_RELEASED, NO_EFFECT)
