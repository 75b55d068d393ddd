"""The crosswords experiments: the paths against the runner, the optimum, the configuration, and what is on record."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from dynagent.execution.boards import BoardRunner
from dynagent.sampling import edge_noise, sample_dags
from dynagent.tasks.crosswords import load_puzzles
from dynagent.team.crosswords import JUDGES
from dynagent.worlds.crosswords import PathTable, Search, acyclic, all_paths, simulated_team
from studies.common.record import load_record
from studies.crosswords.answers import fixed_graphs, recorded_answers, run_graphs, team
from studies.crosswords.measure import CELLS, Run, evaluate_run, load_split, make_policy, measure, run, scores_of
from studies.crosswords.settings import PRESETS, CrosswordsConfig
from studies.crosswords.tables import WorldRecord, answers_table

ROOT = Path(__file__).resolve().parents[3]
PUZZLES = load_puzzles("train")[0][:4]


@pytest.fixture(scope="module")
def table() -> PathTable:
    return PathTable.compute(PUZZLES, [7])


def test_the_paths_are_those_of_acyclic_graphs():
    assert len(all_paths()) == 1076
    assert {len(path) for path in all_paths()} == set(range(1, 9))


@pytest.mark.parametrize("judge", JUDGES)
def test_a_graph_is_worth_what_running_it_gives(table, judge):
    graph = simulated_team(7, judge)
    noise = edge_noise(len(PUZZLES), 12, graph.num_edges, torch.Generator().manual_seed(1))
    adjacency = sample_dags(torch.full((len(PUZZLES), graph.num_edges), -0.8), graph, noise).adjacency
    expected = BoardRunner(graph).run(PUZZLES, adjacency).scores[judge]
    for p, k in itertools.product(range(len(PUZZLES)), range(12)):
        assert table.judged(adjacency[p, k], judge)[p, 0] == pytest.approx(expected[p, k].tolist())
    assert scores_of(adjacency, table, judge) == pytest.approx(expected.mean(1).numpy(), abs=1e-6)


def test_the_optimum_is_the_best_of_the_stated_set_and_climbing_only_gains(table):
    search = Search(table, "self_judged")
    graph, values = search.graph, {}
    for edges in [(), *((e,) for e in range(36)), *itertools.combinations(range(36), 2)]:
        adjacency = acyclic(edges, graph)
        if adjacency is not None:
            values[edges] = table.judged(adjacency, "self_judged")[..., 0].mean()
    best = search.enumerate(2)["all"]
    assert best.mean == pytest.approx(max(values.values()))
    assert search.climb(best, "all").mean >= best.mean


# --- configuration


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"judge": "teacher"}, "oracle"),
        ({"puzzles": "some"}, "disjoint"),
        ({"preset": "big"}, "laptop"),
        ({"learning_rat": 1.0}, "did you mean 'learning_rate'"),
        ({"initial_probability": 1.0}, "strictly between"),
        ({"num_draws": 0}, "num_draws"),
        ({"estimator": "exact"}, "leave_one_out"),
        ({"standardize": 1}, "true or false"),
        ({"agent_llm": ""}, "not empty"),
        ({"static_learning_rate": -1.0}, "static_learning_rate"),
        ({"estimator": "leave_one_out", "graphs_per_question": 1}, "2 or more"),
    ],
)
def test_bad_parameters_are_one_sentence(parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        CrosswordsConfig.from_parameters(parameters)


def test_presets_and_cells_are_valid_and_paper_is_the_published_recipe():
    for name in PRESETS:
        assert CrosswordsConfig.from_parameters({"preset": name}).preset == name
    paper = CrosswordsConfig.from_parameters({"preset": "paper"})
    assert (paper.num_iterations, paper.batch_size, paper.graphs_per_question) == (40, 5, 1)
    assert (paper.static_learning_rate, paper.learning_rate, paper.initial_probability) == (0.4, 1e-4, 0.1)
    assert (paper.judge, paper.puzzles, paper.agent_llm) == ("oracle", "same", "meta-llama/Meta-Llama-3-8B-Instruct")
    for options in CELLS.values():
        CrosswordsConfig.from_parameters(options)


def test_training_and_evaluation_puzzles_are_disjoint_unless_asked_for():
    train, held_out = load_split(CrosswordsConfig())
    assert (len(train), len(held_out)) == (136, 20)
    assert not {p.id for p in train} & {p.id for p in held_out}
    assert load_split(CrosswordsConfig(puzzles="same")) == (held_out, held_out)


def test_a_smoke_run_trains_both_policies_and_evaluates_them_by_both_judges():
    config = CrosswordsConfig.from_parameters({"preset": "smoke", "num_iterations": 2})
    done = run(config)
    assert [len(history.rows) for history in done.histories.values()] == [2, 2]
    again = run(config)
    assert [h.rows for h in again.histories.values()] == [h.rows for h in done.histories.values()]
    for scores in evaluate_run(done).values():
        for graphs in ("most probable", "sampled"):
            assert (scores[f"{graphs}, oracle"][:, 0] >= scores[f"{graphs}, self_judged"][:, 0] - 1e-9).all()


def test_a_language_model_is_run_instead_of_the_table():
    """With the replies on record in place of a model; a policy of no edges is the agents alone."""
    config = CrosswordsConfig(agent_llm="recorded")
    graph = team(recorded_answers())
    policy = make_policy("static", config, graph)
    puzzles = load_puzzles("test")[0]
    with torch.no_grad():
        policy.edge_logits.fill_(-30.0)
    found = evaluate_run(Run(config, graph, {"static": policy}, {}, puzzles, {}, {}))["static"]
    expected = load_record("crosswords/answers").numbers["graphs"]["agents alone"]["scores"]
    for judge in JUDGES:
        assert found[f"most probable, {judge}"] == pytest.approx(np.array(expected[judge]), abs=1e-4)


# --- what is on record


def test_real_answers_replay_to_what_is_on_record():
    results, _ = run_graphs(recorded_answers())
    for found in results.values():  # counted since: all of them are written
        assert found["usage_so_far"].pop("written") == found["usage_so_far"]["calls"]
    assert results == load_record("crosswords/answers").numbers["graphs"]
    assert len(fixed_graphs(team(None))) == 4
    assert len(answers_table()) == 8


def test_no_clue_is_in_the_recordings():
    (path,) = (ROOT / "results" / "recordings" / "crosswords").glob("*.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    asked = " ".join(" ".join(line["origin"]) for line in lines)
    assert not any(clue in asked for puzzle in load_puzzles("test")[0] for clue in puzzle.clues)
    assert all(line["completion_tokens"] <= 200 for line in lines)


def test_reading_the_puzzle_pays_in_the_world():
    world = WorldRecord()
    assert world.num_seeds >= 10
    assert not world.record.code.dirty
    gain = world.gain("default, self_judged")
    assert gain.ci_low > 0
    per_seed = (
        world.scores("default, self_judged", "dynamic")[..., 0] - world.scores("default, self_judged", "static")[..., 0]
    ).mean(1)
    assert (per_seed > 0).all()
    for cell in CELLS:
        for policy in ("static", "dynamic"):
            words = {judge: world.scores(cell, policy, judge=judge)[..., 0] for judge in JUDGES}
            assert (words["oracle"] >= words["self_judged"] - 1e-9).all()
            assert words["oracle"].mean() <= world.optimum("oracle")["best for each family"] + 1e-6
            assert words["self_judged"].mean() <= world.optimum("self_judged")["best for each family"] + 1e-6
    assert all(seed[policy]["seconds"] < 60 for seeds in world.numbers["cells"].values() for seed in seeds
               for policy in ("static", "dynamic"))  # fmt: skip


def test_the_first_paragraph_says_what_is_on_record():
    world = WorldRecord()
    gain, best = world.gain("default, self_judged"), world.optimum("self_judged")
    share = world.scores("default, self_judged", "dynamic")[..., 0].mean() / best["best for each family"]
    first = nbformat.read(ROOT / "notebooks" / "crosswords.ipynb", 4).cells[0].source
    assert f"{gain.mean:+.3f} [{gain.ci_low:+.3f}, {gain.ci_high:+.3f}]" in first
    assert f"{share:.0%}".replace("%", " %") in first


@pytest.mark.slow
def test_a_seed_gives_again_what_is_on_record():
    cell = "default, self_judged"
    measured, recorded = measure(cell, 1), load_record("crosswords").numbers["cells"][cell][1]
    for policy in ("static", "dynamic"):
        assert measured[policy]["utility"] == pytest.approx(recorded[policy]["utility"], abs=2e-3)
        assert measured[policy]["calls"] == recorded[policy]["calls"]
        for name, scores in recorded[policy]["scores"].items():
            assert np.array(measured[policy]["scores"][name]) == pytest.approx(np.array(scores), abs=2e-3)
