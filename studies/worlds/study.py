"""What every recipe learns in worlds whose optimum is known."""

from __future__ import annotations

from studies.common.study import INDEX, SMOLLM2_FEATURES, Answer, Study

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
    answers=(
        Answer(
            "In the world *routing*, where 0 is the best static graph and 1 the best graph of each language, the "
            "default recipe reaches {} and the published one {}.",
            tuple(
                ("rows", {"part": "worlds", "world": "routing", "recipe": recipe}, "headroom")
                for recipe in ("default", "paper")
            ),
            scale=1,
            digits=2,
        ),
    ),
)
STUDIES = (LEARNER,)
