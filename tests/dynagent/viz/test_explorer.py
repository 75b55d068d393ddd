"""Exploring one question: the numbers are the policy's and the runner's, the panel shows them and survives garbage."""

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from dynagent.evaluation.evaluate import evaluate
from dynagent.graph import AgentGraph
from dynagent.llm.load import load_llm
from dynagent.llm.reading import QuestionReader
from dynagent.llm.store import Recorded
from dynagent.policies.base import Policy
from dynagent.policies.edge import EdgePolicy
from dynagent.policies.static import StaticEdgePolicy
from dynagent.runs.build import prepare
from dynagent.runs.config import RunConfig
from dynagent.runs.record import RunRecord
from dynagent.sampling import most_probable_dags
from dynagent.tasks.multiple_choice import Question, load_questions
from dynagent.tasks.recorded import RecordedQuestion
from dynagent.team.agents import Specialist, Truthful
from dynagent.team.votes import NOT_ASKED, MajorityVote
from dynagent.viz.explorer import UNKNOWN, Explorer
from dynagent.viz.plots import group_colours
from tests.support.toy import Knows, save_tiny_backbone

ROOT = Path(__file__).resolve().parents[3]
QUESTIONS = load_questions("sample", split="test")
OWN = Question("Why?", ("a", "b", "c", "d"), 2, "history", "en")


@dataclass(frozen=True)
class Says:
    """An agent that always gives one option."""

    option: int
    reads: bool = False
    name: str = "Says"
    group: str = "sayers"
    llm = None

    def answer(self, question, reply, draw):
        return self.option


class Fixed(Policy):
    """Given edge probabilities, whatever the question; it counts what it reads."""

    def __init__(self, probs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.probs, self.num_read = torch.tensor(probs), 0

    def encode(self, questions):
        self.num_read += len(questions)
        return torch.zeros(len(questions), 0)

    def forward(self, features):
        return self.probs.logit().expand(len(features), -1) + 0 * self.weight


def voters(probs, options=(0, 0, 1)) -> Explorer:
    """Agents that do not read, heard with the given probabilities; other edges would be certain, but do not count."""
    graph = AgentGraph([Says(option) for option in options], MajorityVote())
    all_probs = [0.999] * (graph.num_edges - len(options)) + list(probs)
    return Explorer(Fixed(all_probs), graph, QUESTIONS)


def talkers(probs) -> Explorer:
    return Explorer(Fixed(probs), AgentGraph([Says(0, reads=True), Says(1), Says(2)], MajorityVote()), QUESTIONS)


# --- what is computed


def test_probabilities_answers_and_vote_are_those_of_policy_agents_and_decision():
    explorer = voters([0.9, 0.6, 0.2])
    view = explorer.view(OWN)
    torch.testing.assert_close(view.edge_probs, explorer._read(OWN)[0][0].sigmoid())
    assert view.edge_probs[-3:].tolist() == pytest.approx([0.9, 0.6, 0.2])
    assert view.taken.tolist() == [False] * 6 + [True, True, False]
    assert view.answers.tolist() == [0, 0, NOT_ASKED]
    assert torch.equal(view.option_probs, MajorityVote().option_probs(view.answers, 4))
    assert str(view) == "2 of 3 agents are asked; their vote: A; the right answer: C."
    table = explorer.table(view)
    assert table["P(heard)"].tolist() == ["0.90", "0.60", "0.20"]
    assert table["answer"].tolist() == ["A", "A", "not asked"]
    assert table.index.tolist() == ["1 Says", "2 Says", "3 Says"]


def test_a_tie_and_an_empty_graph_are_said():
    explorer = voters([0.9, 0.1, 0.8])
    assert "their vote: A or B;" in str(explorer.view(OWN))
    assert "0 of 3 agents are asked; their vote: none;" in str(explorer.view(OWN, threshold=1))


def test_who_has_a_path_to_the_decision_is_asked_and_nobody_else():
    """Edges are 0->1, 0->2, 1->0, 1->2, 2->0, 2->1, then into the decision; only agent 0 reads."""
    probs = [0.9, 0.9, 0.8, 0.9, 0.1, 0.9, 0.7, 0.2, 0.3]
    view = talkers(probs).view(OWN)
    assert (view.answers != NOT_ASKED).tolist() == [True, True, False]  # 1 speaks to 0, who speaks to the decision
    assert view.option_probs.tolist() == [1, 0, 0, 0]  # and only 0 votes
    assert view.taken.tolist() == [False, False, True, False, False, False, True, False, False]


PROBS = st.lists(st.floats(0.02, 0.98), min_size=9, max_size=9)


@dataclass(frozen=True)
class Kind:
    """A question for agents that know a kind."""

    id: str = "q0"
    kind: int = 0
    answer: int = 0
    options: tuple = ("a", "b", "c", "d")


@settings(max_examples=60, deadline=None)
@given(
    PROBS, st.lists(st.floats(0.01, 0.99), min_size=2, max_size=2), st.lists(st.floats(0, 1), min_size=2, max_size=2)
)
def test_raising_threshold_or_sparsity_never_adds_an_edge(probs, thresholds, sparsities):
    explorer = Explorer(Fixed(probs), AgentGraph([Knows(reads=True)] * 3, MajorityVote()), QUESTIONS)
    for settings_of in ([(t, 0.0) for t in sorted(thresholds)], [(0.3, s) for s in sorted(sparsities)]):
        low, high = (explorer.view(Kind(), *values) for values in settings_of)
        assert not (high.taken & ~low.taken).any()
        for view, (threshold, sparsity) in zip((low, high), settings_of, strict=True):
            assert (view.edge_probs[view.taken] >= threshold - 1e-5).all()
            assert int(view.taken.sum()) <= round((1 - sparsity) * 9)


def test_at_one_half_it_is_the_most_probable_graph():
    generator = torch.Generator().manual_seed(0)
    graph = AgentGraph([Knows(reads=True)] * 3, MajorityVote())
    for _ in range(20):
        probs = torch.rand(9, generator=generator).clamp(0.01, 0.99)
        expected = most_probable_dags(probs.logit()[None], graph).taken[0, 0]
        assert torch.equal(Explorer(Fixed(probs.tolist()), graph, []).view(Kind()).taken, expected)


def test_sparsity_keeps_the_most_probable_of_the_edges_that_count():
    explorer = voters([0.6, 0.9, 0.7])
    for sparsity, votes in (
        (0.0, [True] * 3),
        (0.34, [False, True, True]),
        (0.67, [False, True, False]),
        (1, [False] * 3),
    ):
        assert explorer.view(OWN, sparsity=sparsity).taken[-3:].tolist() == votes


@pytest.mark.parametrize("values", [(-0.1, 0), (1.1, 0), (0.5, -1), (0.5, 2), (float("nan"), 0)])
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match="lie between 0 and 1"):
        voters([0.5] * 3).view(OWN, *values)


def test_two_questions_are_drawn_on_one_scale():
    explorer = voters([0.9, 0.6, 0.2])
    figure = explorer.figure([explorer.view(OWN), explorer.view(QUESTIONS[0], threshold=0.8)])
    widths = [[patch.get_linewidth() for patch in ax.patches] for ax in figure.axes]
    assert widths == [pytest.approx([0.3 + 4 * 0.9, 0.3 + 4 * 0.6]), pytest.approx([0.3 + 4 * 0.9])]
    assert figure.axes[0].get_title() == "history (en)"


def test_edges_into_the_decision_are_marked():
    """They have their speaker's colour; 1 -> 0, between agents, is grey."""
    explorer = talkers([0.9, 0.9, 0.8, 0.9, 0.1, 0.9, 0.7, 0.2, 0.3])
    (ax,) = explorer.figure([explorer.view(OWN)]).axes
    into, between = sorted(ax.patches, key=lambda patch: patch.get_linewidth())
    assert into.get_linewidth() == pytest.approx(0.3 + 4 * 0.7)
    assert to_hex(into.get_edgecolor()) == to_hex(group_colours(explorer.graph)["sayers"])
    assert to_hex(between.get_edgecolor()) == to_hex("0.6")


@pytest.fixture(scope="module")
def live(tmp_path_factory) -> Explorer:
    """Two specialists and a truthful agent on a tiny language model."""
    folder = save_tiny_backbone(tmp_path_factory.mktemp("llm"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAGENT_CACHE", str(tmp_path_factory.mktemp("cache")))
        llm = load_llm(folder)
        reader = QuestionReader(llm.model)
    graph = AgentGraph([Specialist(llm, domain="en"), Specialist(llm, domain="zh"), Truthful(llm)], MajorityVote())
    policy = EdgePolicy.from_backbone(reader, graph, head_init="default")
    return Explorer(policy, graph, QUESTIONS)


def test_nothing_is_read_or_asked_twice(live):
    llm, reader = live.graph.team[0].llm, live._read(OWN)[0]
    assert isinstance(llm, Recorded)
    assert reader.shape == (1, live.graph.num_edges)
    first = live.view(OWN, threshold=0.0)
    asked = llm.usage.calls
    for threshold in (0.0, 0.3, 0.5, 0.9, 0.0):
        again = live.view(OWN, threshold)
    assert llm.usage.calls == asked
    assert torch.equal(first.answers, again.answers)


def test_what_is_not_heard_is_not_asked(live):
    llm = live.graph.team[0].llm
    before = llm.usage.calls
    live.view(Question("Another?", ("a", "b", "c", "d"), UNKNOWN, "history", "en"), threshold=1.0)
    assert llm.usage.calls == before


def test_the_same_text_in_another_language_is_another_question(live):
    """The policy reads the same; the specialists are told another domain."""
    english = Question("Which?", ("a", "b", "c", "d"), UNKNOWN, "history", "en")
    chinese = Question("Which?", ("a", "b", "c", "d"), UNKNOWN, "history", "zh")
    one, other = live.view(english, 0.0), live.view(chinese, 0.0)
    assert torch.equal(one.edge_probs, other.edge_probs)
    assert one.answers[2] == other.answers[2]
    assert live._read(english)[1] is not live._read(chinese)[1]
    assert str(one).endswith("the right answer: not known (asked as en: history).")
    assert str(other).endswith("the right answer: not known (asked as zh: history).")


def test_another_team_than_the_policys_is_warned_of():
    graph = AgentGraph([Says(0)] * 2, MajorityVote())
    policy = StaticEdgePolicy.for_graph(AgentGraph([Knows()] * 2, MajorityVote()))
    with pytest.warns(UserWarning, match="made for another team: agent 1 was Knows"):
        Explorer(policy, graph, QUESTIONS)


# --- the panel


def parts_of(side) -> dict:
    """The widgets of one side by the last part of their CSS class."""
    return {part._dom_classes[0].split("-", 2)[2]: part for part in side.children}


def opened(explorer):
    (threshold, sparsity), sides = (box.children for box in explorer.panel().children)
    assert (threshold.description, sparsity.description) == ("threshold", "sparsity")
    return threshold, sparsity, *(parts_of(side) for side in sides)


TYPED = "Who wrote Hamlet?\nOption A: Shakespeare\nOption B: Goethe\nDante\nHomer"


def test_a_picked_question_is_shown_at_once():
    explorer = voters([0.9, 0.6, 0.2])
    _, _, left, right = opened(explorer)
    assert (left["subject"].value, right["subject"].value) == (("en", "biology"), ("zh", "physics"))
    for side in (left, right):
        question = side["pick"].value
        assert side["question"].value == question.render()
        assert (question.language, question.subject) == side["subject"].value
        assert side["message"].value == str(explorer.view(question))
        assert bytes(side["figure"].value).startswith(b"\x89PNG")
        assert "0.90" in side["table"].value
    left["subject"].value = ("zh", "history")
    assert all((q.language, q.subject) == ("zh", "history") for _, q in left["pick"].options)
    left["pick"].index = 2
    assert left["question"].value == left["pick"].value.render()
    assert left["message"].value == str(explorer.view(left["pick"].value))


def test_the_sliders_set_both_graphs():
    explorer = voters([0.9, 0.6, 0.2])
    threshold, sparsity, left, right = opened(explorer)
    before = left["figure"].value
    threshold.value = 0.1
    assert all(side["message"].value.startswith("3 of 3 agents") for side in (left, right))
    assert left["figure"].value != before
    sparsity.value = 0.65
    assert all(side["message"].value.startswith("1 of 3 agents") for side in (left, right))


def test_a_typed_question_is_read_once_and_not_while_it_is_typed():
    explorer = voters([0.9, 0.6, 0.2])
    threshold, _, left, right = opened(explorer)
    assert not left["question"].continuous_update
    assert not threshold.continuous_update
    before = explorer.policy.num_read
    left["question"].value = TYPED
    left["ask"].click()
    threshold.value = 0.7
    assert explorer.policy.num_read == before + 1
    told = "1 of 3 agents are asked; their vote: A; the right answer: not known (asked as en: biology)."
    assert left["message"].value == told
    assert "not known" not in right["message"].value


def test_a_typed_question_with_chinese_characters_is_asked_as_chinese():
    explorer = voters([0.9, 0.6, 0.2])
    _, _, left, right = opened(explorer)
    for side, text, asked_as in (
        (left, TYPED, "en: biology"),
        (left, "谁写了《哈姆雷特》？\n莎士比亚\n歌德\n但丁\n荷马", "zh: biology"),
        (left, TYPED.replace("Dante", "但丁"), "zh: biology"),
        (right, TYPED, "zh: physics"),
    ):
        side["question"].value = text
        assert f"(asked as {asked_as})" in side["message"].value


GARBAGE = ["", "  \n ", "Why?", "a\nb\nc\nd", "Why?\nOption A:\nb\nc\nd", "Why?\nonly one option"]


@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_is_answered_in_one_sentence(text):
    explorer = voters([0.9, 0.6, 0.2])
    _, _, left, right = opened(explorer)
    figure, other = left["figure"].value, right["message"].value
    left["question"].value = text
    left["ask"].click()
    assert left["message"].value == "Not shown: type a question and, on the last four lines, an option on each."
    assert left["figure"].value == figure
    assert right["message"].value == other


def test_a_text_that_no_model_can_read_is_answered_in_one_sentence(live):
    _, _, left, _ = opened(live)
    left["question"].value = "x" * 100_000 + "\na\nb\nc\nd"
    assert left["message"].value.startswith("Not shown: A prompt of 100,0")
    assert "longer than the 4,096" in left["message"].value
    left["pick"].index = 1
    assert "agents are asked" in left["message"].value


def test_markup_in_a_question_stays_text(live):
    markup = "<script>alert(1)</script>"
    _, _, left, _ = opened(live)
    left["question"].value = "\n".join([markup] * 5)
    assert "agents are asked" in left["message"].value
    left["question"].value = "\n".join([markup * 1000] * 5)  # too long for the model, whose message quotes it
    assert left["message"].value.startswith("Not shown: A prompt of ")
    assert not any("<script" in left[name].value for name in ("message", "table"))


def test_questions_whose_text_is_not_on_record_can_be_picked():
    questions = [RecordedQuestion(id=f"{i:016x}", answer=i, subject="history", language="en") for i in range(3)]
    explorer = Explorer(Fixed([0.5] * 9), voters([0.5] * 3).graph, questions)
    _, _, left, _ = opened(explorer)
    assert "its text is not on record" in left["question"].value
    assert left["message"].value == str(explorer.view(questions[0]))


def test_without_ipywidgets_the_panel_says_what_to_install_and_the_rest_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    explorer = voters([0.9, 0.6, 0.2])
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dynagent\[widgets\]'"):
        explorer.panel()
    assert explorer.figure([explorer.view(OWN)]).axes


# --- the policy that ships


def test_the_shipped_policy_scores_as_its_record_says():
    """From recordings: question by question as `evaluate`, on average as the record; it hears those of the language."""
    folder = next((ROOT / "results" / "explore").glob("*/record.json")).parent
    record = RunRecord.load(folder / "record.json")
    experiment = prepare(RunConfig.from_parameters(record.parameters))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # its team is the one it was trained for
        policy = EdgePolicy.from_pretrained(folder / "policy")
        policy.reader = experiment.reader
        explorer = Explorer(policy, experiment.graph, experiment.eval_questions, experiment.config.seed)
    result = evaluate(policy, experiment.graph, explorer.questions, graphs="most_probable", runner=experiment.runner)
    expected = record.metrics["wirings"]["learned, most probable"]["accuracy"]
    assert result.accuracy.mean == pytest.approx(expected.mean, abs=1e-6)
    assert result.accuracy.n == expected.n == 1000
    for question, score in list(zip(explorer.questions, result.scores.tolist(), strict=True))[:60]:
        view = explorer.view(question)
        assert float(view.option_probs[question.answer]) == pytest.approx(score)
        heard = view.edge_probs[experiment.graph.decision_edges]
        own, others = (heard[:4], heard[4:]) if question.language == "en" else (heard[4:], heard[:4])
        assert own.mean() > others.mean() + 0.3
