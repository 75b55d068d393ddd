"""Agents of several operations, and what runs them: multiplicities, calls, judges, the paths of the simulated world."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dynagent.execution.boards import BoardRunner
from dynagent.graph import AgentGraph
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.learning.order import data_order
from dynagent.llm.base import Reply
from dynagent.llm.replay import RecordedAnswers
from dynagent.llm.store import Recorded
from dynagent.policies.static import StaticEdgePolicy
from dynagent.sampling import edge_noise, sample_dags
from dynagent.tasks.crosswords import EMPTY, POSITIONS, Puzzle, load_puzzles, placed
from dynagent.team.agents import Constant
from dynagent.team.crosswords import BoardState, GreedyStep, ReflectStep, ReturnAll, brute_force, reflection
from dynagent.worlds.crosswords_solver import SKILLS, SimulatedSolver, family_of

PUZZLE = Puzzle(tuple(f"clue {i}" for i in range(10)), "ABCDEFGHIJKLMNOPQRSTUVWXY")
NAMES = ("b1", "b2", "b3", "g1", "g2", "r", "g3", "g4", "d")


class Scripted:
    """A model that fills in the answer of the first open position, and counts its calls."""

    identity = "scripted-000000000000-none"

    def __init__(self, text=None):
        self.text, self.asked, self.batches_run = text, [], 0

    def reply(self, requests, desc=""):
        self.batches_run += 1
        self.asked += [(r.origin[0], r.puzzle.id, r.state.board, r.state.hint) for r in requests]
        return [Reply(self._text(r) if self.text is None else self.text) for r in requests]

    def _text(self, request):
        if request.origin[0] == "reflect":
            return "h1 right\nPlan: go on"
        for position in POSITIONS:
            try:
                if placed(request.state.board, position, request.puzzle.answers[position]) != request.state.board:
                    return f"{position} {request.puzzle.answers[position]} high"
            except ValueError:
                continue
        return ""


def team(llm, judge="oracle"):
    return AgentGraph([brute_force(llm), reflection(llm)], ReturnAll(judge))


def wired(graph, *edges):
    """[1, 1, M, M]: the fixed edges and these, like "b3 g1"."""
    pairs = graph.potential_edges.tolist()
    taken = torch.zeros(graph.num_edges, dtype=torch.bool)
    for edge in edges:
        source, target = edge.split()
        taken[pairs.index([NAMES.index(source), NAMES.index(target)])] = True
    return graph.adjacency(taken)[None, None]


def test_the_papers_team_has_9_nodes_8_fixed_and_36_potential_edges():
    graph = team(None)
    assert (graph.num_nodes, int(graph.fixed_adjacency.sum()), graph.num_edges) == (9, 8, 36)
    assert [node.name for node in graph.nodes[:-1]] == ["BruteForce"] * 3 + ["Greedy"] * 2 + ["Reflect"] + [
        "Greedy"
    ] * 2
    into_decision = graph.decision_edges
    assert int(into_decision.sum()) == 6
    assert graph.effective.all()


@pytest.mark.parametrize(
    ("edges", "runs", "received"),
    [
        ((), 8, 2),  # every operation once
        (("b3 g1",), 8, 2),  # g1 no longer starts from the empty board
        (("b1 g2",), 12, 3),  # g2, r, g3 and g4 run twice
        (("b1 g2", "b2 g2"), 16, 4),
        (("b1 g2", "b2 r"), 3 + 1 + 2 + 3 * 3, 4),
        (("g1 d", "g2 d"), 8, 4),
        (("g1 b2",), 1 + 2 + 2 + 5, 3),
    ],
)  # fmt: skip
def test_a_node_runs_once_for_every_board_that_it_receives(edges, runs, received):
    llm = Scripted()
    graph = team(llm)
    outcome = BoardRunner(graph).run([PUZZLE], wired(graph, *edges))
    assert int(outcome.num_runs[0, 0]) == runs
    assert outcome.boards[0][0].total() == received


def test_equal_states_are_asked_once_and_a_wave_is_one_call():
    llm = Scripted()
    graph = team(llm)
    puzzles = [PUZZLE, replace(PUZZLE, letters=PUZZLE.letters[::-1])]
    both = torch.cat([wired(graph), wired(graph, "b1 g2", "g1 d")], 1).expand(2, 2, 9, 9)
    runner = BoardRunner(graph)
    runner.run(puzzles, both)
    assert len(llm.asked) == len(set(llm.asked))
    assert llm.batches_run <= 5  # as deep as the deepest graph
    before = len(llm.asked)
    runner.run(puzzles, both)
    assert len(llm.asked) == before


def test_boards_follow_the_graph():
    llm = Scripted()
    graph = team(llm)
    boards = BoardRunner(graph).run([PUZZLE], wired(graph, "b3 g1", "g2 d")).boards[0][0]
    filled = sorted(sum(letter != "_" for letter in state.board) for state in boards)
    assert filled == [10, 15, 25]  # g4 after the emptying, b3, and g2 on top of b3
    assert [state.hint for state in boards if state.hint] == ["h1 ABCDE right\nPlan: go on"]


def test_a_cycle_is_refused():
    graph = team(Scripted())
    with pytest.raises(ValueError, match="cycle"):
        BoardRunner(graph).run([PUZZLE], wired(graph, "b3 g1", "g4 b1"))


@pytest.mark.parametrize("text", ["", "no idea", "h6 APPLE", "h1 APPLES high", "{", "x" * 1_000_000])
def test_a_bad_reply_is_an_outcome(text):
    graph = team(Scripted(text))
    outcome = BoardRunner(graph).run([PUZZLE], wired(graph, "b1 g2"))
    assert outcome.utility.tolist() == [[0.0]]
    assert {state.board for state in outcome.boards[0][0]} == {EMPTY}


def test_nothing_is_asked_about_a_full_board_or_reflected_on_an_empty_one():
    greedy, reflect = GreedyStep(None), ReflectStep(None)
    assert not greedy.has_work(BoardState(PUZZLE.letters))
    assert not reflect.has_work(BoardState())
    assert reflect.next_state(BoardState(PUZZLE.letters, confidence=3.0), "") == BoardState()


def test_the_notes_name_filled_words_only_and_reach_the_next_prompt():
    state = ReflectStep(None).next_state(
        BoardState(placed(EMPTY, "h1", "ABCDE"), confidence=1.0), "h1 ABCDE wrong\nh2 right\nPlan:  try\nagain"
    )
    assert state == BoardState(EMPTY, "h1 ABCDE wrong\nPlan: try again", 0.0)
    request = GreedyStep(None).request(PUZZLE, state)
    assert state.hint in request.prompt[-1][1]
    assert not any(clue in part for clue in PUZZLE.clues for part in request.origin)


def test_the_runner_is_for_boards_and_the_estimator_for_drawn_graphs():
    graph = team(SimulatedSolver())
    with pytest.raises(ValueError, match="leave_one_out"):
        train(
            StaticEdgePolicy.for_graph(graph, 0.1),
            graph,
            [PUZZLE],
            TrainConfig(num_iterations=1),
            runner=BoardRunner(graph),
        )
    with pytest.raises(ValueError, match=r"dynagent\.team\.crosswords"):
        BoardRunner(AgentGraph([Constant()], ReturnAll()))


def test_replies_on_record_replay_without_a_model_and_a_missing_one_names_the_command(tmp_path):
    class Model(Scripted):
        def batches(self, requests):
            return [list(range(len(requests)))]

    path = tmp_path / f"{Scripted.identity}.jsonl"
    graph = team(Recorded(Model(), path))
    first = BoardRunner(graph).run([PUZZLE], wired(graph))
    replayed = team(RecordedAnswers(path, "make record-crosswords"))
    again = BoardRunner(replayed).run([PUZZLE], wired(replayed))
    assert again.boards == first.boards
    with pytest.raises(ValueError, match="`make record-crosswords` records them"):
        BoardRunner(replayed).run([PUZZLE], wired(replayed, "b3 g1"))
    assert "clue" not in path.read_text()


# --- judges and the simulated solver


def test_oracle_is_never_below_self_judged():
    puzzles = load_puzzles("train")[0][:12]
    graph = team(SimulatedSolver(3), "self_judged")
    dags = sample_dags(torch.full((12, 36), -1.0), graph, edge_noise(12, 6, 36, torch.Generator().manual_seed(0)))
    outcome = BoardRunner(graph).run(puzzles, dags.adjacency)
    oracle, own = (outcome.scores[judge][..., 0] for judge in ("oracle", "self_judged"))
    assert (oracle >= own - 1e-9).all()
    assert (oracle > own + 0.05).any()
    assert torch.equal(outcome.utility, own)


def test_ties_are_split_over_messages():
    right, empty = BoardState(placed(EMPTY, "h1", "ABCDE"), confidence=1.0), BoardState("Z" * 25, confidence=1.0)
    assert ReturnAll().scores(PUZZLE, {right: 1, empty: 3})[0] == pytest.approx(0.025)
    assert ReturnAll().scores(PUZZLE, {right: 1, empty: 3}, "oracle")[0] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="oracle"):
        ReturnAll("teacher")


def test_what_a_simulated_solver_knows_depends_on_seed_and_puzzle_alone():
    puzzle = load_puzzles("train")[0][0]
    texts = [SimulatedSolver(seed).text("propose", puzzle, BoardState()) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("family", sorted(SKILLS))
def test_the_simulated_solver_is_as_skilled_as_stated(family):
    puzzles = [p for p in load_puzzles("train")[0] if family_of(p) == family]
    skill, known, judged, bluffed = SKILLS[family], [], [], []
    for seed in range(20):
        for puzzle in puzzles[:30]:
            solver = SimulatedSolver(seed)
            lines = solver.text("propose", puzzle, BoardState()).splitlines()
            words = [(line[:2], line[3:8]) for line in lines]
            known += [(p, answer) in words for p, answer in puzzle.answers.items()]
            bluffed += [line[9:] == skill.bluff for line in lines if line[3:8] != puzzle.answers[line[:2]]]
            wrong = puzzle.letters[1:] + puzzle.letters[0]
            verdicts = [line.split() for line in solver.text("reflect", puzzle, BoardState(wrong)).splitlines()]
            judged += [verdict == "wrong" for p, word, verdict in verdicts if word != puzzle.answers[p]]
    assert sum(known) / len(known) == pytest.approx(skill.knows, abs=0.02)
    assert sum(judged) / len(judged) == pytest.approx(skill.judges, abs=0.02)
    assert any(bluffed)


def test_families_are_balanced_and_in_the_clues():
    for split, share in (("train", (0.4, 0.6)), ("test", (0.4, 0.7))):
        families = [family_of(puzzle) for puzzle in load_puzzles(split)[0]]
        assert share[0] <= families.count("wordy") / len(families) <= share[1]
    puzzle = load_puzzles("test")[0][0]
    assert family_of(replace(puzzle, letters="A" * 25)) == family_of(puzzle)


def test_training_on_boards_learns_whom_to_hear():
    """A graph in which one edge is worth much more than any other."""
    puzzles = [p for p in load_puzzles("train")[0] if family_of(p) == "wordy"]
    graph = team(SimulatedSolver(0), "self_judged")
    policy = StaticEdgePolicy.for_graph(graph, 0.1)
    config = TrainConfig(
        num_iterations=30, batch_size=5, graphs_per_question=16, estimator="leave_one_out", learning_rate=0.2
    )
    history = train(policy, graph, puzzles, config, runner=BoardRunner(graph))
    utility = history.column("utility")
    assert sum(utility[-10:]) > sum(utility[:10]) + 1.0
    probs = policy.edge_logits.sigmoid()
    after_reflection = [n for n, (s, t) in enumerate(graph.potential_edges.tolist()) if s == 5 and t < 3]
    assert probs[after_reflection].max() > 0.5


def test_the_constant_baseline_is_subtracted_from_every_utility():
    """The gradient by the published recipe, beside the naive formula."""
    puzzles = load_puzzles("train")[0][:5]
    graph = team(SimulatedSolver(1))
    policy = StaticEdgePolicy.for_graph(graph, 0.1)
    config = TrainConfig(
        num_iterations=1, batch_size=5, graphs_per_question=2, estimator="constant_baseline", optimizer="sgd",
        learning_rate=1.0,
    )  # fmt: skip
    before = policy.edge_logits.detach().clone()
    history = train(policy, graph, puzzles, config, runner=BoardRunner(graph))
    logits = before.clone().requires_grad_()
    noise = edge_noise(5, 2, 36, config.generator("graphs"))
    dags = sample_dags(logits.expand(5, -1), graph, noise)
    order = data_order(5, config)[0]
    utility = BoardRunner(graph).run([puzzles[i] for i in order], dags.adjacency).utility
    (-((utility - 0.4) * dags.log_prob).mean()).backward()
    assert history.column("baseline") == pytest.approx([0.4])
    assert torch.allclose(policy.edge_logits.detach(), before - logits.grad, atol=1e-6)
