"""The cells of Table 2 and of what belongs to it: which team, which questions, which recipe, how many seeds.

A cell is one set of a run's parameters. Every seed of it trains a dynamic and a static policy on the same questions and
the same answers, so that the two can be compared question by question. All answers are replayed from recordings.

`RunConfig` is imported where it is called: it loads torch, and `make stale` reads the names of the cells without that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dynagent.runs.presets import PRESETS
from studies.table2.cell import Cell

if TYPE_CHECKING:
    from dynagent.runs.config import RunConfig
    from studies.common.study import Study

NUM_SEEDS_OF_CURVES = 10  # a curve shows a trend over its points; every point by itself needs less
QWEN = {"data_source": "recordings", "agent_llm": "qwen2.5-coder-1.5b-instruct", "agent_mode": "letter"}
SMOLLM2 = {"data_source": "recordings", "agent_llm": "smollm2-135m-instruct", "agent_mode": "options"}

_PUBLISHED = (
    "num_iterations", "graphs_per_question", "estimator", "learning_rate", "readout", "initial_probability", "order",
    "decide", "standardize", "head_init",
)  # fmt: skip
# How a policy is made and trained. The published recipe is the one of the preset "paper", on recorded answers.
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {name: PRESETS["paper"][name] for name in _PUBLISHED} | {"bias_speed": 1.0},
    "default": {},
}
# The published evaluation draws graphs for each question; ours takes the most probable one.
JUDGED_ON = {"paper": "sampled", "default": "most probable"}
READOUTS = {"paper": "last_hidden", "default": "mean_hidden"}  # each recipe's own

ADVERSARIES = ("constant", "least_likely", "asked", "colluding")
MOST_ADVERSARIES = 15
TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1.0)
TEMPERATURE = 0.2  # of every other cell, the default of a run
SPARSITIES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
PAPER_SPARSITY = 0.05

# Teams and questions of the paper's two experiments, and of the notebooks on them.
ADVERSARIAL = {"dataset": "mmlu", "team": "adversarial", "num_truthful": 8, "num_adversarial": 8}
SPECIALIZED = {"dataset": "mixed", "team": "languages", "num_per_domain": 4, "adversary": "asked"}
_TEAMS: dict[str, dict[str, Any]] = {
    "adversarial": ADVERSARIAL | {"adversary": "constant"},
    "specialized": SPECIALIZED,
    "edge reduction": SPECIALIZED | {"sparsity": PAPER_SPARSITY},
}
# The published specialists are two language models, truthful both.
_TWO_MODELS = {
    "team": "two_models",
    "second_agent_llm": "vivo-ai/BlueLM-7B-Chat",
    "adversary": "least_likely",  # nobody misleads; the preset's is for its own team
    "eval_split": "test",
}


def make_cell(name: str, recipe: str, parameters: Mapping[str, Any], **options: Any) -> Cell:
    """A cell from a recipe of `RECIPES` and the parameters beside it."""
    return Cell(name, recipe, RECIPES[recipe] | dict(parameters), **options)


def cells() -> dict[str, Cell]:
    """All cells by their name; those that the paper's table needs come first."""
    found = []
    for recipe in RECIPES:
        found += [
            make_cell(f"adversarial-{adversary}-{recipe}", recipe, QWEN | ADVERSARIAL | {"adversary": adversary},
                 with_controls=adversary == "constant")
            for adversary in ADVERSARIES
        ]  # fmt: skip
        found.append(make_cell(f"specialized-{recipe}", recipe, QWEN | SPECIALIZED, with_controls=True))
        found += [
            make_cell(sparsity_cell(recipe, sparsity), recipe, QWEN | SPECIALIZED | {"sparsity": sparsity},
                 with_controls=sparsity == PAPER_SPARSITY)
            for sparsity in SPARSITIES[1:]
        ]  # fmt: skip
        found += [
            make_cell(readout_cell(recipe, readout), recipe, QWEN | SPECIALIZED | {"readout": readout})
            for readout in ("last_hidden", "mean_hidden", "mean_embedding")
            if readout != READOUTS[recipe]
        ]
        found.append(
            make_cell(f"adversarial-smollm2-{recipe}", recipe, SMOLLM2 | ADVERSARIAL | {"adversary": "least_likely"})
        )
    found += [
        make_cell(temperature_cell(temperature), "default", QWEN | SPECIALIZED | {"temperature": temperature})
        for temperature in TEMPERATURES
        if temperature_cell(temperature) != "specialized-default"
    ]
    found += [
        make_cell(adversaries_cell(number), "default", QWEN | _TEAMS["adversarial"] | {"num_adversarial": number},
             num_seeds=NUM_SEEDS_OF_CURVES)
        for number in range(MOST_ADVERSARIES + 1)
        if adversaries_cell(number) != "adversarial-constant-default"
    ]  # fmt: skip
    return {cell.name: cell for cell in found}


def settings(study: Study, preset: str) -> list[Cell]:
    """The one cell of a record."""
    return [cells()[study.name]]


def sparsity_cell(recipe: str, sparsity: float) -> str:
    """The cell of the specialized team with this weight of the sparsity penalty."""
    return f"edge-reduction-{sparsity:g}-{recipe}" if sparsity else f"specialized-{recipe}"


def readout_cell(recipe: str, readout: str) -> str:
    """The cell of the specialized team whose edge LLM is read in this way."""
    return f"specialized-{recipe}" if readout == READOUTS[recipe] else f"specialized-{readout}-{recipe}"


def temperature_cell(temperature: float) -> str:
    """The cell of the specialized team whose agents draw at this temperature."""
    return "specialized-default" if temperature == TEMPERATURE else f"specialized-temperature-{temperature:g}"


def adversaries_cell(number: int) -> str:
    """The cell with so many constant adversaries beside eight truthful agents."""
    return "adversarial-constant-default" if number == 8 else f"adversaries-{number:02}"


def notebook_config(team: str, namespace: Mapping[str, Any]) -> RunConfig:
    """The run of a notebook on one of the paper's teams, from the notebook's `globals()`.

    The presets "smoke" and "laptop" replay recorded answers; "paper" asks the published models.

    Args:
        team: "adversarial", "specialized" or "edge reduction".
    """
    from dynagent.runs.config import RunConfig

    published = {} if team == "adversarial" else _TWO_MODELS
    models = published if namespace["preset"] == "paper" else QWEN
    given = {name: value for name, value in namespace.items() if value is not None}
    return RunConfig.from_notebook(_TEAMS[team] | models | given)
