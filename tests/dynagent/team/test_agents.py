"""Agents: probabilities by hand, draws that follow them, and what is asked of a language model."""

import json
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from dynagent.llm.base import Reply
from dynagent.tasks.multiple_choice import LETTERS, Question
from dynagent.team.agents import Adversarial, Constant, Specialist, Truthful
from dynagent.team.messages import Message
from dynagent.team.prompts import LYING_ROLE, TRUTHFUL_ROLE

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
    assert below == "\nOther agents:\nAgent 0 answers B: It shines.\nAgent 2 answers nothing"


@pytest.mark.parametrize("agent", [Truthful(None, mode="text", reads=True), Adversarial(None, mode="text", reads=True)])
def test_a_written_reply_of_an_agent_that_reads_has_a_reason(agent):
    silent = replace(agent, reads=False)
    assert '"reason"' in agent.request(PHYSICS).prompt[0][1]
    assert '"reason"' not in silent.request(PHYSICS).prompt[0][1]
    origins = {one.request(PHYSICS).origin for one in (agent, silent)}
    assert len(origins) == 2  # told apart on record, too


def test_what_was_heard_is_a_hash_in_the_origin():
    """A record then holds no word of another reply, and two different messages are two different requests."""
    agent = Truthful(None, mode="letter", reads=True)
    told = [(), [Message("Agent 0", "B", "It shines.")], [Message("Agent 0", "B", "It glows.")]]
    origins = [agent.request(PHYSICS, messages).origin for messages in told]
    assert [len(origin[4]) for origin in origins] == [0, 8, 8]
    assert len(set(origins)) == 3
    assert origins[0] == Truthful(None, mode="letter").request(PHYSICS).origin


def test_a_message_holds_the_letter_and_a_reason_of_bounded_length():
    message = Message.of("Agent 3", 1, json.dumps({"answer": "B", "reason": "It\nshines " + 500 * "so "}))
    assert message.answer == "B"
    assert message.reason.startswith("It shines so so")
    assert len(message.reason) == 300
    assert Message.of("Agent 3", -1, "") == Message("Agent 3", "nothing", "")


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
