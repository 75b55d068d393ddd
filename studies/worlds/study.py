"""What every recipe learns in worlds whose optimum is known."""

from __future__ import annotations

from studies.common.study import INDEX, SMOLLM2_FEATURES, Study

LEARNER = Study(
    name="learner",
    kind="worlds",
    folder="worlds",
    question="How much of the headroom over the best static graph does each recipe learn, and from how many questions?",
    settings="studies.worlds.settings:measured_settings",
    measure="studies.worlds.measure:measure",
    write="studies.worlds.measure:write",
    record="results/learner.json",
    inputs=(INDEX, SMOLLM2_FEATURES),
    seeds={"smoke": 2, "laptop": 10},
)
STUDIES = (LEARNER,)
