"""Language models behind a server, against an imitation of one: numbers, faults, secrets, concurrency, budgets."""

import json
import logging
import math
import string
import sys
import threading
import time
import traceback
from dataclasses import replace

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbclient import NotebookClient

from dynagent import AgentGraph, MajorityVote
from dynagent.artefacts.sources import cache_dir
from dynagent.evaluation.evaluate import answer_counts
from dynagent.execution.runner import Runner
from dynagent.llm.base import Reply, Request
from dynagent.llm.budget import Budget, BudgetExceededError, most_tokens
from dynagent.llm.endpoints import endpoint
from dynagent.llm.load import load_llm
from dynagent.llm.local import TransformersModel
from dynagent.llm.served import ServedModel
from dynagent.llm.store import Recorded
from dynagent.runs.config import RunConfig
from dynagent.tasks.multiple_choice import Question
from dynagent.team.agents import Adversarial, Truthful
from dynagent.team.replies import UNPARSABLE
from tests.support.servers import ModelBehind, chat_reply, imitation, models_reply, usage

CHAT = (("system", "be brief"), ("user", "why?"))
LETTERS = Request(CHAT, ("A", "B", "C"))
CAPITAL = Question("What is the capital of France?", ("London", "Paris", "Berlin", "Madrid"), 1, "geography", "en")
ABOUT_AN_ACCOUNT = ("openai-organization", "openai-project")
KEY = "sk" + "-very-secret-1234567890"


@pytest.fixture(autouse=True)
def quick_and_apart(monkeypatch, tmp_path):
    """No waiting between attempts, a cache of its own, and no key from outside."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))
    for name in ("OPENAI_API_KEY", "DYNAGENT_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def answering(reply, *models):
    """Every completion gets the same answer, or what a function of its body says."""

    def answer(path, body):
        if path.endswith("/models"):
            return 200, models_reply(*(models or ("tiny",)))
        return reply(body) if callable(reply) else (200, reply)

    return answer


# --- names


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("openai:http://localhost:8000/v1#m", ("http://localhost:8000/v1", "m")),
        ("openai:https://api.example.org/v1/#org/m:free", ("https://api.example.org/v1", "org/m:free")),
        ("openai:http://[::1]:8000/v1#/a/folder@main", ("http://[::1]:8000/v1", "/a/folder@main")),
        ("openai:http://h#m#2", ("http://h", "m#2")),
    ],
)
def test_a_name_is_a_url_and_a_model(name, parts):
    assert endpoint(name) == parts


@pytest.mark.parametrize(
    "name",
    [
        "openai:", "openai:#m", "openai:http://h/v1", "openai:http://h/v1#", "openai:ftp://h/v1#m", "openai:h:80/v1#m",
        "openai:http://user" + f":{KEY}@h/v1#m", f"openai:http://{KEY}@h/v1#m", f"openai:http://h/v1?key={KEY}#m",
        "openai:http:///v1#m", "openai:http://h /v1#m", "openai:http://h/v1#m n", f"openai:http://h/{KEY}@x/v1?a#m",
    ],
)  # fmt: skip
def test_other_names_are_refused_before_anything_is_asked_and_not_repeated(name):
    for refused in (lambda: endpoint(name), lambda: RunConfig(agent_llm=name), lambda: load_llm(name)):
        with pytest.raises(ValueError, match="is named openai:<base_url>#<model>") as error:
            refused()
        assert KEY not in str(error.value)


def test_a_server_is_for_agents_and_not_for_the_edge_llm():
    served = "openai:http://localhost:1/v1#m"
    assert RunConfig(agent_llm=served).agent_llms == [served]
    with pytest.raises(ValueError, match=r"edge_llm .* name a local model"):
        RunConfig(edge_llm=served)


def test_without_the_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ValueError, match=r"pip install 'dynagent\[served\]'"):
        ServedModel("openai:http://127.0.0.1:1/v1#m")


def test_the_source_says_what_the_server_says_and_that_it_cannot_be_verified():
    def listing(path, body):
        return 200, models_reply("tiny", root="org/weights", max_model_len=512, permission=[{"id": time.time()}])

    with imitation(listing) as server:
        one, same = ServedModel(server.name()), ServedModel(server.name())
        other = ServedModel(server.name("another"))
    assert (one.source.kind, one.source.name, one.source.location) == ("served", "tiny", server.url)
    assert json.loads(one.source.revision) == {"root": "org/weights", "owned_by": "imitation", "max_model_len": 512}
    assert one.source.sha256 == "not verifiable"
    assert one.identity == same.identity != other.identity
    assert json.loads(other.source.revision) == {}  # not listed, and yet it may be there: the first call tells


# --- likelihoods


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    from tests.support.chat_models import save_chat_model

    return TransformersModel.load(save_chat_model(tmp_path_factory.mktemp("tiny"), "llama3"), dtype="float32")


@pytest.fixture(scope="module")
def local_gemma(tmp_path_factory):
    from tests.support.chat_models import save_chat_model

    return TransformersModel.load(save_chat_model(tmp_path_factory.mktemp("tiny"), "gemma"), dtype="float32")


@pytest.mark.usefixtures("one_thread")
def test_options_are_scored_as_by_the_same_model_here(local):
    """Also where an option begins inside a Chinese sentence and where one option is the beginning of another."""
    requests = [
        Request("Question: what?\nAnswer:", (" one", " one two", " three")),
        Request("问题：天空是什么颜色？\n答案：", ("蓝色", "蓝", "red")),
    ]
    with imitation(ModelBehind(local)) as server:
        model = ServedModel(server.name())
        for request in requests:
            (here,), (there,) = local.reply([request]), model.reply([request])
            assert there.option_tokens == here.option_tokens
            assert there.log_probs == pytest.approx(here.log_probs, abs=1e-4)
            # Paid: the prompt once and with each option, and a token for each of these texts.
            paid = (1 + len(request.options)) * here.prompt_tokens + sum(here.option_tokens)
            assert (there.prompt_tokens, there.completion_tokens) == (paid, 1 + len(request.options))


@pytest.mark.usefixtures("one_thread")
def test_letters_are_scored_as_by_the_same_model_here(local):
    """Exactly where they are among the 20 likeliest first tokens, and not below their true score otherwise."""
    chat, letters = (("user", "which letter?"),), tuple(string.ascii_letters + string.digits + string.punctuation)
    scores = local.reply([Request(chat, letters)])[0].log_probs
    ranked = [letter for _, letter in sorted(zip(scores, letters, strict=True), reverse=True)]
    request = Request(chat, (ranked[1], ranked[-1], ranked[0]))
    with imitation(ModelBehind(local)) as server:
        (reply,) = ServedModel(server.name()).reply([request])
        sent = server.completions()[-1]["body"]
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 20)
    here = local.reply([request])[0]
    in_sight = [index for index in range(3) if here.log_probs[index] >= min(reply.log_probs) - 1e-4]
    assert in_sight
    for index in in_sight:
        assert reply.log_probs[index] == pytest.approx(here.log_probs[index], abs=1e-4)
    assert all(there >= here - 1e-4 for there, here in zip(reply.log_probs, here.log_probs, strict=True))


def test_a_letter_that_is_not_in_sight_is_worth_less_than_the_last_candidate():
    top = {"B": -0.2, "A": -3.0, "The": -5.0}
    with imitation(answering(chat_reply("B", top=top))) as server:
        (reply,) = ServedModel(server.name()).reply([LETTERS])
    assert reply == Reply(None, (-3.0, -0.2, -5.0 - math.log(2)), (1, 1, 1), 7, 2)


def test_letters_take_one_token_once_it_is_known_that_there_are_scores():
    with imitation(answering(chat_reply("B", top={"B": -0.2, "A": -3.0, "C": -4.0}))) as server:
        model = ServedModel(server.name())
        for _ in range(3):
            model.reply([LETTERS])
        lengths = [call["body"]["max_tokens"] for call in server.completions()]
    assert lengths == [50, 1, 1]


def refusing_log_probs(body):
    return (400, {"error": {"message": "no logprobs here"}}) if "logprobs" in body else (200, chat_reply("I say C."))


@pytest.mark.parametrize("reply", [chat_reply("I say C."), refusing_log_probs], ids=["ignored", "refused"])
def test_without_log_probabilities_the_letter_is_parsed(reply):
    with imitation(answering(reply)) as server:
        llm = load_llm(server.name())
        agents = [Truthful(llm, mode="letter"), Adversarial(llm, mode="letter", lying="asked")]
        replies = llm.reply([agent.request(CAPITAL) for agent in agents])
        assert [(reply.text, reply.log_probs) for reply in replies] == [("I say C.", None)] * 2
        assert llm.usage_of_run()["written"] == 2
        for agent, one in zip(agents, replies, strict=True):
            assert {agent.answer(CAPITAL, one, draw) for draw in (0.0, 0.5, 0.99)} == {2}
        assert agents[0].answer(CAPITAL, Reply("no idea"), 0.5) == UNPARSABLE
        llm.reply([LETTERS])
        assert "logprobs" not in server.completions()[-1]["body"]


@pytest.mark.parametrize("lying", ["least_likely", "colluding"])
def test_an_agent_that_lies_by_likelihood_says_that_there_is_none(lying):
    with imitation(answering(chat_reply("B"))) as server:
        llm = load_llm(server.name())
        agent = Adversarial(llm, mode="letter", lying=lying)
        with pytest.raises(ValueError, match="does not give: set adversary to 'asked', or agent_mode to 'text'"):
            Runner(AgentGraph([agent], MajorityVote())).prepare([CAPITAL])


def completion_without(body):
    choices = [{"index": 0, "text": " x", "logprobs": None, "finish_reason": "length"}]
    return 200, {
        "id": "1",
        "object": "text_completion",
        "created": 1,
        "model": "m",
        "choices": choices,
        "usage": usage(3, 1),
    }


def echo_is_ignored(body):
    logprobs = {"tokens": ["x"], "token_logprobs": [-1.0], "top_logprobs": None, "text_offset": [0]}
    choices = [
        {"index": i, "text": "x", "logprobs": logprobs, "finish_reason": "length"} for i in range(len(body["prompt"]))
    ]
    more = {"id": "1", "object": "text_completion", "created": 1, "model": "m", "usage": usage(30, len(choices))}
    return 200, {"choices": choices, **more}


@pytest.mark.parametrize(
    "reply",
    [(400, {"detail": "prompt must be a string."}), (422, {"detail": "echo?"}), completion_without, echo_is_ignored],
    ids=["a list is refused", "a field is refused", "no log-probabilities", "no echo"],
)
def test_options_without_echo_are_an_error_that_says_what_to_do(reply):
    with (
        imitation(answering(reply if callable(reply) else lambda body: reply)) as server,
        pytest.raises(ValueError, match=r"does not score options .* set agent_mode to 'letter' or 'text'"),
    ):
        ServedModel(server.name()).reply([Request("why?", (" a", " b"))])


JOINED = [{"role": "user", "content": "be brief\n\nwhy?"}]


def picky(system_role, log_probs):
    """Refuses what it has not, with status 400, as vLLM does."""

    def reply(body):
        if not system_role and body["messages"][0]["role"] == "system":
            return 400, {"error": {"message": "System role not supported"}}
        if "logprobs" in body and not log_probs:
            return 400, {"error": {"message": "logprobs is not supported"}}
        return 200, chat_reply("B", top={"B": -0.2, "A": -3.0} if "logprobs" in body else None)

    return answering(reply)


@pytest.mark.parametrize("system_role", [True, False])
@pytest.mark.parametrize("log_probs", [True, False])
def test_a_server_is_asked_in_the_form_that_it_takes(system_role, log_probs):
    """A template without a system role gets the system's text with the user's; each is found out once."""
    with imitation(picky(system_role, log_probs)) as server:
        model = ServedModel(server.name())
        replies = [model.reply([request])[0] for request in (LETTERS, LETTERS, Request(CHAT))]
        sent = [call["body"] for call in server.completions()]
    assert [reply.text for reply in replies] == ([None, None, "B"] if log_probs else ["B"] * 3)
    assert replies[0].log_probs == ((-3.0, -0.2, -3.0 - math.log(2)) if log_probs else None)
    tried = 1 + (not log_probs) + (not system_role) * 2
    assert len(sent) == tried + 2
    for body in sent[-2:]:
        assert (body["messages"] == JOINED) == (not system_role)
        assert len(body["messages"]) == 2 - (not system_role)
    assert ("logprobs" in sent[-2]) == log_probs


def test_a_system_text_is_joined_as_by_a_model_here(local_gemma):
    with imitation(picky(False, True)) as server:
        ServedModel(server.name()).reply([Request(CHAT)])
        sent = tuple((message["role"], message["content"]) for message in server.completions()[-1]["body"]["messages"])
    assert sent != CHAT
    assert local_gemma._prompt_ids(sent) == local_gemma._prompt_ids(CHAT)


def test_another_refusal_is_an_error_and_teaches_nothing():
    def reply(body):
        return (400, {"error": {"message": "too long"}}) if "long" in str(body) else picky(True, True)("", body)

    with imitation(answering(reply)) as server:
        model = ServedModel(server.name())
        with pytest.raises(ConnectionError, match="too long"):
            model.reply([Request((("system", "be brief"), ("user", "a long one")), LETTERS.options)])
        assert model.reply([LETTERS])[0].log_probs == (-3.0, -0.2, -3.0 - math.log(2))
        assert server.completions()[-1]["body"]["messages"][0]["role"] == "system"


@pytest.mark.parametrize("text", ['{"answer": "B", "reason": "It is B."}', 'B", "reason": "It is B."}'])
def test_a_reply_that_was_begun_is_read_whether_the_server_goes_on_with_it_or_not(text):
    """The protocol cannot go on with a message: the model is not sent what was begun, and writes it itself."""
    with imitation(answering(chat_reply(text))) as server:
        agent = Truthful(load_llm(server.name()), mode="text", reads=True)
        (reply,) = agent.llm.reply([agent.request(CAPITAL)])
        assert [message["role"] for message in server.completions()[0]["body"]["messages"]] == ["system", "user"]
    assert reply.text == 'B", "reason": "It is B."}'
    assert agent.answer(CAPITAL, reply, 0.5) == 1


def test_a_drawn_reply_has_its_own_seed_and_a_greedy_one_none():
    with imitation(answering(chat_reply("text"))) as server:
        model = ServedModel(server.name())
        model.reply([Request(CHAT, temperature=0.2, sample=sample) for sample in (1, 2, 1)] + [Request(CHAT)])
        sent = [call["body"] for call in server.completions()]
    assert sent[0] == sent[2]
    assert sent[0]["seed"] != sent[1]["seed"]
    assert (sent[0]["temperature"], sent[0]["top_p"], sent[0]["max_tokens"]) == (0.2, 0.9, 50)
    assert sent[0]["messages"] == [{"role": role, "content": content} for role, content in CHAT]
    assert sent[3]["temperature"] == 0
    assert not {"seed", "top_p"} & set(sent[3])


# --- faults


def failing(times, fault):
    """The first completions fail, the others are replied to."""
    left = [times]

    def reply(body):
        if left[0] > 0:
            left[0] -= 1
            return fault
        return 200, chat_reply("at last")

    return answering(reply)


@pytest.mark.parametrize(
    "fault",
    [
        None, (429, {"error": "slow down"}), (500, b"oops"), (503, {}), (200, b'{"choices": [{"mess'), (200, b"\xff"),
        (200, b"plain text"), (200, {}), (200, {"choices": []}), (200, {"choices": [{}], "usage": usage(1, 1)}),
    ],
    ids=["cut", "429", "500", "503", "torn", "bytes", "text", "empty", "no choice", "no message"],
)  # fmt: skip
def test_a_passing_fault_is_got_over(fault):
    with imitation(failing(2, fault)) as server:
        (reply,) = ServedModel(server.name()).reply([Request(CHAT)])
        assert reply == Reply("at last", None, None, 7, 2)
        assert len(server.completions()) == 3


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (None, "Connection error"),
        ((401, {"error": {"message": f"bad key {KEY}"}}), "401.*the key is from DYNAGENT_API_KEY"),
        ((404, {"error": {"message": "no such model"}}), "404.*no such model.*it lists the models tiny, other;"),
        ((400, {"error": {"message": "too long"}}), "400.*too long"),
        ((500, b"oops"), "500"),
        ((200, b"plain text"), "3 unreadable replies to a call"),
    ],
)
def test_a_lasting_fault_is_one_sentence(fault, sentence, monkeypatch):
    monkeypatch.setenv("DYNAGENT_API_KEY", KEY)
    with (
        imitation(answering(lambda body: fault, "tiny", "other")) as server,
        pytest.raises(ConnectionError, match=sentence) as error,
    ):
        ServedModel(server.name(), retries=1).reply([Request(CHAT)])
    assert KEY not in str(error.value)
    shown = "".join(traceback.format_exception(error.value))  # as a notebook shows it
    assert KEY not in shown
    assert "openai." not in shown
    assert "\n" not in str(error.value)


def test_a_server_that_is_not_there_is_found_out_at_once():
    with imitation(answering({})) as server:
        name = server.name()
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"does not answer .*Connection error"):
        load_llm(name)
    assert time.monotonic() - start < 10


def test_a_key_that_is_refused_is_found_out_at_once():
    with (
        imitation(lambda path, body: (401, {"error": {"message": "no"}})) as server,
        pytest.raises(ConnectionError, match=r"401.*the key is from DYNAGENT_API_KEY"),
    ):
        load_llm(server.name())


def test_a_server_without_a_list_of_models_will_do():
    for listing in ((404, {}), (500, b"oops"), (200, b"no json"), (200, {"data": None}), (200, {"data": [{}]})):
        with imitation(
            lambda path, body, listing=listing: listing if "models" in path else (200, chat_reply("x"))
        ) as server:
            assert ServedModel(server.name()).reply([Request(CHAT)])[0].text == "x"


def test_a_time_out_is_one_sentence():
    over = threading.Event()
    with imitation(answering(lambda body: over.wait(60) and (200, chat_reply("late")))) as server:
        with pytest.raises(ConnectionError, match="Request timed out"):
            ServedModel(server.name(), timeout=1.5, retries=1).reply([Request(CHAT)])
        assert len(server.completions()) == 2
        over.set()


def test_a_call_that_times_out_in_the_end_stops_the_run_and_is_no_answer():
    """It tells of the server and not of the agent; started again, the run asks for it anew and for nothing else."""
    over = threading.Event()

    def reply(body):
        if "seven" in body["messages"][-1]["content"]:
            over.wait(60)
        return 200, chat_reply("B")

    questions = [replace(CAPITAL, text=f"{CAPITAL.text} ({number})") for number in ("five", "six", "seven", "eight")]
    with imitation(answering(reply)) as server:

        def run():
            llm = Recorded(ServedModel(server.name(), 1, timeout=3, retries=0), cache_dir() / "calls.jsonl")
            runner = Runner(AgentGraph([Truthful(llm, mode="text")], MajorityVote()))
            return answer_counts(runner.graph, questions, runner), llm

        with pytest.raises(ConnectionError, match=r"timed out.*on record"):
            run()
        assert len((cache_dir() / "calls.jsonl").read_text().splitlines()) == 2
        over.set()
        counts, llm = run()
        assert counts == {"right": 4, "wrong": 0, "unparsable": 0, "timed out": 0}
        assert llm.usage.model_calls == 2


# --- secrets


def test_a_key_goes_to_its_server_and_nowhere_else(monkeypatch, tmp_path, caplog, capfd):
    """Not into record, identity, source, log or output; the key of one service is not sent to another."""
    monkeypatch.setenv("DYNAGENT_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-openai")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-of-openai")
    with caplog.at_level(logging.DEBUG), imitation(failing(1, (500, b"oops"))) as server:
        llm = load_llm(server.name())
        llm.reply([Request(CHAT)])
        assert {call["headers"]["authorization"] for call in server.calls} == {f"Bearer {KEY}"}
        assert "of-openai" not in json.dumps(server.calls)
        assert not [name for call in server.calls for name in call["headers"] if name.lower() in ABOUT_AN_ACCOUNT]
    written = [path.read_text() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    said = [*written, llm.identity, json.dumps(llm.model.source.to_dict()), repr(vars(llm)), caplog.text]
    assert written
    assert caplog.text
    assert not [text for text in said if KEY in text]
    assert KEY not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_a_key_is_in_no_notebook_not_even_in_its_error(monkeypatch):
    monkeypatch.setenv("DYNAGENT_API_KEY", KEY)
    with imitation(answering(lambda body: (401, {"error": {"message": f"bad key {KEY}"}}))) as server:
        cell = f"""from dynagent.llm.base import Request
from dynagent.llm.load import load_llm
llm = load_llm({server.name()!r})
print(llm, llm.model, vars(llm), llm.model.source)
llm.reply([Request("why?")])"""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
        NotebookClient(notebook, timeout=600, kernel_name="python3", allow_errors=True).execute()
        assert {call["headers"]["authorization"] for call in server.calls} == {f"Bearer {KEY}"}
    shown = nbformat.writes(notebook)
    assert "ConnectionError" in shown
    assert "served" in shown
    assert KEY not in shown


def test_only_openai_itself_gets_its_key(monkeypatch):
    monkeypatch.setattr("openai.resources.Models.list", lambda self: [])
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-openai")
    hosted = ServedModel("openai:https://api.openai.com/v1#m")._client
    assert (hosted.api_key, hosted.default_headers["OpenAI-Organization"]) == (KEY, "org-of-openai")
    for host in ("api.openai.com.evil.org", "localhost:8000", "evil.org/api.openai.com"):
        assert ServedModel(f"openai:https://{host}/v1#m")._client.api_key == "no-key"
    assert ServedModel("openai:http://api.openai.com/v1#m")._client.api_key == "no-key"  # readable on the way


# --- several at a time, and what is paid for


def test_no_more_calls_than_allowed_are_under_way_and_every_reply_finds_its_request():
    together = {1: threading.Barrier(1), 4: threading.Barrier(4, timeout=60)}  # four wait until all four are there

    def echo(body):
        together[int(body["model"][1:])].wait()
        return 200, chat_reply(body["messages"][0]["content"])

    texts = [f"question {number}" for number in range(24)]
    for concurrency in together:
        with imitation(answering(echo), seconds=0.03) as server:
            llm = load_llm(server.name(f"m{concurrency}"), concurrency=concurrency)
            start = time.monotonic()
            replies = llm.reply([Request((("user", text),)) for text in texts])
            seconds = time.monotonic() - start
        assert [reply.text for reply in replies] == texts
        assert server.most_at_once == concurrency
        assert seconds > 24 * 0.03 / concurrency


def test_after_a_fault_what_was_under_way_is_on_record_and_the_rest_is_not_asked():
    def reply(body):
        number = int(body["messages"][0]["content"])
        return (400, {"error": {"message": "no"}}) if number == 5 else (200, chat_reply(str(number)))

    requests = [Request((("user", str(number)),)) for number in range(40)]
    with imitation(answering(reply), seconds=0.02) as server:
        llm = load_llm(server.name(), concurrency=4)
        with pytest.raises(ConnectionError, match="400"):
            llm.reply(requests)
        asked = [call["body"]["messages"][0]["content"] for call in server.completions()]
        assert len(asked) < 40
        again = load_llm(server.name(), concurrency=4)
        assert again.path == llm.path
        again.reply([request for number, request in enumerate(requests) if number != 5])
        asked_then = [call["body"]["messages"][0]["content"] for call in server.completions()][len(asked) :]
    assert not {*asked} & {*asked_then}  # nothing twice
    assert {*asked} | {*asked_then} == {str(number) for number in range(40)}


@pytest.mark.parametrize("concurrency", [1, 8])
def test_the_budget_holds_and_what_was_paid_for_is_not_paid_again(concurrency):
    requests = [Request((("user", f"{number} " + "word " * 20),), max_new_tokens=10) for number in range(30)]
    most = most_tokens(requests[0])
    with imitation(answering(chat_reply("x", 40, 10)), seconds=0.005) as server:
        limit = 50 * 12 + most - 1
        llm = load_llm(server.name(), concurrency=concurrency, budget=Budget(limit))
        with pytest.raises(BudgetExceededError, match=rf"token_budget {limit:,} are paid.* on record"):
            llm.reply(requests)
        paid = 50 * len(server.completions())
        assert paid == llm.budget.paid <= limit
        assert limit - paid < most  # it did not stop before it had to
        more = load_llm(server.name(), concurrency=concurrency, budget=Budget(10_000))
        assert len(more.reply(requests)) == 30
        assert len(server.completions()) == 30


def test_what_is_on_record_costs_nothing():
    with imitation(answering(chat_reply("x", 40, 10))) as server:
        load_llm(server.name()).reply([Request(CHAT)])
        broke = load_llm(server.name(), budget=Budget(1))
        assert broke.reply([Request(CHAT)])[0].text == "x"
        with pytest.raises(BudgetExceededError):
            broke.reply([Request((("user", "another"),))])


@pytest.mark.usefixtures("one_thread")
@given(text=st.text(max_size=60), options=st.lists(st.text(min_size=1, max_size=9), max_size=4), plain=st.booleans())
def test_no_call_takes_more_tokens_than_are_set_aside_for_it(local, text, options, plain):
    prompt = text if plain else (("system", text), ("user", text[::-1]))
    request = Request(prompt, tuple(options) if plain else (), max_new_tokens=20)
    copies = 1 + len(request.options)
    read = copies * len(local._prompt_ids(prompt)) + sum(len(ids) for ids in local._option_ids(request))
    assert read + max(copies, request.max_new_tokens) <= most_tokens(request)


def test_a_local_model_is_under_the_budget_too(tmp_path):
    from tests.support.fake import FakeModel

    llm = Recorded(FakeModel(batch_size=1), tmp_path / "calls.jsonl", Budget(300))
    with pytest.raises(BudgetExceededError):
        llm.reply([Request(letter * 20) for letter in "abcdefghij"])
    assert 0 < llm.budget.paid <= 300
    assert llm.usage.model_calls > 0
