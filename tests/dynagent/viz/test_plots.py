"""Figures: what is drawn is what was measured, and equal figures are equal files."""

from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from seaborn.utils import relative_luminance

from dynagent.graph import AgentGraph
from dynagent.learning.loop import History
from dynagent.team.votes import MajorityVote
from dynagent.viz.plots import (
    COLOURS,
    GROUP_COLOURS,
    HEATMAP,
    colours_of,
    group_colours,
    ink_on,
    plot_by_area,
    plot_edge_probs,
    plot_graphs,
    plot_training,
    save_figure,
)
from tests.support.toy import Knows, readers, toy_graph


@pytest.fixture(autouse=True)
def closed():
    """No figure outlives its test."""
    yield
    plt.close("all")


def mixed_graph() -> AgentGraph:
    """Two agents of each of two groups; the last one reads."""
    team = [Knows((0,), group="truthful")] * 2 + [Knows(group="adversarial"), Knows(group="adversarial", reads=True)]
    return AgentGraph(team, MajorityVote())


def random_probs(graph, *shape) -> torch.Tensor:
    return torch.rand(*shape, graph.num_edges, generator=torch.Generator().manual_seed(0)) * 0.98 + 0.01


def history(num_iterations=30) -> History:
    return History([{"utility": 0.2 + 0.01 * i, "num_edges": 4 - 0.05 * i} for i in range(num_iterations)])


def mesh_values(ax) -> np.ndarray:
    """The numbers behind a heatmap's cells; a blank cell is nan."""
    (mesh,) = [collection for collection in ax.collections if isinstance(collection, QuadMesh)]
    return np.ma.filled(mesh.get_array().astype(float), np.nan).reshape(mesh.get_coordinates().shape[0] - 1, -1)


def texts(labels) -> list[str]:
    return [label.get_text() for label in labels]


# --- training curve


def test_the_training_curve_and_its_running_mean():
    figure = plot_training(history(), window=20)
    assert isinstance(figure, Figure)
    left, right = figure.axes
    utility = np.array(history().column("utility"))
    batch, running = left.lines
    assert batch.get_ydata() == pytest.approx(utility)
    assert list(running.get_xdata()) == list(range(19, 30))  # a mean stands at its last iteration
    assert running.get_ydata() == pytest.approx([utility[i - 19 : i + 1].mean() for i in range(19, 30)])
    assert texts(left.get_legend().get_texts()) == ["one batch", "mean of 20"]
    assert (left.get_xlabel(), left.get_ylabel()) == ("iteration", "utility (share right)")
    assert right.lines[0].get_ydata() == pytest.approx(history().column("num_edges"))
    assert right.get_ylabel() == "expected edges into the decision"
    assert right.get_ylim()[0] == 0


def test_a_short_training_has_a_shorter_window():
    left, _ = plot_training(history(3), window=20).axes
    assert left.lines[1].get_ydata() == pytest.approx([0.21])
    assert texts(left.get_legend().get_texts())[1] == "mean of 3"


# --- heatmaps


def test_the_heatmap_has_the_decision_first_and_every_edge_in_its_cell():
    graph = readers(3)
    probs = random_probs(graph, 5)
    figure = plot_edge_probs(probs, graph, "a title")
    assert isinstance(figure, Figure)
    ax = figure.axes[0]
    expected = np.full((4, 4), np.nan)
    for (source, target), probability in zip(graph.potential_edges.tolist(), probs.mean(0).tolist(), strict=True):
        expected[(source + 1) % 4, (target + 1) % 4] = probability
    np.testing.assert_allclose(mesh_values(ax), expected, rtol=1e-6)
    assert texts(ax.get_xticklabels()) == texts(ax.get_yticklabels()) == ["0", "1", "2", "3"]
    assert ax.get_title() == "a title"
    assert ax.get_xlabel() == "listens (0 is the decision)"
    assert ax.get_ylabel() == "speaks"
    assert figure.axes[1].get_ylabel() == "probability of the edge"


def test_edges_without_effect_stay_blank():
    graph = mixed_graph()
    values = mesh_values(plot_edge_probs(random_probs(graph), graph).axes[0])
    shown = ~np.isnan(values)
    assert shown.sum() == graph.effective.sum() == 4 + 3  # to the decision, and to the one that reads
    assert shown[1:, 0].all()
    assert shown[[1, 2, 3], 4].all()
    assert not shown[:, [1, 2, 3]].any()
    assert not shown[0].any()  # the decision says nothing
    assert not shown[4, 4]


def test_one_row_of_probabilities_and_many_equal_rows_are_the_same_heatmap():
    graph = toy_graph()
    one = random_probs(graph)
    figures = [plot_edge_probs(probs, graph) for probs in (one, one.expand(6, -1))]
    np.testing.assert_allclose(*(mesh_values(figure.axes[0]) for figure in figures), rtol=1e-6)


def test_a_frame_around_every_group_in_its_colour():
    graph = mixed_graph()
    figure = plot_edge_probs(random_probs(graph), graph)
    ax = figure.axes[0]
    frames = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert [(frame.get_xy(), frame.get_width(), frame.get_height()) for frame in frames] == [
        ((0, 1), 1, 2),
        ((0, 3), 1, 2),
    ]
    colours = [GROUP_COLOURS["truthful"], GROUP_COLOURS["adversarial"]]
    assert [frame.get_edgecolor()[:3] for frame in frames] == [to_rgb(colour) for colour in colours]
    assert texts(figure.legends[0].get_texts()) == ["truthful", "adversarial"]


def test_a_group_keeps_its_colour():
    assert group_colours(mixed_graph()) == {name: GROUP_COLOURS[name] for name in ("truthful", "adversarial")}
    found = colours_of(
        ["published recipe, static", "full graph", "dynamic, sampled (20 seeds)", "truthful (told)", "x", "y"]
    )
    assert list(found.values())[:4] == [
        GROUP_COLOURS[name] for name in ("published static", "full graph", "dynamic", "told")
    ]
    assert [found["x"], found["y"]] == COLOURS[:2]


def test_a_name_without_a_colour_never_gets_that_of_another_one():
    found = colours_of(["no one's", "truthful", "adversarial", "nobody's"])
    assert len(set(found.values())) == 4


# Which names stand beside each other in a figure.
TOGETHER = [
    ("truthful", "adversarial"), ("en", "zh"), ("stem", "humanities", "social_sciences", "other"),
    ("brute force", "reflection"), ("dynamic", "static"), ("dynamic", "paper"), ("paper static", "static"),
    ("dynamic", "full graph"), ("told", "full graph"),
]  # fmt: skip


@pytest.mark.parametrize("names", TOGETHER, ids=", ".join)
def test_groups_that_meet_in_a_figure_can_be_told_apart_in_grey(names):
    """By CIE lightness, which is what is left of a colour in print without colours."""
    luminance = [relative_luminance(GROUP_COLOURS[name]) for name in names]
    lightness = sorted(116 * value ** (1 / 3) - 16 for value in luminance)
    assert min(np.diff(lightness)) > 9


def test_the_heatmap_can_be_read_in_grey():
    """Lightness falls all the way, so that no two probabilities look alike."""
    shades = matplotlib.colormaps[HEATMAP["cmap"]](np.linspace(0, 1, 64))
    assert (np.diff([relative_luminance(tuple(shade)) for shade in shades]) < 0).all()


@pytest.mark.parametrize("colour", [*GROUP_COLOURS.values(), *COLOURS])
def test_what_stands_on_a_colour_can_be_read(colour):
    """The contrast of W3C's guidelines for large text, 3."""
    light, dark = sorted((relative_luminance(colour), relative_luminance(ink_on(colour))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3


def test_areas_beside_the_control():
    graph = mixed_graph()
    questions = [SimpleNamespace(area=area) for area in ("stem", "other", "stem", "humanities", "other", "stem")]
    probs = random_probs(graph, 6)
    shuffled = probs.roll(1, 0)
    figure = plot_by_area(probs, shuffled, graph, questions)
    assert isinstance(figure, Figure)
    left, right = figure.axes[:2]
    assert [ax.get_title() for ax in (left, right)] == ["questions", "control: shuffled"]
    for ax, shown in ((left, probs), (right, shuffled)):
        into = shown[:, -4:]  # the edges into the decision come last
        expected = torch.stack([into[[3]].mean(0), into[[1, 4]].mean(0), into[[0, 2, 5]].mean(0)])
        np.testing.assert_allclose(mesh_values(ax), expected.numpy(), rtol=1e-6)
        assert texts(ax.texts) == [f"{value:.2f}" for value in expected.flatten().tolist()]
    assert texts(left.get_yticklabels()) == ["humanities", "other", "stem"]
    assert texts(left.get_xticklabels()) == ["1 truthful", "2 truthful", "3 adversarial", "4 adversarial"]


# --- drawn graphs


def arrows(ax) -> list[FancyArrowPatch]:
    return [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]


def test_a_graph_has_an_arrow_for_every_edge_that_can_be():
    graph = mixed_graph()
    probs = random_probs(graph, 2)
    into = graph.decision_edges.nonzero().flatten()
    probs[0, into] = torch.tensor([0.9, 0.5, 0.1, 0.0])
    probs[0, ~graph.decision_edges] = 0.0
    figure = plot_graphs(probs, graph, ["first", "second"])
    assert isinstance(figure, Figure)
    first, second = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["first", "second"]
    assert len(arrows(first)) == 3
    assert len(arrows(second)) == graph.effective.sum() == 7  # edges without effect are not drawn
    drawn = sorted((arrow.get_linewidth(), arrow.get_linestyle() in ("-", "solid")) for arrow in arrows(first))
    assert [width for width, _ in drawn] == pytest.approx([0.7, 2.3, 3.9])  # .3 + 4 p
    assert [solid for _, solid in drawn] == [False, True, True]  # below one half it is dashed
    assert sorted(texts(first.texts)) == ["0", "1", "2", "3", "4"]
    assert texts(figure.legends[0].get_texts()) == ["truthful", "adversarial"]


def test_one_graph_is_one_panel():
    graph = toy_graph()
    figure = plot_graphs(random_probs(graph, 1), graph, ["only"])
    assert len(figure.axes) == 1
    assert len(arrows(figure.axes[0])) == 4


def test_every_panel_needs_its_title():
    graph = toy_graph()
    with pytest.raises(ValueError):
        plot_graphs(random_probs(graph, 3), graph, ["one", "two"])


# --- files


def draw_training():
    return plot_training(history())


def draw_edge_probs():
    return plot_edge_probs(random_probs(mixed_graph()), mixed_graph())


def draw_by_subject():
    probs, questions = random_probs(mixed_graph(), 2), [SimpleNamespace(area="stem"), SimpleNamespace(area="other")]
    return plot_by_area(probs, probs, mixed_graph(), questions)


def draw_graphs():
    return plot_graphs(random_probs(mixed_graph(), 1), mixed_graph(), ["only"])


@pytest.mark.parametrize("draw", [draw_training, draw_edge_probs, draw_by_subject, draw_graphs])
def test_equal_figures_are_equal_files(tmp_path, draw):
    for folder in ("one", "two"):
        save_figure(draw(), tmp_path / "new" / folder, "name")
    folders = [tmp_path / "new" / folder for folder in ("one", "two")]
    assert all(sorted(path.name for path in folder.iterdir()) == ["name.png", "name.svg"] for folder in folders)
    svg, again = ((folder / "name.svg").read_bytes() for folder in folders)
    assert svg == again
    assert b"<svg" in svg
    assert b"<dc:date>" not in svg
    assert (folders[0] / "name.png").read_bytes().startswith(b"\x89PNG")
