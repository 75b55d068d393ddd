"""Table 2 on recorded answers: a study for every cell."""

from __future__ import annotations

from studies.common.study import INDEX, QWEN_ANSWERS, SMOLLM2_ANSWERS, SMOLLM2_FEATURES, Answer, Study
from studies.table2.cell import Cell
from studies.table2.settings import QWEN, cells

FOLDER = "results/experiments"
ANSWERS = {
    "specialized-paper": (
        Answer(
            "On specialists for English and Chinese, graphs that depend on the question gain {} points of "
            "accuracy over learned static ones by the published recipe.",
            (("metrics", "differences", "dynamic, sampled - static, sampled"),),
        ),
    ),
    "specialized-default": (
        Answer(
            "By our default recipe they gain {} points, and {} points over the vote of all agents.",
            (
                ("metrics", "differences", "dynamic, most probable - static, most probable"),
                ("metrics", "differences", "dynamic, most probable - full graph"),
            ),
        ),
    ),
}


def study_of(cell: Cell) -> Study:
    """The study that trains and evaluates the seeds of a cell."""
    answers = QWEN_ANSWERS if cell.parameters["agent_llm"] == QWEN["agent_llm"] else SMOLLM2_ANSWERS
    return Study(
        name=cell.name,
        kind=f"table2/{cell.name}",
        folder="table2",
        question="How accurate are learned graphs, and how many edges do they have, in this cell of Table 2?",
        settings="studies.table2.settings:settings",
        declared=repr(cell),
        measure="studies.table2.measure:measure",
        write="studies.table2.record:write",
        record=f"{FOLDER}/{cell.name}.json",
        arrays=(f"{FOLDER}/{cell.name}.npz",),
        inputs=(INDEX, answers, SMOLLM2_FEATURES),
        seeds={"smoke": 2, "laptop": cell.num_seeds},
        answers=ANSWERS.get(cell.name, ()),
    )


STUDIES = tuple(study_of(cell) for cell in cells().values())
