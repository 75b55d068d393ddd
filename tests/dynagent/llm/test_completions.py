"""What a server's answer says: letters in every form, ends of replies, refusals, counts; and no traceback."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynagent.llm.base import Reply, Request
from dynagent.llm.budget import Budget, BudgetExceededError, least_tokens
from dynagent.llm.completions import IMPOSSIBLE, UnreadableError, first_candidates, letter_scores, parse, written
from dynagent.llm.load import load_llm
from dynagent.llm.served import ServedModel
from dynagent.llm.store import RefusedTooOftenError
from dynagent.tasks.multiple_choice import Question
from dynagent.team.agents import Adversarial, Truthful
from tests.support.servers import chat_reply, imitation, models_reply, usage

CHAT = (("system", "be brief"), ("user", "why is the sky blue?"))
LETTERS = Request(CHAT, ("A", "B", "C", "D"))
FILTERED = {"error": {"message": "filtered by our content management policy", "code": "content_filter"}}


@pytest.fixture(autouse=True)
def quick_and_apart(monkeypatch, tmp_path):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))
    for name in ("OPENAI_API_KEY", "DYNAGENT_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def answering(reply):
    def answer(path, body):
        return (200, models_reply("tiny")) if path.endswith("/models") else reply(body)

    return answer


def chat(request):
    return Request((("system", "be brief"), ("user", request)))


# --- letters


@pytest.mark.parametrize(
    "form", ["{}", " {}", "▁{}", "Ġ{}", "**{}", "({}", '"{}', "{}.", "\n{}", "「{}", "[{}]", "'{}'"]
)
def test_a_letter_is_compared_without_blanks_marks_and_beginnings_of_words(form):
    top = {form.format(letter): score for letter, score in zip("BADC", (-0.1, -3.0, -4.0, -6.0), strict=True)}
    with imitation(answering(lambda body: (200, chat_reply("B", top=top | {"The": -9.0})))) as server:
        (reply,) = ServedModel(server.name()).reply([LETTERS])
    assert reply.log_probs == (-3.0, -0.1, -6.0, -4.0)


def test_full_width_letters_are_letters_and_words_that_begin_with_one_are_not():
    scores = letter_scores([("Ｂ", -0.5), ("An", -1.0), ("a", -1.5), ("A", -4.0), ("Because", -5.0)], "AB")
    assert scores == (-4.0, -0.5)


@given(st.lists(st.floats(-20, -1), min_size=3, max_size=3))
def test_likelihoods_of_one_letter_are_added_up(values):
    forms = [(token, value) for token, value in zip(("B", " B", "**B"), values, strict=True)]
    scores = letter_scores([*forms, ("A", -2.0)], "ABC")
    assert scores[1] == pytest.approx(min(math.log(sum(map(math.exp, values))), 0))
    assert scores[2] < min([*values, -2.0])  # a letter that is not there is worth less than the least one that is


@pytest.mark.parametrize("value", [-math.inf, None, math.nan, -9999.0])
def test_a_likelihood_of_zero_is_as_good_as_impossible(value):
    top = {"C": 0.0, "A": value, "B": value, "D": value}
    with imitation(answering(lambda body: (200, chat_reply("C", top=top)))) as server:
        llm = load_llm(server.name())
        assert llm.reply([LETTERS])[0].log_probs == (IMPOSSIBLE, IMPOSSIBLE, 0.0, IMPOSSIBLE)


@pytest.mark.parametrize(
    "logprobs",
    [
        None, {}, {"content": None}, {"content": []},
        {"content": [{"token": "B", "logprob": -0.1, "top_logprobs": None}]},
        {"content": [{"token": "B", "logprob": -0.1, "top_logprobs": []}]},
        {"content": [{"token": "B", "logprob": -0.1}]},
        {"tokens": ["B"], "token_logprobs": [-0.1], "top_logprobs": [{"B": -0.1, "A": -3.0}]},
        {"content": [{"token": "The", "logprob": -0.1, "top_logprobs": [{"token": "The", "logprob": -0.1}]}]},
    ],
)  # fmt: skip
def test_where_no_two_letters_are_in_sight_the_text_decides(logprobs):
    body = chat_reply("It is B.")
    body["choices"][0]["logprobs"] = logprobs
    with imitation(answering(lambda sent: (200, body))) as server:
        (reply,) = ServedModel(server.name()).reply([LETTERS])
    assert (reply.text, reply.log_probs) == ("It is B.", None)


def test_a_letter_out_of_sight_in_one_reply_is_asked_for_as_text_and_paid_for():
    def reply(body):
        in_sight = "blue" in str(body["messages"])
        top = {"B": -0.1, "A": -3.0} if in_sight else {"The": -0.1, "Well": -3.0}
        return 200, chat_reply(
            "B" if in_sight or body["max_tokens"] > 1 else "The", top=top if "logprobs" in body else None
        )

    other = Request((("user", "and the sea?"),), LETTERS.options)
    with imitation(answering(reply)) as server:
        model = ServedModel(server.name())
        first, second, third = (model.reply([request])[0] for request in (LETTERS, other, LETTERS))
        lengths = [call["body"]["max_tokens"] for call in server.completions()]
    assert first.log_probs == third.log_probs != second.log_probs is None
    assert (second.text, second.prompt_tokens, second.completion_tokens) == ("B", 14, 4)
    assert lengths == [50, 1, 50, 1]


@pytest.mark.parametrize("token", ["<think>", "<|channel|>", "<thinking>"])
def test_a_model_that_thinks_first_is_read_by_its_text(token):
    top = {token: -0.001, "A": -7.0, "B": -8.0}
    with imitation(answering(lambda body: (200, chat_reply("B", top=top)))) as server:
        model = ServedModel(server.name())
        assert [model.reply([LETTERS])[0].text for _ in range(2)] == ["B", "B"]
        assert ["logprobs" in call["body"] for call in server.completions()] == [True, False]


# --- what is written


def body_of(content, finish="stop", **message):
    body = chat_reply("")
    body["choices"][0] |= {"finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    return body


@pytest.mark.parametrize(
    ("body", "text", "reason"),
    [
        (body_of("B"), "B", None),
        (body_of(None, "length", reasoning_content="Okay, the"), "", "length"),
        (body_of("The answer", "length"), "The answer", "length"),
        (body_of("The answer", "MAX_TOKENS"), "The answer", "length"),
        (body_of(None, "content_filter"), "", "content_filter"),
        (body_of(None, refusal="I cannot help with that"), "", "content_filter"),
        (body_of(None, "tool_calls", tool_calls=[{"id": "1"}]), "", "tool_calls"),
        (body_of([{"type": "thinking", "thinking": "A?"}, {"type": "text", "text": "B"}, "!"]), "B!", None),
        (body_of("half a \ud83d"), "half a ?", None),
    ],
)
def test_a_reply_says_its_text_and_why_it_ended(body, text, reason):
    reply = written(body, Request("why?"))
    assert (reply.text, reply.finish_reason) == (text, reason)
    assert (reply.is_cut_off, reply.is_refused) == (reason == "length", reason == "content_filter")


@pytest.mark.parametrize(
    "counts",
    [
        None,
        "none",
        {},
        usage(0, 0),
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": "7"},
        usage(-1, -2),
    ],
)
def test_where_no_tokens_are_stated_as_many_count_as_the_texts_have(counts):
    body = chat_reply("because it is") | {"usage": counts}
    with imitation(answering(lambda sent: (200, body))) as server:
        llm = load_llm(server.name(), budget=Budget(1000))
        (reply,) = llm.reply([Request(CHAT)])
        assert (reply.prompt_tokens, reply.completion_tokens) == (2 + 5, 3)
        assert llm.budget.paid == 10
        with pytest.raises(BudgetExceededError, match="token_budget 1,000"):
            llm.reply([chat(f"{number} " + "word " * 40) for number in range(30)])
        assert llm.budget.paid <= 1000


@given(st.text())
def test_no_text_has_more_words_than_bytes(text):
    assert len(text.split()) <= least_tokens(text) <= len(text.encode("utf-8", "replace"))


def test_replies_that_end_before_they_say_anything_are_warned_of_with_what_to_do(caplog):
    with imitation(answering(lambda body: (200, body_of(None, "length", reasoning_content="Okay")))) as server:
        llm = load_llm(server.name())
        llm.reply([chat(str(number)) for number in range(5)])
    assert "5 of 5 replies" in caplog.text
    assert "max_new_tokens" in caplog.text
    assert llm.usage_of_run()["cut_off"] == 5
    assert {json.loads(line)["finish_reason"] for line in llm.path.read_text().splitlines()} == {"length"}


# --- faults


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"error": {"message": "Insufficient credits", "code": 402}}, "Insufficient credits"),
        ({"choices": [{"error": {"message": "provider is down"}, "message": {"content": ""}}]}, "provider is down"),
        (b"<html>sign in</html>", "<html>sign in</html>"),
        (b'data: {"choices": [{"delta": {"content": "B"}}]}\n\ndata: [DONE]', "delta"),
        ([], r"\(\[\]\)"),
        (body_of(7), '"content": 7'),
        (body_of([{"type": "text"}]), '"type": "text"'),
    ],
)
def test_what_came_in_place_of_a_reply_is_shown_without_the_key(body, shown, monkeypatch):
    monkeypatch.setenv("DYNAGENT_API_KEY", "key-1234567")
    with (
        imitation(answering(lambda sent: (200, body))) as server,
        pytest.raises(ConnectionError, match=rf"3 unreadable replies.*{shown}") as error,
    ):
        ServedModel(server.name()).reply([Request(CHAT)])
    assert len(str(error.value)) < 500

    with (
        imitation(answering(lambda sent: (200, {"error": "key-1234567 is out of credits"}))) as server,
        pytest.raises(ConnectionError, match=r"\*\*\* is out of credits"),
    ):
        ServedModel(server.name()).reply([Request(CHAT)])


@pytest.mark.parametrize(
    "refusal", [(400, FILTERED), (403, FILTERED), (200, FILTERED), (200, body_of(None, "content_filter"))]
)
def test_a_refused_question_is_counted_as_refused_and_not_asked_again(refusal):
    def reply(body):
        return refusal if "bomb" in body["messages"][-1]["content"] else (200, chat_reply("B"))

    requests = [chat(text) for text in ("a bomb", *map(str, range(30)))]
    with imitation(answering(reply)) as server:
        replies = load_llm(server.name()).reply(requests)
        again = load_llm(server.name())
        num_calls = len(server.completions())
        assert again.reply(requests) == replies
        assert len(server.completions()) == num_calls
        assert [reply.is_refused for reply in replies] == [True] + [False] * 30
        assert again.usage_of_run()["refused"] == 1


@pytest.mark.parametrize("lying", ["least_likely", "colluding", "asked"])
def test_a_refused_question_has_no_answer_of_any_agent(lying):
    question = Question("How is a bomb built?", ("a", "b", "c", "d"), 1, "chemistry", "en")
    for agent in (Truthful(None, mode="letter"), Adversarial(None, mode="letter", lying=lying)):
        assert agent.answer(question, Reply("", finish_reason="content_filter"), 0.5) < 0


def test_more_than_a_twentieth_of_refused_replies_stops_the_run():
    def reply(body):
        return (400, FILTERED) if body["messages"][-1]["content"] in ("3", "4", "5") else (200, chat_reply("B"))

    with imitation(answering(reply)) as server:
        with pytest.raises(RefusedTooOftenError, match=r"refused 3 of 40 calls .*5%"):
            load_llm(server.name()).reply([chat(str(number)) for number in range(40)])
        assert len(load_llm(server.name()).reply([chat(str(number)) for number in range(60)])) == 60


# --- other forms of a call


def refusing(name, status=400, other="max_completion_tokens"):
    def reply(body):
        if name in body:
            return status, {
                "error": {"message": f"Unsupported parameter: '{name}'. Use '{other}' instead.", "param": name}
            }
        return 200, chat_reply("B")

    return answering(reply)


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("name", ["max_tokens", "temperature", "seed", "top_p"])
def test_a_parameter_that_is_refused_has_its_other_name_or_none_and_that_is_remembered(name, status, caplog):
    request = Request(CHAT, temperature=0.2)
    with imitation(refusing(name, status)) as server:
        model = ServedModel(server.name())
        assert [model.reply([request])[0].text for _ in range(3)] == ["B"] * 3
        sent = [call["body"] for call in server.completions()]
    assert len(sent) == 4
    assert [name in body for body in sent] == [True, False, False, False]
    assert ("max_completion_tokens" in sent[-1]) == (name == "max_tokens")
    assert (f"takes no {name}" in caplog.text) == (name != "max_tokens")


def test_fewer_candidates_are_asked_for_where_the_server_allows_no_more():
    def reply(body):
        if body.get("top_logprobs", 0) > 5:
            return 400, {"error": {"message": "top_logprobs must be at most 5"}}
        return 200, chat_reply("B", top={"B": -0.1, "A": -3.0})

    with imitation(answering(reply)) as server:
        assert ServedModel(server.name()).reply([LETTERS])[0].log_probs[:2] == (-3.0, -0.1)


def test_options_of_a_request_are_sent_and_are_another_call():
    thinking_off = {"chat_template_kwargs": {"enable_thinking": False}, "max_completion_tokens": 7}
    with imitation(answering(lambda body: (200, chat_reply("B")))) as server:
        load_llm(server.name()).reply([Request(CHAT)])
        load_llm(server.name(), request_options=thinking_off).reply([Request(CHAT)])
        load_llm(server.name(), max_new_tokens=500).reply([Request(CHAT)])
        plain, off, long = (call["body"] for call in server.completions())
        for wrong in ({"stream": True}, {"messages": []}):
            with pytest.raises(ValueError, match="request_options may not hold"):
                load_llm(server.name(), request_options=wrong)
    assert off == {name: value for name, value in plain.items() if name != "max_tokens"} | thinking_off
    assert (plain["max_tokens"], long["max_tokens"]) == (50, 500)
    assert Request(CHAT).key("m") == Request(CHAT, request_options={}).key("m")


def test_a_changed_server_is_asked_anew_and_the_old_replies_stay(caplog):
    said = ["old"]
    with imitation(answering(lambda body: (200, chat_reply(said[0])))) as server:
        old = load_llm(server.name())
        assert old.reply([Request(CHAT)])[0].text == "old"
        said[0] = "new"
        assert load_llm(server.name()).reply([Request(CHAT)])[0].text == "old"
        new = load_llm(server.name(), ask_again=True)
        assert new.reply([Request(CHAT)])[0].text == "new"
        assert load_llm(server.name()).reply([Request(CHAT)])[0].text == "new"
    (aside,) = old.path.parent.glob("*.until-*.jsonl")
    assert '"old"' in aside.read_text()
    assert str(aside) in caplog.text


# --- anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "logprobs", "top_logprobs", "token", "logprob", "usage", "type"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300)
@given(answer=JSON, message=JSON, logprobs=JSON, counts=JSON)
def test_any_json_in_place_of_an_answer_is_a_reply_or_an_unreadable_one(answer, message, logprobs, counts):
    whole = {
        "choices": [{"message": {"content": message}, "logprobs": logprobs, "finish_reason": message}],
        "usage": counts,
    }
    for body in (answer, {"choices": answer}, {"choices": [answer]}, whole):
        try:
            parsed = parse(json.dumps(body))
            reply = written(parsed, LETTERS)
            scores = letter_scores(first_candidates(parsed), LETTERS.options)
        except UnreadableError:
            continue
        assert isinstance(reply.text, str)
        assert min(reply.prompt_tokens, reply.completion_tokens) >= 0
        assert scores is None or all(map(math.isfinite, scores))
        reply.text.encode()


@given(st.text() | st.binary().map(lambda data: data.decode("utf-8", "replace")))
def test_any_text_in_place_of_an_answer_is_unreadable(text):
    with pytest.raises(UnreadableError):
        parse(text)
