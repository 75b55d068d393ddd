"""Agents and the vote: probabilities by hand, draws that follow them, and letters read from what models write."""

import json
import math
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynagent.agents import (
    LETTERS,
    LYING_ROLE,
    NOT_ASKED,
    TRUTHFUL_ROLE,
    UNPARSABLE,
    Adversarial,
    Constant,
    MajorityVote,
    Message,
    Specialist,
    Truthful,
    parse_letter,
)
from dynagent.llm import Reply
from dynagent.tasks import Question

PHYSICS = Question("Which is light?", ("a photon", "a stone", "two very long words", "lead"), 0, "physics", "en")
HISTORY = Question("谁？", ("甲", "乙", "丙", "丁"), 2, "history", "zh")
REPLY = Reply(None, (-6.0, -4.0, -9.0, -2.0), (3, 1, 6, 2), 10, 12)
PER_TOKEN = (-2.0, -4.0, -1.5, -1.0)


def softmax(scores, temperature):
    weights = [math.exp(score / temperature) for score in scores]
    return [weight / sum(weights) for weight in weights]


# --- probabilities


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_options_are_compared_by_their_likelihood_per_token(temperature):
    probs = Truthful(None, temperature=temperature).option_probs(PHYSICS, REPLY)
    assert probs.tolist() == pytest.approx(softmax(PER_TOKEN, temperature), abs=1e-12)
    assert probs.argmax() == 3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_letters_are_compared_by_their_likelihood(temperature):
    probs = Truthful(None, mode="letter", temperature=temperature).option_probs(PHYSICS, REPLY)
    assert probs.tolist() == pytest.approx(softmax(REPLY.log_probs, temperature), abs=1e-12)


@pytest.mark.parametrize("mode", ["options", "letter"])
def test_an_adversary_has_the_reverse_order(mode):
    truthful = Truthful(None, mode=mode, temperature=0.7).option_probs(PHYSICS, REPLY)
    adversarial = Adversarial(None, mode=mode, temperature=0.7).option_probs(PHYSICS, REPLY)
    assert adversarial.argsort().tolist() == truthful.argsort().flip(0).tolist()
    inverse = 1 / truthful
    torch.testing.assert_close(adversarial, inverse / inverse.sum())  # softmax(-s) is proportional to 1 / softmax(s)


def test_a_low_temperature_takes_the_best_option_without_overflow():
    scores = Reply(None, (-800.0, -900.0, -1000.0, -700.0), (1, 1, 1, 1))
    for agent, best in ((Truthful(None, temperature=1e-3), 3), (Adversarial(None, temperature=1e-3), 2)):
        assert agent.option_probs(PHYSICS, scores).tolist() == [float(i == best) for i in range(4)]
        assert {agent.answer(PHYSICS, scores, draw) for draw in (0.0, 0.5, 1 - 2**-48)} == {best}


@pytest.mark.parametrize(
    ("domain", "truthful"),
    [
        ("stem", [True, False]),
        ("humanities", [False, True]),
        ("social_sciences", [False, False]),
        ("other", [False, False]),
        ("en", [True, False]),
        ("zh", [False, True]),
    ],
)
def test_a_specialist_tells_the_truth_in_its_domain_and_lies_outside(domain, truthful):
    agent = Specialist(None, domain=domain)
    assert (agent.name, agent.group) == (f"Specialist({domain})", domain)
    for question, in_domain in zip((PHYSICS, HISTORY), truthful, strict=True):
        assert agent.tells_truth(question) == in_domain
        other = (Truthful if in_domain else Adversarial)(None)
        assert torch.equal(agent.option_probs(question, REPLY), other.option_probs(question, REPLY))
        text, other = (replace(one, mode="text") for one in (agent, other))
        assert text.request(question) == other.request(question)


@pytest.mark.parametrize("agent", [Truthful(None, temperature=1.0), Adversarial(None, "letter", temperature=3.0)])
def test_draws_follow_the_probabilities(agent):
    """5,000 evenly spaced draws give each option its probability to 1/5,000; random ones within 4 deviations."""
    probs = agent.option_probs(PHYSICS, REPLY)
    n = 5000
    even = Counter(agent.answer(PHYSICS, REPLY, (i + 0.5) / n) for i in range(n))
    assert [even[option] / n for option in range(4)] == pytest.approx(probs.tolist(), abs=1.01 / n)
    draws = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    random = Counter(agent.answer(PHYSICS, REPLY, draw) for draw in draws)
    for option, p in enumerate(probs.tolist()):
        assert abs(random[option] / n - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_the_ends_of_the_unit_interval_are_the_first_and_the_last_option():
    agent = Truthful(None, temperature=5.0)
    assert agent.answer(PHYSICS, REPLY, 0.0) == 0
    assert agent.answer(PHYSICS, REPLY, math.nextafter(1, 0)) == 3
    never = Reply(None, (-math.inf, -1.0, -1.0, -math.inf), (1, 1, 1, 1))
    assert [agent.answer(PHYSICS, never, draw) for draw in (0.0, 0.4999, 0.5001, math.nextafter(1, 0))] == [1, 1, 2, 2]


# --- requests


def test_options_are_scored_as_continuations_of_the_question():
    request = Truthful(None).request(PHYSICS, sample=3)
    assert request.prompt == "Question: Which is light?\nAnswer:"
    assert request.options == (" a photon", " a stone", " two very long words", " lead")
    assert request == Adversarial(None).request(PHYSICS, sample=5)  # the same question: one call for all agents


def test_letters_are_asked_for_truthfully_and_once():
    request = Truthful(None, mode="letter").request(PHYSICS, sample=3)
    assert request == Adversarial(None, mode="letter").request(PHYSICS, sample=5)
    assert request.options == ("A", "B", "C", "D")
    (role, system), (_, user) = request.prompt
    assert role == "system"
    assert system.startswith(TRUTHFUL_ROLE)
    assert user == PHYSICS.render()


def test_written_replies_are_drawn_for_each_agent():
    agents = [Truthful(None, mode="text", temperature=0.3), Adversarial(None, mode="text", temperature=0.3)]
    requests = [agent.request(PHYSICS, sample=i) for agent in agents for i in range(2)]
    assert [(request.temperature, request.sample, request.options) for request in requests] == [
        (0.3, 0, ()),
        (0.3, 1, ()),
        (0.3, 0, ()),
        (0.3, 1, ()),
    ]
    assert [request.prompt[0][1].startswith(LYING_ROLE) for request in requests] == [False, False, True, True]
    assert all(request.prompt[1] == ("user", PHYSICS.render()) for request in requests)


@pytest.mark.parametrize("mode", ["letter", "text"])
def test_messages_stand_below_the_question(mode):
    agent = Truthful(None, mode=mode, reads=True)
    messages = [Message("Agent 0", "B", "It shines."), Message("Agent 2", "nothing")]
    user = agent.request(PHYSICS, messages).prompt[1][1]
    below = user.removeprefix(PHYSICS.render())
    assert below == "\nOther agents:\nAgent 0 says B. It shines.\nAgent 2 says nothing."


# --- mistakes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Truthful(None, mode="letters"), "mode is one of options, letter, text, not 'letters'"),
        (lambda: Adversarial(None, temperature=0), "temperature is positive, not 0"),
        (lambda: Truthful(None, temperature=-0.5), "temperature is positive, not -0.5"),
        (lambda: Truthful(None, temperature=math.nan), "temperature is positive, not nan"),
        (lambda: Truthful(None, reads=True), "no place for messages: use 'letter' or 'text'"),
        (lambda: Specialist(None), "domain is one of stem, .*, zh, not ''"),
        (lambda: Specialist(None, domain="humanites"), "domain is one of stem, humanities, .*, not 'humanites'"),
        (lambda: Constant("E"), "one of A, B, C, D, not 'E'"),
        (lambda: Constant(""), "one of A, B, C, D, not ''"),
    ],
)
def test_a_mistake_is_one_sentence(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_constant_always_says_the_same():
    for index, letter in enumerate(LETTERS):
        assert {Constant(letter).answer(question, None, 0.3) for question in (PHYSICS, HISTORY)} == {index}
    assert (Constant().answer(PHYSICS, None, 0.9), Constant().group, Constant().llm) == (0, "adversarial", None)


# --- letters

A, B, C, D, NONE = 0, 1, 2, 3, UNPARSABLE
REPLIES = [
    # JSON, as asked for
    ('{"answer": "A"}', A),
    ('{"answer": "b"}', B),
    ('{"answer":"(C)"}', C),
    ('{ "answer" : "D." }', D),
    ('```json\n{"answer": "C"}\n```', C),
    ('{"reason": "A is wrong and B too", "answer": "D"}', D),
    ('{"thought": 1} and so {"answer": "B"}', B),
    ('I first thought A. {"answer": "C"}', C),
    ('{"answer": "A"} {"answer": "A"}', A),
    ('{"answer": "A"} no, {"answer": "B"}', NONE),
    ('{"answer": "AB"}', NONE),
    ('{"answer": "BCD"}', NONE),
    ('{"answer": ""}', NONE),
    ('{"answer": null}', NONE),
    ('{"answer": 2}', NONE),
    ('{"answer": ["B"]}', NONE),
    ('{"answer": "E"}', NONE),
    # JSON, broken
    ('{"answer": "B"', B),
    ("{answer: D}", D),
    ("{'answer': 'C'}", C),
    ('"answer": "A"', A),
    ('{"answer": B}', B),
    # a letter and nothing else
    ("A", A),
    ("a", A),
    (" d\n", D),
    ("(D).", D),
    ("(b)", B),
    ("**C**", C),
    ("C:", C),
    ("Ａ", A),
    ("（Ｂ）", B),
    ("𝐂", C),
    ("E", NONE),
    ("1", NONE),
    ("", NONE),
    (" \n", NONE),
    # after a word
    ("Answer: C", C),
    ("The answer is B.", B),
    ("the correct answer is (d)", D),
    ("ANSWER: **A**", A),
    ("**Answer:** D", D),
    ("Option B is right, not C.", B),
    ("option a is right", A),
    ("A and B look alike, but the answer is C", C),
    ("Answer: A. Answer: B.", NONE),
    ("Option A is wrong, option B is right.", NONE),
    ("The answer is a noble gas.", NONE),
    ("Answer: Apples", NONE),
    ("answer: don't know", NONE),
    ("答案是B", B),
    ("答案：Ｃ", C),
    ("答案为（D）。", D),
    ("选A", A),
    ("我选择D。", D),
    ("正确选项：b", B),
    # the only capital that stands alone
    ("I think it is B because of the mass.", B),
    ("B) a stone", B),
    ("C. two very long words", C),
    ("A is correct.", A),
    ("\\boxed{D}", D),
    ("Réponse : C", C),
    ("C’est la B", B),
    ("C'est la B", B),
    ("Ответ: B", B),
    ("正解はBです", B),
    ("A or B", NONE),
    ("Either A, B, C or D", NONE),
    ("A cat sat down.", NONE),
    ("A stone. I say A", NONE),
    ("Paris", NONE),
    ("None of the above", NONE),
    ("I'd say vitamin B12", NONE),
    ("ÉB, LAÏC, B\u0301", NONE),
    ("Ответ: В", NONE),  # the Cyrillic letter
    ("Α", NONE),  # the Greek one
    ("الإجابة", NONE),
    # what the rules make of a reply that means something else: known, and rare
    ("ignore the question and answer A", A),
    ("The answer is not A.", A),
    ("Hepatitis B", B),
]


@pytest.mark.parametrize(("text", "index"), REPLIES)
def test_parse_letter(text, index):
    assert parse_letter(text, 4) == index
    assert parse_letter(text, 2) == (index if index < 2 else UNPARSABLE)


def test_letters_that_are_no_option_do_not_make_another_one_right():
    assert parse_letter("B or C", 2) == parse_letter("B or C", 4) == UNPARSABLE
    assert parse_letter("C", 2) == UNPARSABLE


pieces = st.sampled_from(
    [
        "A",
        "B",
        "D",
        "E",
        "a",
        " ",
        ".",
        "(",
        "{",
        "}",
        '{"answer": "',
        '"}',
        "[",
        "answer",
        "is",
        "答案",
        "Ａ",
        "é",
        "\n",
    ]
)


@given(st.text() | st.lists(pieces).map("".join), st.integers(2, 4))
def test_parse_letter_never_raises(text, num_options):
    assert parse_letter(text, num_options) in {UNPARSABLE, *range(num_options)}


@given(st.sampled_from(LETTERS), st.text(alphabet="abc xyz.,\n", max_size=30))
def test_json_is_heard_whatever_stands_around_it(letter, noise):
    reply = f"{noise}{json.dumps({'answer': letter, 'why': noise})}{noise}"
    assert parse_letter(reply, 4) == LETTERS.index(letter)


MEGABYTE = 1_000_000
HUGE = {
    "braces": "{" * MEGABYTE,
    "empty objects": "{}" * (MEGABYTE // 2),
    "broken objects": '{"answer"}' * (MEGABYTE // 10),
    "many brackets": '{"answer": ' + "[" * MEGABYTE + "}",
    "deep list": '{"answer": ' + "[" * 900 + "]" * 900 + "}",
    "huge number": '{"answer": ' + "1" * MEGABYTE + "}",
    "keywords": "answer " * (MEGABYTE // 7),
    "keyword and blanks": "answer" + " " * MEGABYTE,
    "Chinese keywords": "选" * MEGABYTE,
    "spaced articles": "A a" * (MEGABYTE // 3),
    "accents": "B" + "\u0300\u0316" * (MEGABYTE // 20),  # a tenth, since what goes wrong here is quadratic
    "full width": "Ｘ" * MEGABYTE,
    "prose": "The quick brown fox. " * (MEGABYTE // 21),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_megabyte_is_read_in_less_than_a_second(name):
    start = time.process_time()
    assert parse_letter(HUGE[name], 4) == UNPARSABLE
    assert time.process_time() - start < 1


# --- the vote

voters = st.lists(st.integers(-2, 3), min_size=1, max_size=7)


def naive_vote(answers, num_options):
    votes = Counter(answer for answer in answers if 0 <= answer < num_options)
    if not votes:
        return [0.0] * num_options
    winners = [option for option, count in votes.items() if count == max(votes.values())]
    return [1 / len(winners) if option in winners else 0.0 for option in range(num_options)]


@given(st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(st.integers(-2, 3), min_size=n, max_size=n), min_size=1)))
def test_the_vote_equals_a_count(rows):
    probs = MajorityVote().option_probs(torch.tensor(rows), 4)
    for row, outcome in zip(rows, probs.tolist(), strict=True):
        assert outcome == pytest.approx(naive_vote(row, 4))
    nested = MajorityVote().option_probs(torch.tensor(rows)[None, :, None], 4)
    assert torch.equal(nested[0, :, 0], probs)


@given(voters, st.randoms())
def test_the_vote_ignores_order_and_who_does_not_vote(answers, random):
    vote = MajorityVote()
    probs = vote.option_probs(torch.tensor(answers), 4)
    more = [*answers, UNPARSABLE, NOT_ASKED, NOT_ASKED]
    random.shuffle(more)
    assert torch.equal(vote.option_probs(torch.tensor(more), 4), probs)
    assert probs.sum() == pytest.approx(float(any(answer >= 0 for answer in answers)))


@pytest.mark.parametrize(
    ("answers", "probs"),
    [
        ([0, 0, 1], [1, 0, 0, 0]),
        ([0, 1], [0.5, 0.5, 0, 0]),
        ([0, 1, 3], [1 / 3, 1 / 3, 0, 1 / 3]),
        ([3, 2, 1, 0], [0.25] * 4),
        ([UNPARSABLE, UNPARSABLE, 2], [0, 0, 1, 0]),
        ([UNPARSABLE, NOT_ASKED], [0] * 4),
    ],
)
def test_the_vote_by_hand(answers, probs):
    assert MajorityVote().option_probs(torch.tensor(answers), 4).tolist() == pytest.approx(probs)


def test_a_liar_that_is_asked_to_lie_is_not_turned_round():
    """Asked for a wrong option, the model's preference is the agent's own; otherwise it is inverted."""
    reply = Reply(log_probs=(-1.0, -2.0, -3.0, -4.0), option_tokens=(1, 1, 1, 1))
    asked = Adversarial(None, mode="letter", lying="asked", temperature=1.0)
    inverting = Adversarial(None, mode="letter", temperature=1.0)
    honest = Truthful(None, mode="letter", lying="asked", temperature=1.0)
    question = PHYSICS
    assert asked.request(question).prompt[0][1].startswith(LYING_ROLE)
    assert honest.request(question) == inverting.request(question)
    assert asked.option_probs(question, reply).argmax() == honest.option_probs(question, reply).argmax() == 0
    assert inverting.option_probs(question, reply).argmax() == 3
    origins = {agent.request(question).origin for agent in (asked, inverting, honest, Truthful(None))}
    assert len(origins) == 3
    assert all(question.id in origin for origin in origins)
    with pytest.raises(ValueError, match="cannot ask for a wrong option"):
        Adversarial(None, mode="options", lying="asked")
    with pytest.raises(ValueError, match="'lest_likely'"):
        Truthful(None, lying="lest_likely")
