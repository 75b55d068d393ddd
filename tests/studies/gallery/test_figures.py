"""The figures of the experiments: what they show is on record, with intervals, and equal records give equal files."""

import json
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from matplotlib.container import ErrorbarContainer

from dynagent.tasks.multiple_choice import Question
from dynagent.team.votes import NOT_ASKED, MajorityVote
from dynagent.viz.plots import save_figure
from studies.common.plots import plot_lines, with_accuracy_intervals
from studies.common.record import PLACES, Place, load_record
from studies.common.tables import gained
from studies.gallery import figures
from studies.gallery.figures import FIGURES

ROOT = Path(__file__).resolve().parents[3]
IDEA = load_record("idea")
LEARNER = load_record("worlds").numbers["rows"]
QUICK = ("idea", "learner_headroom", "communication", "released_effects", "cost")


@pytest.fixture(autouse=True)
def closed():
    """No figure outlives its test."""
    yield
    plt.close("all")


def names(quick=QUICK):
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in FIGURES]


@pytest.mark.parametrize("name", names())
def test_every_figure_is_drawn_from_its_record_as_it_is_committed(name, tmp_path):
    drawn = FIGURES[name]()
    save_figure(drawn.figure, tmp_path, name)
    drawn_again = r"\d+ repeats" if name == "cost" else r"\d seeds"  # of a clock, or of a training
    assert re.search(drawn_again, drawn.caption), "a caption says over how many seeds"
    assert re.search(r"n = [\d,]+|[\d,]+ held-out questions|20 iterations", drawn.caption), "and questions"
    made = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    committed = (ROOT / "results/figures" / f"{name}.svg").read_text(encoding="utf-8")
    version = re.search(r"<dc:title>Matplotlib (v[\d.]+)", committed)
    if version and version[1] not in made:
        pytest.skip(f"the committed figures are drawn by matplotlib {version[1]}: make figures")
    assert without_ids(made) == without_ids(committed), "make figures"
    assert (ROOT / "results/figures" / f"{name}.png").stat().st_size > 5_000


def without_ids(svg: str) -> str:
    """A drawing with its ids numbered: matplotlib hashes coordinates, whose last bit is another on other processors."""
    numbers: dict[str, str] = {}
    return re.sub(r"\b[a-z][0-9a-f]{10}\b", lambda found: numbers.setdefault(found[0], f"id{len(numbers)}"), svg)


def test_no_figure_is_left_that_nothing_draws():
    assert {path.stem for path in (ROOT / "results/figures").iterdir()} == set(FIGURES)


def test_the_figure_of_costs_says_on_which_machine_and_by_which_clock():
    record, caption = load_record("benchmarks/costs"), figures.cost().caption
    machine = record.environment.hardware
    assert f"({machine['processor']}, {machine['num_cpus']} cores" in caption
    assert ("repeats (wall clock)" in caption) == all(p.parameters["clock"] == "wall" for p in record.parts.values())


def bars(ax) -> list[ErrorbarContainer]:
    return [container for container in ax.containers if isinstance(container, ErrorbarContainer)]


ACCURACIES = ("learner_headroom", "learner_sparsity", "released_heard", "communication", "frontier")


@pytest.mark.parametrize("name", ACCURACIES)
def test_every_accuracy_has_its_interval(name):
    for ax in FIGURES[name]().figure.axes:
        drawn = bars(ax)
        assert drawn
        for container in drawn:
            assert container.has_yerr or container.get_label() == "best possible"
        num_bands = sum(isinstance(collection, PolyCollection) for collection in ax.collections)
        with_line_alone = [line for line in ax.lines if line.get_label().startswith("vote")]
        assert num_bands >= len(with_line_alone)  # votes are a line with a band around it


def test_curves_have_a_band_each():
    curves = figures.crosswords_curves().figure.axes[0]
    assert sum(isinstance(collection, PolyCollection) for collection in curves.collections) == len(curves.lines) == 4


def test_lines_show_their_points_and_intervals():
    figure, ax = plot_lines({"dynamic": [(2, 0.5, 0.4, 0.7), (1, 0.3, 0.2, 0.35)], "paper": [(1, 0.1, 0.0, 0.2)]})
    dynamic, paper = bars(ax)
    assert dynamic.lines[0].get_xydata().tolist() == [[1, 0.3], [2, 0.5]]
    ends = [path.vertices[:, 1].tolist() for path in dynamic.lines[2][0].get_paths()]
    np.testing.assert_allclose(ends, [[0.2, 0.35], [0.4, 0.7]])
    assert (dynamic.lines[0].get_linestyle(), paper.lines[0].get_linestyle()) == ("-", "--")
    low, high = ax.get_ylim()
    assert low <= 0.0
    assert high >= 0.7  # no interval leaves the figure
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dynamic", "paper"]


def test_an_accuracy_interval_is_that_of_the_headroom_on_another_scale():
    rows = [row for row in LEARNER if row["part"] == "sparsity"]
    measured = [
        (row, turned) for row, turned in zip(rows, with_accuracy_intervals(rows), strict=True) if "headroom" in row
    ]
    assert len(measured) == 12
    for row, turned in measured:
        gap = row["best_per_domain"] - row["best_static"]
        headroom, accuracy = row["headroom"], turned["accuracy"]
        assert row["best_static"] + gap * headroom.mean == pytest.approx(accuracy.mean)  # it is linear
        assert accuracy.ci_low <= row["accuracy"] <= accuracy.ci_high
        width = headroom.ci_high - headroom.ci_low
        assert (accuracy.ci_high - accuracy.ci_low) / gap == pytest.approx(width)


# --- the idea


def test_the_idea_shows_real_questions_of_mmlu_and_their_real_vote():
    assert IDEA.code.dirty is False
    assert IDEA.parameters["dataset"] == "mmlu"
    index = [json.loads(line) for line in (ROOT / "results/recordings/index.jsonl").read_text().splitlines()]
    held_out = {row["question"]: row for row in index if (row["dataset"], row["split"]) == ("mmlu", "test")}
    one, other = IDEA.numbers["shown"]
    assert one["area"] != other["area"]
    assert one["heard"] != other["heard"]
    for shown in IDEA.numbers["shown"]:
        question = Question(shown["text"], tuple(shown["options"]), shown["answer"], shown["subject"], "en")
        assert question.id == shown["id"]  # the text is that of the question on record
        assert held_out[question.id]["answer"] == shown["answer"]
        assert shown["heard"] == [p >= 0.5 for p in shown["edge_probs"]]
        votes = [a if heard else NOT_ASKED for a, heard in zip(shown["answers"], shown["heard"], strict=True)]
        assert MajorityVote().option_probs(torch.tensor(votes), 4).tolist() == pytest.approx(shown["outcome"])


def test_what_the_idea_is_worth_is_said_with_its_interval():
    gain = IDEA.numbers["differences"]["learned, most probable - static, most probable"]
    learned, static = (IDEA.numbers["accuracy"][f"{name}, most probable"].mean for name in ("learned", "static"))
    assert gain.mean == pytest.approx(learned - static, abs=1e-4)
    said = gained(gain).replace(" [", " points [")
    assert said in figures.idea().caption
    gallery = json.loads((ROOT / "notebooks/gallery.ipynb").read_text(encoding="utf-8"))
    assert said in "".join(gallery["cells"][0]["source"])


# --- the program


def test_one_figure_is_drawn_where_it_is_asked_for(tmp_path, capsys):
    assert figures.main(["communication", "--output", str(tmp_path / "new")]) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["communication.png", "communication.svg"]
    assert "208 MMLU questions" in capsys.readouterr().out


def test_an_unknown_figure_is_an_error_that_names_one(tmp_path, capsys):
    assert figures.main(["frontiers", "--output", str(tmp_path / "new")]) == 2
    assert "There is no figure 'frontiers'; did you mean 'frontier'?" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_missing_record_is_an_error_with_the_command_that_makes_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(PLACES, "idea", Place(str(tmp_path / "idea.json"), "make idea"))
    assert figures.main(["idea", "--output", str(tmp_path / "new")]) == 2
    assert "`make idea` makes it." in capsys.readouterr().err
