"""A real server: `transformers serve` with SmolLM2 on a loopback port, killed and started again, and on a bad line."""

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dynagent.artefacts.sources import model_folder
from dynagent.llm.base import Request
from dynagent.llm.budget import Budget, BudgetExceededError
from dynagent.llm.served import ServedModel
from dynagent.llm.store import Recorded
from dynagent.runs.config import RunConfig
from dynagent.runs.record import RunRecord, run_folder
from dynagent.tasks.multiple_choice import load_questions
from dynagent.team.agents import Adversarial, Truthful
from tests.support.servers import Line, transformers_serve

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
CONCURRENCY = 4
CAPITALS = ["France", "Japan", "Italy", "Spain", "Egypt", "Peru", "Kenya", "Norway", "Cuba", "Iran", "Chile", "Greece"]
REQUESTS = [
    Request((("user", f"What is the capital of {country}? Answer with its name."),), max_new_tokens=8)
    for country in CAPITALS
]


@pytest.fixture(scope="module")
def folder():
    return model_folder("smollm2-135m-instruct")[0]


@pytest.fixture(scope="module")
def the_server(folder, tmp_path_factory):
    with transformers_serve(folder, tmp_path_factory.mktemp("serve") / "log.txt") as one:
        yield one


@pytest.fixture
def server(the_server):
    """Running, also after a test that killed it."""
    if the_server.process is None:
        the_server.start()
    return the_server


@pytest.fixture(scope="module")
def on_a_good_line(the_server, folder):
    """What the server says, and how many seconds that takes it, one call after the other."""
    if the_server.process is None:
        the_server.start()
    start = time.monotonic()
    replies = ServedModel(f"openai:{the_server.url}#{folder}", timeout=600).reply(REQUESTS)
    return replies, time.monotonic() - start


@pytest.fixture
def replies(on_a_good_line):
    return on_a_good_line[0]


def recorded(url, folder, path, budget=None, **options):
    return Recorded(ServedModel(f"openai:{url}#{folder}", CONCURRENCY, **({"timeout": 600} | options)), path, budget)


def test_it_knows_a_capital_and_counts_its_tokens(replies):
    assert "Paris" in replies[0].text
    assert "Tokyo" in replies[1].text
    assert all(20 < reply.prompt_tokens < 60 and 1 <= reply.completion_tokens <= 8 for reply in replies)


def test_it_scores_nothing_so_that_letters_are_parsed_and_options_refused(server, folder, tmp_path):
    llm = recorded(server.url, folder, tmp_path / "calls.jsonl")
    questions = load_questions("sample", "train", limit=4)
    for agent in (Truthful(llm, mode="letter"), Adversarial(llm, mode="letter", lying="asked")):
        answered = llm.reply([agent.request(question) for question in questions])
        assert all(reply.text and reply.log_probs is None for reply in answered)
        answers = [agent.answer(question, reply, 0.5) for question, reply in zip(questions, answered, strict=True)]
        assert {*answers} & {0, 1, 2, 3}
    with pytest.raises(ValueError, match=r"prompt must be a string.*set agent_mode to 'letter' or 'text'"):
        llm.reply([Truthful(llm).request(questions[0])])
    with pytest.raises(ConnectionError, match="Server is pinned to"):
        ServedModel(f"openai:{server.url}#another").reply(REQUESTS[:1])


def test_a_bad_line_changes_no_reply(server, folder, on_a_good_line, tmp_path):
    """Six of the first replies are delayed beyond the time-out, cut off or garbled."""
    replies, seconds = on_a_good_line
    timeout = max(5.0, seconds)  # four calls at a time take a third of that
    faults = {0: "cut", 1: "garble", 2: "delay", 5: "cut", 6: "garble", 9: "delay"}
    with Line(server.url, lambda number: faults.get(number, ""), delay=timeout + 2) as line:
        llm = recorded(line.url, folder, tmp_path / "calls.jsonl", timeout=timeout)
        assert llm.reply(REQUESTS) == replies
        assert [fault for fault in line.faults if fault] == list(faults.values())
        assert len((tmp_path / "calls.jsonl").read_text().splitlines()) == len(REQUESTS)


def lines_of(path):
    return path.read_text().splitlines() if path.exists() else []


def killing(server, number):
    """The fault of a line on which the server is killed when it has made so many replies."""

    def fault(count):
        if count == number:
            server.kill()
        return ""

    return fault


def test_killed_and_started_again_nothing_is_lost_and_only_what_was_under_way_is_paid_twice(
    server, folder, replies, tmp_path
):
    path = tmp_path / "calls.jsonl"
    with Line(server.url, killing(server, 4)) as line:
        with pytest.raises(ConnectionError, match=r"Connection error.*on record"):
            recorded(line.url, folder, path, retries=1).reply(REQUESTS)
        before = len(lines_of(path))
        assert 4 <= before < len(REQUESTS)  # the fifth reply may have been cut off with the server

        server.start()
        again = recorded(line.url, folder, path)
        assert again.reply(REQUESTS) == replies
        assert again.usage.model_calls == len(REQUESTS) - before
        times = Counter(line.answered)
        assert len(times) == len(REQUESTS)
        assert sum(times.values()) - len(times) <= CONCURRENCY


def test_a_short_outage_is_waited_for(server, folder, replies, tmp_path):
    path = tmp_path / "calls.jsonl"
    with Line(server.url, killing(server, 4)) as line, ThreadPoolExecutor(1) as pool:
        llm = recorded(line.url, folder, path, retries=100)
        replying = pool.submit(llm.reply, REQUESTS)
        while server.process is not None:
            assert not replying.done(), replying.exception()
            time.sleep(0.01)
        server.start()
        assert replying.result() == replies
        assert llm.usage.model_calls == len(lines_of(path)) == len(REQUESTS)


def test_a_killed_run_leaves_at_most_what_was_under_way_unpaid_for(server, folder, replies, tmp_path):
    """kill -9 of the run itself: a second one pays for what is not on record, and no torn line is taken for a reply."""
    path = tmp_path / "calls.jsonl"
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.dynagent.llm.test_transformers_serve import REQUESTS, recorded\n"
        "recorded(*sys.argv[1:3], Path(sys.argv[3])).reply(REQUESTS)\n"
    )
    process = None

    def fault(count):
        if count == 4 and process is not None:
            process.kill()
        return ""

    with Line(server.url, fault) as line:
        process = subprocess.Popen([sys.executable, "-c", code, line.url, folder, str(path)], cwd=ROOT)
        try:
            assert process.wait(600) == -signal.SIGKILL
        finally:
            process.kill()
        line.wait_until_idle()  # the server finishes what was under way
        before = len(lines_of(path))
        assert before < len(REQUESTS)
        assert len(line.answered) - before <= CONCURRENCY
        process = None
        assert recorded(line.url, folder, path).reply(REQUESTS) == replies
        assert len(line.answered) <= len(REQUESTS) + CONCURRENCY


def test_the_token_budget_holds_at_a_real_server(server, folder, tmp_path):
    llm = recorded(server.url, folder, tmp_path / "calls.jsonl", Budget(400))
    with pytest.raises(BudgetExceededError, match="token_budget 400"):
        llm.reply(REQUESTS)
    stated = [json.loads(line) for line in lines_of(tmp_path / "calls.jsonl")]
    assert 0 < sum(line["prompt_tokens"] + line["completion_tokens"] for line in stated) == llm.budget.paid <= 400


def test_a_whole_run(server, folder, tmp_path, monkeypatch):
    """`python -m dynagent train`: estimate, stop at the budget, go on, and a record that says what answered and how."""
    monkeypatch.setenv("DYNAGENT_API_KEY", "sk" + "-very-secret-1234567890")
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))
    parameters = {
        "dataset": "sample", "agent_llm": f"openai:{server.url}#{folder}", "agent_mode": "letter", "adversary": "asked",
        "num_truthful": 2, "num_adversarial": 2, "train_limit": 6, "eval_limit": 3, "edge_policy": "static",
        "output_dir": str(tmp_path / "runs"),
    }  # fmt: skip

    def run(**more):
        (tmp_path / "run.json").write_text(json.dumps(parameters | more))
        command = [sys.executable, "-m", "dynagent", "train", str(tmp_path / "run.json")]
        return subprocess.run(command, capture_output=True, text=True, timeout=1200, cwd=ROOT)

    refused = run(adversary="least_likely")
    assert refused.returncode == 2
    assert "set adversary to 'asked'" in refused.stderr.splitlines()[-1]
    stopped = run(token_budget=1200)
    assert (stopped.returncode, stopped.stderr.splitlines()[-1][:10]) == (2, "dynagent: ")
    assert "token_budget 1,200" in stopped.stderr
    finished = run()
    assert finished.returncode == 0, finished.stderr[-2000:]
    said = r"\d+ different calls of the agents, \d+ of them not on record: about [\d,]+ tokens and [\d.]+ minutes"
    assert re.search(said, finished.stdout)
    assert " 0 of them not on record" not in finished.stdout
    folder_of_run = run_folder(RunConfig.from_parameters(parameters))
    record = RunRecord.load(folder_of_run / "record.json")
    (source,) = [used for used in record.inputs if used.kind == "served"]
    assert (source.location, source.sha256) == (server.url, "not verifiable")
    assert record.decoding == {"temperature": 0.0, "max_new_tokens": 50}
    assert "sk-very" not in "".join([(folder_of_run / "record.json").read_text(), finished.stdout, finished.stderr])
    (calls,) = [usage for name, usage in record.usage.items() if name.startswith("agents")]
    # Four questions are visited in batches of four, three are held out; each is asked for a right and a wrong letter.
    assert calls["written"] == calls["distinct_calls"] == 2 * (4 + 3)


def test_children_are_killed(folder, tmp_path):
    processes = []

    def fail():
        with transformers_serve(folder, tmp_path / "log.txt") as server:
            try:
                server.start(patience=0)
            finally:
                processes.append(server.process)

    with pytest.raises(RuntimeError, match="transformers serve is not up after 0 s"):
        fail()
    assert processes[0].poll() is not None
