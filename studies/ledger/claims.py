"""Every number that the paper prints, beside ours: `make claims` writes results/claims.json and results/claims.md.

Everything is read from the records of `make experiments` and `make ablations`. A row has the paper's number, ours by
the published recipe, and a verdict; the same by our default recipe stands in the row's "default".
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Annotated, Any

import numpy as np
import typer

from dynagent.artefacts.downloads import write_file
from dynagent.artefacts.sources import file_sha256
from dynagent.evaluation.statistics import Estimate, mean_interval, seed_interval
from dynagent.runs.presets import PRESETS
from dynagent.runs.record import Input, Record
from studies.common.numbers import geometric_mean, plain
from studies.common.program import program
from studies.common.record import load_record, place_of, record_path
from studies.common.study import FOLDER as ABLATIONS
from studies.common.tables import chosen, only
from studies.ledger.markdown import as_markdown
from studies.ledger.verdicts import direction, judge, judge_level
from studies.table2.record import FOLDER as CELLS_FOLDER
from studies.table2.record import CellRecord
from studies.table2.settings import JUDGED_ON, PAPER_SPARSITY, readout_cell, sparsity_cell

WHY_NO_CROSSWORDS = "not run: needs a GPU (preset paper of notebooks/crosswords.ipynb)"
CELLS: dict[str, Callable[[str], str]] = {
    "Adversarial": "adversarial-constant-{}".format,
    "Specialized": "specialized-{}".format,
    "Edge reduction": partial(sparsity_cell, sparsity=PAPER_SPARSITY),
}
# Accuracy in %, and the second number of each part of the table: static, then dynamic.
TABLE_2 = {
    ("Crosswords", "accuracy"): (20.0, 20.4),
    ("Adversarial", "accuracy"): (44.6, 48.6),
    ("Adversarial", "ratio"): (1.52, 2.73),
    ("Specialized", "accuracy"): (44.7, 50.3),
    ("Specialized", "edges"): (5.01, 4.38),
    ("Edge reduction", "accuracy"): (42.1, 52.4),
    ("Edge reduction", "edges"): (2.60, 2.72),
}
POLICIES = ("static", "dynamic")
COMPARED = ("mean_embedding", "last_hidden")  # readouts, of the paper's ablation
ABLATED = ("readings/embedding_ablation", "released/as_released")  # records of ours
HALF_THE_EDGES = 4.0  # of eight agents: where the training starts, in the paper


@dataclass(frozen=True)
class Finding:
    """Our number for a claim, and the effect on which it is judged (none for a bare level).

    Attributes:
        effect: what the effect is, the paper's, ours, and its value if there were none.
        told: the same gain of an oracle that knows who is truthful: about what these agents allow at most.
    """

    value: Estimate
    record: CellRecord
    effect: tuple[str, float, Estimate, float] | None = None
    told: Estimate | None = None


def models_of(record: CellRecord) -> str:
    """Whether a record's language models are the paper's: "same" or "other"."""
    names = ("edge_llm", "agent_llm")
    same = all(record.record.parameters[name] == PRESETS["paper"][name] for name in names)
    return "same" if same else "other"


def in_percent(estimate: Estimate) -> Estimate:
    return Estimate(100 * estimate.mean, 100 * estimate.ci_low, 100 * estimate.ci_high, estimate.n)


def change(one: CellRecord, of_one: str, other: CellRecord, of_other: str) -> Estimate:
    """Difference of a number that each seed gives, paired by seed."""
    return seed_interval(np.subtract(one.numbers["per_seed"][of_one], other.numbers["per_seed"][of_other]).tolist())


class Findings:
    """Our numbers by one recipe, read from the records in a folder."""

    def __init__(self, recipe: str, folder: str) -> None:
        self.recipe = recipe
        self._load = partial(CellRecord.load, folder=folder)

    def cell(self, part: str) -> CellRecord:
        return self._load(CELLS[part](self.recipe))

    def table(self, part: str, column: str, policy: str) -> Finding:
        """A cell of Table 2."""
        record, printed = self.cell(part), dict(zip(POLICIES, TABLE_2[part, column], strict=True))
        if column == "accuracy":
            return Finding(in_percent(record.accuracy(f"{policy}, {JUDGED_ON[self.recipe]}")), record)
        if column == "ratio":
            ratio = geometric_mean(record.numbers["per_seed"][f"{policy}: ratio"])
            return Finding(ratio, record, ("more than 1", printed[policy], ratio, 1.0))
        name, value = f"{policy}: expected edges", record.value(f"{policy}: expected edges")
        if part == "Edge reduction":
            before = self.cell("Specialized")
            paper = printed[policy] - dict(zip(POLICIES, TABLE_2["Specialized", "edges"], strict=True))[policy]
            return Finding(
                value, record, ("change by the sparsity loss", paper, change(record, name, before, name), 0.0)
            )
        if policy == "static":
            return Finding(value, record, ("more than half of the 8 edges", printed[policy], value, HALF_THE_EDGES))
        fewer = change(record, name, record, "static: expected edges")
        return Finding(value, record, ("dynamic - static", printed["dynamic"] - printed["static"], fewer, 0.0))

    def gain(self, part: str) -> Finding:
        """Accuracy of dynamic minus static, in points, paired on the same questions."""
        record, graphs = self.cell(part), JUDGED_ON[self.recipe]
        gained = in_percent(record.difference(f"dynamic, {graphs}", f"static, {graphs}"))
        static, dynamic = TABLE_2[part, "accuracy"]
        told = in_percent(record.difference("truthful agents only (told)", f"static, {graphs}"))
        return Finding(gained, record, ("dynamic - static, points", dynamic - static, gained, 0.0), told)

    def ablation(self) -> Finding:
        """How much the probabilities vary over questions with mean embeddings, over the same with the hidden state."""
        embedding, hidden = (self._load(readout_cell(self.recipe, name)) for name in COMPARED)
        name = "dynamic: deviation over questions"
        ratio = geometric_mean(np.divide(embedding.numbers["per_seed"][name], hidden.numbers["per_seed"][name]))
        return Finding(ratio, embedding, ("half of that with the last hidden state, or less", 0.5, ratio, 1.0))


def rows(folder: str) -> list[dict[str, Any]]:
    """The ledger: the 14 cells of Table 2, the two headline gains, the ablation's finding, and what follows."""
    ledger = [
        row(
            f"{part} {column}, {policy}",
            paper,
            partial(Findings.table, part=part, column=column, policy=policy),
            folder,
        )
        if part in CELLS
        else crosswords(f"{part} {column}, {policy}", paper, policy)
        for (part, column), numbers in TABLE_2.items()
        for policy, paper in zip(POLICIES, numbers, strict=True)
    ]
    gains = {
        "Gain over static on MMLU + CMMLU: nearly 6 points": ("Specialized", 5.6, True),
        "Gain over static with the sparsity loss: more than 10 points": ("Edge reduction", 10.3, True),
        "Gain over static against adversaries (follows from the table)": ("Adversarial", 4.0, False),
    }
    ledger += [
        row(claim, paper, partial(Findings.gain, part=part), folder, printed)
        for claim, (part, paper, printed) in gains.items()
    ]
    claim = "Ablation: with mean embeddings the probabilities hardly depend on the input"
    return [*ledger, row(claim, "hardly", Findings.ablation, folder)]


def ablation_rows(folder: str) -> list[dict[str, Any]]:
    """What follows from the paper's numbers and is measured by the ablations."""
    embedding, released = (load_record(kind, folder) for kind in ABLATED)
    scales = {"paper": ("as large as the last hidden state", 1e-4), "default": ("standardized, both", 0.03)}
    of_team = chosen(embedding.numbers["ratios"], task="specialized")
    ratios = {
        recipe: only(of_team, recipe=recipe, embeddings=name, learning_rate=rate)["ratio"]
        for recipe, (name, rate) in scales.items()
    }
    hardly = ("half of that with the last hidden state, or less", 0.5, 1.0)
    found = [
        ablation_row("Ablation at equal scale: embeddings as large as hidden states (published recipe), or both "
                     "standardized (default)", "hardly", hardly, ratios, embedding)
    ]  # fmt: skip
    garbled = "with 5 % of replies unparsable, one of which voids the vote"
    cases = (("all replies parsable", 0.0, "no vote"), (garbled, 0.05, "voids"))
    accuracy = [TABLE_2[part, "accuracy"] for part in ("Specialized", "Edge reduction")]
    for (index, policy), (name, rate, rule) in product(enumerate(POLICIES), cases):
        change = accuracy[1][index] - accuracy[0][index]
        of_case = chosen(released.numbers["sparsity"], rate=rate, policy=policy)
        gains = {recipe: in_percent(only(of_case, recipe=recipe)[rule]["gain"]) for recipe in JUDGED_ON}
        effect = ("with - without the sparsity loss, points", change, 0.0)
        claim = f"Change of {policy} accuracy by the sparsity loss (follows from the table), {name}"
        found.append(ablation_row(claim, round(change, 1), effect, gains, released))
    return found


def ablation_row(
    claim: str, paper: float | str, effect: tuple[str, float, float], ours: Mapping[str, Estimate], record: Record
) -> dict[str, Any]:
    """A row of the ledger from a record of an ablation: ours is an estimate by recipe."""
    what, published, null = effect
    notebook = f"{record.kind.rpartition('/')[2]}.ipynb"
    by_recipe = {
        recipe: plain({
            "ours": found,
            "questions": record.questions["specialized, evaluation"].n,
            "seeds": record.num_seeds,
            "setting": f"recipe {recipe}, {JUDGED_ON[recipe]} graphs; specialized team; see {notebook}",
            "models": "other",
            "verdict": judge(published, found.ci_low, found.ci_high, null=null),
            "judged_by": judged_by(what, published, found, null),
            "command": record.command,
            "record": place_of(record.kind).path,
        })
        for recipe, found in ours.items()
    }  # fmt: skip
    return {"claim": claim, "paper": paper, "printed": False} | by_recipe["paper"] | {"default": by_recipe["default"]}


def judged_by(effect: str, paper: float, ours: Estimate, null: float) -> dict[str, Any]:
    """The effect that a verdict is about: what it is, the paper's, ours, and what it would be if there were none."""
    way = direction(paper, ours.ci_low, ours.ci_high, null=null)
    return {"effect": effect, "paper": paper, "ours": ours, "null": null, "direction": way}


def row(
    claim: str, paper: float | str, find: Callable[[Findings], Finding], folder: str, printed: bool = True
) -> dict[str, Any]:
    """A row of the ledger: by the published recipe, and within it, by the default one."""
    published, default = (one_recipe(find(Findings(recipe, folder)), paper) for recipe in JUDGED_ON)
    return {"claim": claim, "paper": paper, "printed": printed} | published | {"default": default}


def one_recipe(finding: Finding, paper: float | str) -> dict[str, Any]:
    """Our number with its interval, its verdict and its origin."""
    value, cell, models = finding.value, finding.record, models_of(finding.record)
    found: dict[str, Any] = {"ours": value, "questions": cell.num_questions, "seeds": cell.num_seeds}
    found |= {"setting": setting(cell), "models": models}
    if finding.effect is None:
        assert isinstance(paper, float)
        found["verdict"] = judge_level(paper, value.ci_low, value.ci_high, models)
    else:
        what, published, ours, null = finding.effect
        found["verdict"] = judge(published, ours.ci_low, ours.ci_high, null=null)
        found["judged_by"] = judged_by(what, published, ours, null)
    if finding.told is not None:
        found["gain_if_told"] = finding.told
    return plain(found | {"command": cell.record.command, "record": place_of(cell.record.kind).path})


def setting(record: CellRecord) -> str:
    """What was run, in words."""
    parameters, groups = record.record.parameters, record.numbers["groups"]
    recipe = record.numbers["recipe"]
    team = " + ".join(f"{number} {group}" for group, number in groups.items())
    return (
        f"recipe {recipe}, {JUDGED_ON[recipe]} graphs; {team} agents on {parameters['agent_llm']} (mode "
        f"{parameters['agent_mode']}, temperature {parameters['temperature']:g}), adversary {parameters['adversary']}; "
        f"edge LLM {parameters['edge_llm']}, {parameters['readout']}; {parameters['dataset']}; "
        f"sparsity {parameters['sparsity']:g}"
    )


def crosswords(claim: str, paper: float, policy: str) -> dict[str, Any]:
    """A row of Crosswords: real answers under the graphs that our default recipe has learned on simulated ones.

    Judged as published, by the oracle. The published recipe trains on real answers, which was not done.
    """
    record = load_record("crosswords/answers")
    learned_in, agent_llm = record.parameters["learned_in"], record.parameters["agent_llm"]
    scores = record.numbers["graphs"][f"learned, {policy}"]["scores"]["oracle"]
    words = in_percent(mean_interval([puzzle[0] for puzzle in scores]))
    found: dict[str, Any] = {
        "ours": words, "questions": record.questions["evaluation"].n, "seeds": record.num_seeds,
        "setting": f"most probable graphs, trained on a simulated solver ({place_of('crosswords').path}, "
        f"{learned_in['cell']}, seed {learned_in['seed']}), on answers of {agent_llm}; oracle",
        "models": "other", "verdict": judge_level(paper, words.ci_low, words.ci_high, "other"),
        "command": record.command, "record": place_of(record.kind).path,
    }  # fmt: skip
    return not_run(claim, paper, WHY_NO_CROSSWORDS) | {"default": plain(found)}


def not_run(claim: str, paper: float, why: str) -> dict[str, Any]:
    """A row without a measurement."""
    empty = dict.fromkeys(("ours", "questions", "seeds", "setting", "models"))
    nothing = empty | {"verdict": why, "command": None, "record": None}
    return {"claim": claim, "paper": paper, "printed": True} | nothing | {"default": nothing}


def ledger_record(records: str, ablations: str) -> Record:
    """The ledger as a record: a function of other records alone, whose commit and machine are in these."""
    ledger = rows(records) + ablation_rows(ablations)
    cells = [cell(recipe) for cell in CELLS.values() for recipe in JUDGED_ON]
    cells += [readout_cell(recipe, readout) for recipe in JUDGED_ON for readout in COMPARED]
    read = (
        {f"table2/{cell}": records for cell in cells} | dict.fromkeys(ABLATED, ablations) | {"crosswords/answers": ""}
    )
    return Record(
        kind="ledger",
        command=place_of("ledger").command,
        inputs=[
            Input(name=kind, kind="record", location=place_of(kind).path, sha256=file_sha256(record_path(kind, folder)))
            for kind, folder in read.items()
        ],
        numbers={"rows": ledger},
    )


@program
def main(
    records: Annotated[str, typer.Option(help="folder of the cells' records")] = CELLS_FOLDER,
    ablations: Annotated[str, typer.Option(help="folder of the ablations' records")] = ABLATIONS,
    output: Annotated[str, typer.Option(help="folder of claims.json and claims.md")] = "results",
) -> None:
    """Write the ledger of the paper's claims from the records of Table 2's cells and of the ablations."""
    record = ledger_record(records, ablations)
    path = record.save(record_path("ledger", output))
    write_file(path.with_suffix(".md"), [as_markdown(record.numbers["rows"]).encode()])


if __name__ == "__main__":
    sys.exit(main())
