"""The ledger of the paper's claims: complete, consistent with its records, and judged by stated rules."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np
import pytest

from dynagent.runs.record import Record
from studies.common.record import load_record
from studies.common.tables import shown
from studies.ledger import claims
from studies.ledger.markdown import FIGURES
from studies.ledger.verdicts import direction, judge, judge_level
from studies.table2.record import CellRecord

ROOT = Path(__file__).resolve().parents[3]
RECORD = load_record("ledger")
LEDGER = RECORD.numbers["rows"]
COLUMNS = "claim paper ours questions seeds setting models verdict command record".split()  # noqa: SIM905
VERDICTS = ("agrees", "contradicts", "underpowered", "not comparable")

# Every number that the paper prints.
PRINTED = {
    "Crosswords accuracy, static": 20.0,
    "Crosswords accuracy, dynamic": 20.4,
    "Adversarial accuracy, static": 44.6,
    "Adversarial accuracy, dynamic": 48.6,
    "Adversarial ratio, static": 1.52,
    "Adversarial ratio, dynamic": 2.73,
    "Specialized accuracy, static": 44.7,
    "Specialized accuracy, dynamic": 50.3,
    "Specialized edges, static": 5.01,
    "Specialized edges, dynamic": 4.38,
    "Edge reduction accuracy, static": 42.1,
    "Edge reduction accuracy, dynamic": 52.4,
    "Edge reduction edges, static": 2.60,
    "Edge reduction edges, dynamic": 2.72,
    "Gain over static on MMLU + CMMLU: nearly 6 points": 5.6,
    "Gain over static with the sparsity loss: more than 10 points": 10.3,
    "Ablation: with mean embeddings the probabilities hardly depend on the input": "hardly",
}
# Every figure, and the call that draws ours (None: it says why not).
DRAWN = {
    "1, ": 'show("idea")',
    "2, ": "heatmaps(",
    "3, training": "curves(",
    "3, the realized": "plot_wirings",
    "4, ": "variation",
}


def found_in(row: dict) -> tuple[dict, dict]:
    return row, row["default"]


def test_every_printed_number_has_one_row():
    rows = [row for row in LEDGER if row["printed"]]
    assert {row["claim"]: row["paper"] for row in rows} == PRINTED
    assert len(rows) == len(PRINTED)
    assert all(column in row for row in LEDGER for column in COLUMNS)


def test_every_row_has_a_verdict_and_a_record_or_says_why_not():
    for row in LEDGER:
        for found in found_in(row):
            if found["verdict"].startswith("not run: "):
                assert found["record"] is None
                assert len(found["verdict"]) > 20
                continue
            assert found["verdict"] in VERDICTS
            if row["claim"].startswith("Crosswords"):
                assert (found["seeds"], found["questions"], found["models"]) == (1, 20, "other")
                assert (ROOT / found["record"]).exists()
                assert found["command"] == "make record-crosswords"
                continue
            if found["record"].startswith("results/ablations/"):
                record = Record.load(ROOT / found["record"])
                assert found["seeds"] == record.num_seeds >= 20
                assert found["questions"] == record.questions["specialized, evaluation"].n
                assert found["command"] == record.command
                continue
            record = CellRecord.load(Path(found["record"]).stem)
            assert found["seeds"] == record.num_seeds >= 20
            assert found["questions"] == record.num_questions == 1000
            assert found["ours"].ci_low <= found["ours"].mean <= found["ours"].ci_high
            assert found["models"] == "other"
            assert found["command"].startswith("make experiments")


def test_levels_of_other_models_are_not_compared_and_effects_are_judged():
    for row in LEDGER:
        for found in found_in(row):
            if found["verdict"].startswith("not run"):
                assert row["claim"].startswith("Crosswords")
            elif "judged_by" in found:
                by = found["judged_by"]
                assert found["verdict"] == judge(by["paper"], by["ours"].ci_low, by["ours"].ci_high, null=by["null"])
            else:
                assert " accuracy, " in row["claim"]
                assert found["verdict"] == "not comparable"


@pytest.mark.parametrize("part", ["Specialized", "Edge reduction", "Adversarial"])
def test_gains_are_the_differences_of_the_accuracies(part):
    by_claim = {row["claim"]: row for row in LEDGER}
    claim = {"Specialized": "nearly 6 points", "Edge reduction": "more than 10", "Adversarial": "adversaries"}[part]
    (gain,) = (row for row in LEDGER if row["claim"].startswith("Gain") and claim in row["claim"])
    static, dynamic = (by_claim[f"{part} accuracy, {policy}"] for policy in ("static", "dynamic"))
    assert gain["paper"] == pytest.approx(dynamic["paper"] - static["paper"])
    for of in (lambda row: row, lambda row: row["default"]):
        assert of(gain)["ours"].mean == pytest.approx(of(dynamic)["ours"].mean - of(static)["ours"].mean, abs=0.02)


def test_the_ledger_is_what_the_records_say(tmp_path):
    assert claims.main(["--output", str(tmp_path)]) == 0
    assert Record.load(tmp_path / "claims.json") == RECORD
    assert (tmp_path / "claims.md").read_text("utf-8") == (ROOT / "results" / "claims.md").read_text("utf-8")


def test_crosswords_are_judged_on_real_answers_and_say_what_was_not_run():
    answers = load_record("crosswords/answers").numbers
    for row in LEDGER:
        if row["claim"].startswith("Crosswords"):
            policy = row["claim"].rpartition(" ")[2]
            scores = answers["graphs"][f"learned, {policy}"]["scores"]["oracle"]
            assert row["default"]["ours"].mean == pytest.approx(100 * sum(words for words, *_ in scores) / 20)
            assert row["default"]["verdict"] == "not comparable"
            assert row["verdict"].startswith("not run: needs a GPU")


def test_missing_records_are_an_error_with_the_command(tmp_path, capsys):
    assert claims.main(["--records", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "`make experiments ARGS='--cells adversarial-constant-paper'` makes it." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_figure_has_its_notebook_or_says_why_not():
    assert sorted({figure.split(",")[0] for figure in FIGURES}) == ["1", "2", "3", "4"]
    for figure, where in FIGURES.items():
        source = "\n".join(cell.source for cell in nbformat.read(ROOT / where, 4).cells)
        (call,) = (call for start, call in DRAWN.items() if figure.startswith(start))
        assert call in source, figure


# --- the rules


@pytest.mark.parametrize(
    ("interval", "verdict", "way"),
    [
        ((4.0, 7.0), "agrees", "same"),  # holds the paper's effect
        ((7.0, 9.0), "agrees", "same"),  # is larger
        ((1.0, 4.0), "contradicts", "same"),  # is surely smaller
        ((-4.0, -1.0), "contradicts", "opposite"),
        ((-20.0, -1.0), "contradicts", "opposite"),  # wide, and yet surely the other way round
        ((-1.0, 2.0), "contradicts", "none"),  # narrow around nothing
        ((-1.0, 6.0), "underpowered", "none"),  # wider than the effect
        ((0.0, 5.0), "contradicts", "none"),
    ],
)
@pytest.mark.parametrize("null", [0.0, 1.0, -3.0])
def test_verdicts_on_an_effect(interval, verdict, way, null):
    low, high = interval
    assert judge(5.6 + null, low + null, high + null, null=null) == verdict
    assert direction(5.6 + null, low + null, high + null, null=null) == way
    assert judge(-5.6 + null, -high + null, -low + null, null=null) == verdict  # the mirror image
    assert direction(-5.6 + null, -high + null, -low + null, null=null) == way


def test_verdicts_on_a_level():
    assert judge_level(44.6, 40, 45, "other") == "not comparable"
    assert judge_level(44.6, 40, 45, "same") == "agrees"
    assert judge_level(44.6, 45, 50, "same") == "contradicts"


def test_models_are_the_same_only_if_both_are():
    published = {"edge_llm": "google/gemma-2b", "agent_llm": "google/gemma-7b-it"}
    for changed, expected in (({}, "same"), ({"edge_llm": "x"}, "other"), ({"agent_llm": "x"}, "other")):
        record = Record(kind="table2/a", command="make experiments", parameters=published | changed)
        assert claims.models_of(CellRecord(record, {"subjects": np.array([])})) == expected


def test_the_first_paragraphs_say_what_the_records_say():
    gain = next(row for row in LEDGER if "nearly 6 points" in row["claim"])
    ratio = next(row for row in LEDGER if row["claim"] == "Adversarial ratio, dynamic")
    reduced = next(row for row in LEDGER if "more than 10 points" in row["claim"])
    said = {
        "adversarial_agents": f"{ratio['default']['ours'].mean:.1f} times as probable",
        "specialized_agents": f"{gain['default']['ours'].mean:+.1f} points",
        "edge_reduction": f"{reduced['default']['ours'].mean:+.1f} points",
        "table2": f"{gain['ours'].mean:+.1f} points",
    }
    for name, words in said.items():
        assert words in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells[0].source, name


def test_the_documentation_prints_the_ledger():
    ledger = {row["claim"]: row for row in LEDGER}
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8").replace("−", "-")
    for claim, digits, sign in (
        ("Gain over static on MMLU + CMMLU: nearly 6 points", 1, "+"),
        ("Gain over static with the sparsity loss: more than 10 points", 1, "+"),
        ("Gain over static against adversaries (follows from the table)", 1, "+"),
        ("Adversarial ratio, dynamic", 2, ""),
    ):
        for found in (ledger[claim], ledger[claim]["default"]):
            ours = shown(found["ours"], digits=digits, sign=sign)
            assert f"| {ours}, {found['verdict']} |" in page, claim


def test_the_readme_says_what_the_ledger_says_of_the_headline():
    ledger = {row["claim"]: row for row in LEDGER}
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").replace("−", "-").split())
    answer = readme.partition("### Does the paper replicate?")[2].partition("##")[0]
    gain = ledger["Gain over static on MMLU + CMMLU: nearly 6 points"]
    against_adversaries = ledger["Gain over static against adversaries (follows from the table)"]
    assert f"gains {gain['default']['ours'].mean:+.1f} points over a static graph" in answer
    low, high = gain["ours"].ci_low, gain["ours"].ci_high
    assert f"({gain['ours'].mean:+.1f} points [{low:+.1f}, {high:+.1f}])" in answer
    assert "the paper prints nearly 6" in answer
    assert f"where the paper prints {against_adversaries['paper']:.0f}" in answer
    for recipe in (against_adversaries, against_adversaries["default"]):
        assert recipe["ours"].ci_low <= 0  # "it gains nothing against adversaries"
