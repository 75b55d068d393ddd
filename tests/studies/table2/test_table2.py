"""Table 2 on recorded answers: its cells, their records, and what happens if something is missing or was stopped."""

from __future__ import annotations

import ast
import json
import re
import shutil
from functools import wraps
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from dynagent.evaluation.statistics import clustered_interval
from dynagent.runs.build import prepare
from dynagent.runs.config import RunConfig
from dynagent.runs.presets import PRESETS
from studies.common.numbers import plain
from studies.common.program import study_program
from studies.common.study import run
from studies.table2 import record as table2_records
from studies.table2.cell import Cell
from studies.table2.measure import accuracy_by_votes, measure
from studies.table2.record import CellRecord
from studies.table2.settings import (
    ADVERSARIES,
    MOST_ADVERSARIES,
    QWEN,
    RECIPES,
    SPARSITIES,
    SPECIALIZED,
    TEMPERATURE,
    TEMPERATURES,
    adversaries_cell,
    cells,
    make_cell,
    notebook_config,
    readout_cell,
    sparsity_cell,
    temperature_cell,
)
from studies.table2.study import STUDIES, study_of
from studies.table2.tables import best_possible, best_static, sparsity_rows

ROOT = Path(__file__).resolve().parents[3]
RECORDS = ROOT / "results" / "experiments"
SMALL = {"train_limit": 24, "eval_limit": 30, "num_iterations": 3}
TEAMS = {"adversarial_agents": "adversarial", "specialized_agents": "specialized", "edge_reduction": "edge reduction"}


def small_cell(name: str, recipe: str = "default", **changes) -> Cell:
    return make_cell(name, recipe, QWEN | SPECIALIZED | SMALL | changes, num_seeds=2, with_controls=True)


# --- cells


def test_the_paper_recipe_is_the_published_one():
    config = cells()["adversarial-constant-paper"].config(seed=7)
    published = RunConfig.from_parameters({"preset": "paper"})
    same = "num_iterations batch_size graphs_per_question estimator learning_rate readout standardize head_init order"
    for name in (*same.split(), "decide", "initial_probability", "num_truthful", "num_adversarial", "adversary"):
        assert getattr(config, name) == getattr(published, name), name
    assert (config.bias_speed, config.seed, config.data_source) == (1.0, 7, "recordings")


def test_the_default_recipe_is_that_of_the_preset_laptop():
    config = cells()["specialized-default"].config()
    laptop = RunConfig.from_parameters({"preset": "laptop"} | QWEN | SPECIALIZED)
    assert config == laptop


def test_every_cell_is_there():
    names = {f"adversarial-{a}-{r}" for a in (*ADVERSARIES, "smollm2") for r in RECIPES}
    names |= {sparsity_cell(r, s) for r in RECIPES for s in SPARSITIES}
    names |= {readout_cell(r, o) for r in RECIPES for o in ("last_hidden", "mean_hidden", "mean_embedding")}
    names |= {temperature_cell(t) for t in TEMPERATURES} | {adversaries_cell(n) for n in range(MOST_ADVERSARIES + 1)}
    assert names == set(cells())
    assert all(name == cell.name for name, cell in cells().items())
    assert RunConfig().temperature == TEMPERATURE
    assert [study.name for study in STUDIES] == list(cells())


@pytest.mark.parametrize("name", ["adversaries-03", "edge-reduction-0.1-paper", "specialized-temperature-0.5"])
def test_a_cell_differs_from_its_base_in_what_its_name_says(name):
    base = {"adversaries-03": "adversarial-constant-default", "edge-reduction-0.1-paper": "specialized-paper"}
    one, other = (table2_records.parameters_of(cells()[n]) for n in (name, base.get(name, "specialized-default")))
    changed = {key: value for key, value in one.items() if value != other[key]}
    expected = {"adversaries-03": {"num_adversarial": 3}, "edge-reduction-0.1-paper": {"sparsity": 0.1}}
    assert changed == expected.get(name, {"temperature": 0.5})


# --- measuring


def test_a_seed_leaves_everything():
    found = measure(small_cell("small"), 0)
    again = measure(small_cell("small"), 0)
    assert all(np.array_equal(found.scores[name], again.scores[name]) for name in found.scores)
    assert all(score.shape == (30,) for score in found.scores.values())
    assert {name: len(values) for name, values in found.utility.items()} == {"dynamic": 3, "static": 3}
    assert found.edge_probs["dynamic"]["en"].shape == (9, 9)
    matrix = found.edge_probs["static"]["all"]
    assert np.isfinite(matrix[1:, 0]).all()
    assert np.isnan(matrix[:, 1:]).all()  # edges that nobody reads are not decided
    assert matrix[1:, 0].sum() == pytest.approx(found.values["static: expected edges"], abs=1e-5)
    halves = [found.values[f"dynamic: expected edges, {language}"] for language in ("en", "zh")]
    assert np.mean(halves) == pytest.approx(found.values["dynamic: expected edges"], abs=1e-5)
    assert found.values["static: ratio"] == pytest.approx(1)  # a specialist is truthful on one half, not on the other
    assert 0.3 < found.values["agreement of two truthful agents"] <= 1
    full = (found.by_votes["en"][4, 4] + found.by_votes["zh"][4, 4]) / 2
    assert full == pytest.approx(found.scores["full graph"].mean(), abs=1e-6)
    told = (found.by_votes["en"][4, 0] + found.by_votes["zh"][0, 4]) / 2
    assert told == pytest.approx(found.scores["truthful agents only (told)"].mean(), abs=1e-6)
    assert found.by_votes["en"][0, 0] == 0  # nobody votes


def test_the_published_recipe_decides_all_edges_and_pays_every_visit():
    cell = small_cell("small", "paper")
    found = measure(cell, 0)
    off_diagonal = ~np.eye(9, dtype=bool)
    off_diagonal[0] = False  # the decision speaks to nobody
    assert np.isfinite(found.edge_probs["dynamic"]["all"][off_diagonal]).all()
    paid = found.usage["agents' answers in training, static"]
    assert 0 < paid <= 3 * 4 * 8
    assert measure(small_cell("small"), 0).usage["agents' answers in training, static"] == 12 * 8


def test_calls_are_counted_for_each_seed_alone():
    for seed in (0, 1):
        usage = measure(small_cell("small"), seed).usage
        # 3 batches of 4 and 30 held-out questions, asked for a right and for a wrong option
        assert usage["distinct_calls"] == usage["completion_tokens"] / 4 == 2 * (12 + 30)
        assert usage["questions read by the edge LLM"] == 24 + 30


def test_accuracy_by_votes_on_answers_that_are_known():
    config = RunConfig.from_parameters(QWEN | SPECIALIZED | SMALL)
    experiment = prepare(config)
    questions = experiment.eval_questions
    right = torch.tensor([question.answer for question in questions])
    answers = torch.where(torch.arange(8) < 4, right[:, None], (right[:, None] + 1) % 4)  # English agents know it all
    found = accuracy_by_votes(answers, experiment.graph, questions)
    assert found.shape == (len(questions), 5, 5)
    assert (found[:, 3, 2] == 1).all()
    assert (found[:, 2, 2] == 0.5).all()
    assert (found[:, 1, 2] == 0).all()


# --- records: whole, resumable, and refused if they are not


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """Which seeds are measured; `at` stops before one of them, as a kill would."""
    calls: list[tuple[str, int]] = []
    stop: dict[str, int] = {}

    @wraps(measure)
    def counting(cell, seed):
        if len(calls) == stop.get("at"):
            raise KeyboardInterrupt
        calls.append((cell.name, seed))
        return measure(cell, seed)

    monkeypatch.setattr("studies.table2.measure.measure", counting)
    monkeypatch.setattr("studies.common.study.REMEMBERED", str(tmp_path / "outcomes"))
    return calls, stop


def run_cell(cell: Cell, folder: Path, monkeypatch, num_seeds: int = 2) -> Path:
    monkeypatch.setattr("studies.table2.settings.cells", lambda: {cell.name: cell})
    return run(study_of(cell), "smoke", num_seeds, processes=1, output=str(folder))


def test_a_killed_run_continues(counted, tmp_path, monkeypatch):
    calls, stop = counted
    cell, folder = small_cell("one"), tmp_path / "records"
    stop["at"] = 1
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, folder, monkeypatch)
    assert not folder.exists()
    stop.clear()
    assert run_cell(cell, folder, monkeypatch) == folder / "one.json"
    assert calls == [("one", 0), ("one", 1)]
    assert sorted(path.name for path in folder.iterdir()) == ["one.json", "one.npz"]
    arrays = (folder / "one.npz").read_bytes()
    run_cell(cell, folder, monkeypatch)
    assert calls == [("one", 0), ("one", 1)]
    assert (folder / "one.npz").read_bytes() == arrays


def test_a_seed_is_measured_again_if_anything_that_it_depends_on_has_changed(counted, tmp_path, monkeypatch):
    calls, _ = counted
    run_cell(small_cell("one"), tmp_path, monkeypatch, 1)
    run_cell(small_cell("one", temperature=0.3), tmp_path, monkeypatch, 1)
    assert calls == [("one", 0)] * 2
    monkeypatch.setattr("studies.common.study.digest_of", lambda files: "other code")
    run_cell(small_cell("one"), tmp_path, monkeypatch, 1)
    assert calls == [("one", 0)] * 3


def test_a_torn_record_is_refused(counted, tmp_path, monkeypatch):
    run_cell(small_cell("one"), tmp_path, monkeypatch, 1)
    (tmp_path / "one.npz").write_bytes((tmp_path / "one.npz").read_bytes()[:-7])
    apart = r"not of one run with its record: `python -m studies\.table2 one --preset smoke --seeds 1` makes both anew"
    with pytest.raises(ValueError, match=apart):
        CellRecord.load("one", tmp_path)
    (tmp_path / "one.json").unlink()
    with pytest.raises(ValueError, match=r"There is no record .*: `python -m studies\.table2 one`"):
        CellRecord.load("one", tmp_path)


def test_a_record_holds_what_was_measured(counted, tmp_path, monkeypatch):
    cell = small_cell("one")
    run_cell(cell, tmp_path, monkeypatch)
    record, seeds = CellRecord.load("one", tmp_path), [measure(cell, seed) for seed in range(2)]
    for name in seeds[0].scores:
        np.testing.assert_allclose(record.scores[name], np.stack([seed.scores[name] for seed in seeds]), atol=1e-3)
    numbers = record.numbers
    accuracy = np.mean([seed.scores["dynamic, sampled"].mean() for seed in seeds])
    assert numbers["metrics"]["accuracy"]["dynamic, sampled"].mean == pytest.approx(accuracy, abs=1e-3)
    difference = numbers["metrics"]["differences"]["dynamic, sampled - static, sampled"]
    expected = np.mean([seed.scores["dynamic, sampled"] - seed.scores["static, sampled"] for seed in seeds])
    assert difference.mean == pytest.approx(expected, abs=1e-3)
    assert numbers["edge_probs"]["static"]["all"][1][0] == pytest.approx(
        np.mean([seed.edge_probs["static"]["all"][1, 0] for seed in seeds]), abs=1e-3
    )
    assert set(numbers["metrics"]["gains over controls"]["sampled"]) == set(table2_records.CONTROLS)
    for part in ("command", "code", "environment", "inputs", "questions", "seeds", "parameters"):
        assert getattr(record.record, part), part
    assert numbers["usage_of_a_seed"]
    assert all(used.sha256 for used in record.record.inputs)
    assert record.accuracy("full graph", "en").n == 15


def test_what_is_not_a_number_is_null():
    assert plain({"a": float("nan"), "b": [0.123456, 1e-9, 12345.678], "c": True}) == {
        "a": None, "b": [0.1235, 1e-9, 12350.0], "c": True,
    }  # fmt: skip


# --- recordings that are not what is needed


@pytest.fixture
def recordings(tmp_path):
    return shutil.copytree(ROOT / "results" / "recordings", tmp_path / "recordings")


def drop_last_answers(folder):
    path = next(folder.glob("qwen*.jsonl"))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-200]))


def change_prompt_version(folder):
    path = next(folder.glob("qwen*.jsonl"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    from dynagent.llm.base import Request

    for line in lines:
        line["origin"][2] = "older"
        line["origin_key"] = Request("", origin=tuple(line["origin"])).origin_key(path.stem)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def rename_model(folder):
    path = next(folder.glob("qwen*.jsonl"))
    path.rename(folder / path.name.replace("cc324af070c2", "0123456789ab"))


def drop_questions(folder):
    path = folder / "index.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if '"cmmlu"' not in line))


def double_question(folder):
    path = folder / "index.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines(keepends=True)[0])


FAULTS = {
    "incomplete": (drop_last_answers, r"200 answers are missing .*`make record ARGS="),
    "prompt version": (change_prompt_version, r"recorded with another version of the prompt .*`make record ARGS="),
    "another model": (rename_model, r"has no record of the agent LLM qwen.*`make record ARGS="),
    "missing questions": (drop_questions, r"has no questions of cmmlu .*`make record`"),
    "duplicate": (double_question, r"has a question of mmlu train twice: `make record`"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_recordings_end_with_a_sentence_that_names_the_command(fault, recordings, tmp_path, monkeypatch, capsys):
    spoil, sentence = FAULTS[fault]
    spoil(recordings)
    cell = make_cell("bad", "default", QWEN | SPECIALIZED | {"recordings": str(recordings)}, num_seeds=1)
    monkeypatch.setattr("studies.table2.settings.cells", lambda: {"bad": cell})
    main = study_program([study_of(cell)], "Train many seeds.")
    assert main(["--processes", "1", "--output", str(tmp_path / "out")]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dynagent: ")]
    assert re.search(sentence, error), error
    assert error.endswith(".")
    assert not (tmp_path / "out").exists()


def test_an_unknown_cell_is_named(capsys):
    assert study_program(STUDIES, "Train many seeds.")(["specialised-default"]) == 2
    assert "did you mean 'specialized-default'?" in capsys.readouterr().err


# --- the interval


def test_the_clustered_interval_covers_the_mean_and_a_naive_one_does_not():
    generator, clusters = np.random.default_rng(0), [f"subject {i // 6}" for i in range(240)]
    covered = naive = 0
    for repetition in range(120):
        of_seeds, of_subjects = generator.normal(0, 0.3, (12, 1)), np.repeat(generator.normal(0, 0.5, 40), 6)
        values = of_seeds + of_subjects + generator.normal(0, 0.7, (1, 240)) + generator.normal(0, 1, (12, 240))
        estimate = clustered_interval(values, clusters, num_resamples=400, seed=repetition)
        covered += estimate.ci_low <= 0 <= estimate.ci_high
        per_question = values.mean(0)
        naive += abs(per_question.mean()) < 1.96 * per_question.std(ddof=1) / np.sqrt(240)
    assert covered >= 0.9 * 120
    assert naive < 0.8 * 120


def test_the_clustered_interval_is_exact_where_nothing_varies():
    estimate = clustered_interval(np.full((3, 4), 0.5), ["a", "a", "b", "c"])
    assert (estimate.mean, estimate.ci_low, estimate.ci_high, estimate.n) == (0.5, 0.5, 0.5, 4)
    with pytest.raises(ValueError, match="as many clusters as columns"):
        clustered_interval(np.zeros((3, 4)), ["a"])


# --- what is committed


@pytest.fixture(scope="module")
def committed():
    return {name: CellRecord.load(name, RECORDS) for name in cells()}


def test_every_cell_is_on_record_with_its_seeds_from_a_clean_commit(committed):
    for name, record in committed.items():
        assert record.num_seeds == cells()[name].num_seeds, name
        # A parameter that came later had its default then.
        defaults = {key: value for key, value in plain(RunConfig().identity()).items() if key != "seed"}
        assert defaults | record.record.parameters == plain(table2_records.parameters_of(cells()[name])), name
        assert record.record.code.dirty is False, name
        assert all(len(values) == record.num_seeds for values in record.numbers["per_seed"].values())
    assert {path.stem for path in RECORDS.iterdir()} == set(cells())


def test_records_are_small_and_readable():
    assert sum(path.stat().st_size for path in RECORDS.iterdir()) < 6e6


def test_a_committed_seed_can_be_measured_again(committed):
    cell = cells()["specialized-default"]
    found = measure(cell, 1).scores
    for wiring in ("dynamic, most probable", "static, most probable", "full graph"):
        assert found[wiring].mean() == pytest.approx(committed[cell.name].scores[wiring][1].mean(), abs=0.01), wiring


def test_no_learner_beats_the_best_possible(committed):
    rows = sparsity_rows()
    best = {row["sparsity"]: row for row in rows if row["recipe"].startswith("best possible")}
    assert len(rows) == (2 * len(RECIPES) + 1) * len(SPARSITIES)
    for row in rows:
        bound = best[row["sparsity"]]
        cost = row["sparsity"]
        reached, possible = (one["accuracy"].mean - cost * one["num_votes"] for one in (row, bound))
        assert reached <= possible + 0.01
    assert best_static(committed["specialized-default"])[2] <= best[0]["accuracy"].mean + 1e-9
    assert best_possible(committed["specialized-default"])[0] == best[0]


# --- the notebooks


def parameters_of(name: str) -> dict:
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    assigned = [node for node in ast.parse(cell.source).body if isinstance(node, ast.Assign)]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in assigned}


@pytest.mark.parametrize("name", TEAMS)
def test_the_notebooks_parameters_are_valid_for_every_preset(name):
    parameters = parameters_of(name)
    assert set(parameters) <= set(RunConfig.model_fields)
    for preset in PRESETS:
        config = notebook_config(TEAMS[name], parameters | {"preset": preset})
        assert (config.data_source == "recordings") == (preset != "paper")
    laptop = notebook_config(TEAMS[name], parameters)
    cell = {"adversarial": "adversarial-constant-default", "specialized": "specialized-default"}
    assert laptop == cells()[cell.get(TEAMS[name], "edge-reduction-0.05-default")].config()


def test_a_wrong_parameter_of_a_notebook_is_an_error():
    wrong = {"preset": "laptop", "In": ["", "# Parameters\nadversry = 'constant'"], "adversry": "constant"}
    with pytest.raises(ValueError, match="did you mean 'adversary'"):
        notebook_config("adversarial", wrong)
