"""Recorded replies: no call twice, no line lost, and no question text on disk."""

import json
import subprocess
import sys
import threading
from dataclasses import fields, replace

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynagent.llm.base import Reply, Request
from dynagent.llm.store import Recorded
from tests.support.fake import FakeModel

CHAT = (("system", "be brief"), ("user", "why?"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "below" / "calls.jsonl"


def requests_of(*prompts):
    return [Request(prompt) for prompt in prompts]


# --- calls


def test_equal_requests_are_one_call(path):
    model = FakeModel()
    llm = Recorded(model, path)
    replies = llm.reply(requests_of("a", "b", "a", "c", "a"))
    assert [reply.text for reply in replies] == ["reply 0", "reply 1", "reply 0", "reply 2", "reply 0"]
    assert [[request.prompt for request in batch] for batch in model.ran] == [["a", "b", "c"]]
    assert llm.reply(requests_of("c", "a")) == [replies[3], replies[0]]
    assert llm.reply([]) == []
    assert model.num_computed == 3


def test_a_second_instance_makes_no_call_and_gives_equal_replies(path):
    asked = [*requests_of("a", "b", "c", "d"), Request(CHAT, ("x", "y")), Request("a", ("x", "y"))]
    first, second = FakeModel(), FakeModel()
    assert Recorded(first, path).reply(asked) == Recorded(second, path).reply(asked)
    assert (first.num_computed, second.num_computed) == (6, 0)
    assert type(Recorded(second, path).reply(asked)[4].log_probs) is tuple


def test_a_batch_that_is_partly_on_record_is_run_whole_and_the_record_wins(path):
    (b,) = Recorded(FakeModel(first=100), path).reply(requests_of("b"))
    model = FakeModel()
    llm = Recorded(model, path)
    replies = llm.reply(requests_of("a", "b", "c", "d", "e", "f"))
    assert model.ran == [requests_of("a", "b", "c"), requests_of("d", "e", "f")]
    assert replies[1] == b
    assert [reply.text for reply in replies] == [f"reply {i}" for i in (0, 100, 2, 3, 4, 5)]
    assert len(path.read_text().splitlines()) == 6
    model = FakeModel()
    assert Recorded(model, path).reply(requests_of("a", "b", "c", "g")) == [
        *replies[:3],
        Reply("reply 0", prompt_tokens=1),
    ]
    assert model.ran == [requests_of("g")]  # a batch that is on record is not run


def test_replies_that_another_process_has_recorded_meanwhile_are_used(path):
    models = FakeModel(), FakeModel(first=100)
    early, late = (Recorded(model, path) for model in models)
    asked = requests_of("a", "b")
    assert early.reply(asked) == late.reply(asked)
    assert early.reply(requests_of("c")) == late.reply(requests_of("c"))
    assert late.reply(requests_of("d")) == early.reply(requests_of("d"))
    assert [model.num_computed for model in models] == [3, 1]


def test_the_first_line_of_a_key_counts(path):
    Recorded(FakeModel(), path).reply(requests_of("a"))
    (line,) = path.read_text().splitlines()
    path.write_text("".join(f"{text}\n" for text in (line, line.replace("reply 0", "another"))))
    assert Recorded(FakeModel(), path).reply(requests_of("a"))[0].text == "reply 0"


def test_a_record_that_was_deleted_is_begun_anew(path):
    llm = Recorded(FakeModel(), path)
    llm.reply(requests_of(*"abcdefgh"))
    path.unlink()
    for prompt in "ijklmnopq":
        llm.reply(requests_of(prompt, "a"))
    assert len(path.read_text().splitlines()) == 9
    model = FakeModel()
    assert Recorded(model, path).reply(requests_of(*"ijk")) == llm.reply(requests_of(*"ijk"))
    assert model.num_computed == 0


# --- the key


def test_all_that_determines_a_reply_changes_its_key():
    base = Request("why?")
    changes = {
        "prompt": ["why? ", CHAT, CHAT[::-1], (("user", "why?"),)],
        "options": [("A",), ("A", "B"), ("B", "A"), ("A, B",), ("",)],
        "temperature": [0.5, 0.05],
        "max_new_tokens": [49, 51],
        "sample": [1, 2],
        "request_options": [{"top_k": 1}, {"top_k": 2}, {"extra": {"enable_thinking": False}}],
    }
    assert set(changes) == {field.name for field in fields(Request)} - {"origin"}
    variants = [replace(base, **{name: value}) for name, values in changes.items() for value in values]
    keys = {request.key(identity) for request in [base, *variants] for identity in ("m-1-float32", "m-1-bfloat16")}
    assert len(keys) == 2 * (1 + len(variants))
    assert all(len(key) == 32 and set(key) <= set("0123456789abcdef") for key in keys)
    assert Request("why?").key("m") == base.key("m")


def test_another_identity_finds_nothing_on_record(path):
    models = [FakeModel(f"m-{dtype}") for dtype in ("float32", "bfloat16", "float32")]
    for model in models:
        Recorded(model, path).reply(requests_of("a", "b"))
    assert [model.num_computed for model in models] == [2, 2, 0]


texts = st.text(max_size=5)
any_request = st.builds(
    Request,
    prompt=texts | st.lists(st.tuples(st.sampled_from(["user", "system"]), texts), max_size=2).map(tuple),
    options=st.lists(texts, max_size=3).map(tuple),
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    max_new_tokens=st.integers(1, 3),
    sample=st.integers(0, 2),
)


@given(any_request, any_request, st.sampled_from("mn"), st.sampled_from("mn"))
def test_keys_are_equal_exactly_if_the_requests_are(one, other, identity, another):
    assert (one.key(identity) == other.key(another)) == ((one, identity) == (other, another))


def test_by_default_every_identity_has_a_file_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path))
    Recorded(FakeModel("one")).reply(requests_of("a"))
    Recorded(FakeModel("two")).reply(requests_of("a"))
    assert sorted(file.name for file in (tmp_path / "calls").glob("*/*.jsonl")) == ["one.jsonl", "two.jsonl"]


# --- what is counted


def test_usage_counts_calls_distinct_calls_and_computed_ones(path):
    Recorded(FakeModel(), path).reply(requests_of("aa", "bbb", "cccc"))  # completions of 0, 1 and 2 tokens
    llm = Recorded(FakeModel(first=10), path)
    assert llm.usage_of_run() == {
        "calls": 0,
        "distinct_calls": 0,
        "written": 0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
    }
    llm.reply(requests_of("aa", "aa", "bbb"))
    assert llm.usage_of_run() == {
        "calls": 3,
        "distinct_calls": 2,
        "written": 2,
        "prompt_tokens": 5,
        "completion_tokens": 1,
    }
    assert (llm.usage.calls, llm.usage.distinct_calls, llm.usage.model_calls) == (3, 2, 0)
    llm.reply(requests_of("bbb", "d", "d", "e", "f", "g"))  # [bbb d e] is run whole, and [f g]: 10 to 14
    assert (llm.usage.calls, llm.usage.distinct_calls, llm.usage.model_calls) == (9, 6, 5)
    assert llm.usage_of_run() == {
        "calls": 9,
        "distinct_calls": 6,
        "written": 6,
        "prompt_tokens": 2 + 3 + 4,
        "completion_tokens": 0 + 1 + 11 + 12 + 13 + 14,
    }


def test_usage_of_a_run_is_the_same_with_and_without_a_record(path):
    asked = requests_of("a", "bb", "a", "ccc")
    runs = [Recorded(FakeModel(), path) for _ in range(2)]
    for llm in runs:
        llm.reply(asked)
    assert runs[0].usage_of_run() == runs[1].usage_of_run()
    assert [llm.usage.model_calls for llm in runs] == [3, 0]


# --- the file


def test_a_torn_last_line_is_dropped_and_mended_by_the_next_append(path):
    """Cut at every byte of the last line, also within a character of several bytes."""
    Recorded(FakeModel(text="答案是 {}"), path).reply(requests_of("a", "b", "c"))
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    assert len(whole) - start > 100
    for cut in [*range(start, start + 40), *range(len(whole) - 70, len(whole))]:
        path.write_bytes(whole[:cut])
        model = FakeModel(first=7)
        llm = Recorded(model, path)
        assert [reply.text for reply in llm.reply(requests_of("a", "b"))] == ["答案是 0", "答案是 1"]
        assert model.num_computed == 0
        assert llm.reply(requests_of("c"))[0].text == "reply 7"
        model = FakeModel()
        assert Recorded(model, path).reply(requests_of("a", "b", "c")) == llm.reply(requests_of("a", "b", "c"))
        assert model.num_computed == 0
        lines = path.read_bytes().split(b"\n")
        assert lines.pop() == b""
        assert [set(json.loads(line)) for line in lines] == [set(json.loads(lines[0]))] * 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_any_text_comes_back_as_it_was(tmp_path, replies):
    """Among them are the characters at which Python, but not JSON, ends a line."""
    replies = [*replies, "\u2028", "a\x85b\x0cc", "\r\n", "x\x1cy\u2029"]
    path = tmp_path / "calls.jsonl"
    path.unlink(missing_ok=True)
    asked = requests_of(*map(str, range(len(replies))))

    class Scripted(FakeModel):
        def _one(self, request, number):
            return Reply(replies[int(request.prompt)])

    assert [reply.text for reply in Recorded(Scripted(), path).reply(asked)] == replies
    model = FakeModel()
    assert [reply.text for reply in Recorded(model, path).reply(asked)] == replies
    assert model.num_computed == 0


def test_an_origin_stands_beside_the_reply_and_is_no_part_of_its_key(path):
    """What a model is shown decides; the origin finds the same reply where the text is missing."""
    asked = Request("why?", ("A", "B"), origin=("letter", "right", "1f2e", "question-id"))
    assert asked.key("m") == replace(asked, origin=()).key("m")
    assert asked.origin_key("m") == replace(asked, prompt="", options=()).origin_key("m")
    others = [replace(asked, origin=(*asked.origin[:3], "other-id")), replace(asked, sample=1)]
    assert len({request.origin_key("m") for request in [asked, *others]} | {asked.origin_key("n")}) == 4
    model = FakeModel()
    first = Recorded(model, path).reply([asked])
    line = json.loads(path.read_text())
    assert line["origin"] == list(asked.origin)
    assert line["origin_key"] == asked.origin_key(model.identity)
    assert Recorded(FakeModel(), path).reply([replace(asked, origin=())]) == first


def test_the_file_holds_no_question_text(path):
    secret = ["Which city", "is the capital", "Marseille", "Lutetia"]
    chat = (("system", secret[0]), ("user", secret[1]))
    asked = [Request(chat), Request(secret[1] + secret[2]), Request(secret[0], (secret[2], secret[3]))]
    Recorded(FakeModel(), path).reply(asked)
    content = path.read_text()
    assert len(content.splitlines()) == 3
    assert not any(word in content for text in secret for word in text.split() if len(word) > 3)
    lines = [json.loads(line) for line in content.splitlines()]
    assert all({"key"} < set(line) < {"key"} | {field.name for field in fields(Reply)} for line in lines)
    assert [line["key"] for line in lines] == [request.key("fake-float32") for request in asked]


def test_an_append_waits_until_another_writer_has_finished(path):
    llm = Recorded(FakeModel(), path)
    path.parent.mkdir()
    writer = threading.Thread(target=llm.reply, args=(requests_of("a"),))
    with FileLock(f"{path}.lock"):
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()
        assert not path.exists() or path.read_bytes() == b""
    writer.join(30)
    assert len(path.read_text().splitlines()) == 1


WRITER = """
import sys, time
from pathlib import Path
from dynagent.llm.base import Reply, Request
from dynagent.llm.store import Recorded

folder, name, other, rounds = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])

class Model:
    identity = "fake-float32"

    def batches(self, requests):
        return [[i] for i in range(len(requests))]

    def reply(self, requests):
        flag = folder / f"{other}{i}"
        (folder / f"{name}{i}").touch()
        deadline = time.monotonic() + 60
        while not flag.exists() and time.monotonic() < deadline:
            pass
        return [Reply(f"{request.prompt} " + name * 500) for request in requests]

for i in range(rounds):
    llm = Recorded(Model(), folder / f"{i}.jsonl")
    llm.reply([Request(f"{name}{j}") for j in range(5)] + [Request("shared")])
"""


def test_two_processes_that_append_at_the_same_time_lose_no_line(tmp_path):
    """Both find a torn line and mend it, at the same moment in each of twenty files."""
    rounds = 20
    for i in range(rounds):
        (tmp_path / f"{i}.jsonl").write_text('{"key": "torn' + "x" * 2_000_000)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, *names, str(rounds)], stderr=subprocess.PIPE)
        for names in ("xy", "yx")
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors.decode()
    for i in range(rounds):
        model = FakeModel()
        llm = Recorded(model, tmp_path / f"{i}.jsonl")
        for name in "xy":
            texts = [reply.text for reply in llm.reply(requests_of(*(f"{name}{j}" for j in range(5))))]
            assert texts == [f"{name}{j} {name * 500}" for j in range(5)]
        assert llm.reply(requests_of("shared"))[0].text.startswith("shared ")
        assert model.num_computed == 0
        assert (tmp_path / f"{i}.jsonl").read_bytes().count(b"\n") in (11, 12)
