"""Checkpoints: a training that is stopped anywhere ends as if it had not been; a finished run is left alone."""

import json
import re
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open

from dynagent.evaluation.evaluate import compare_wirings
from dynagent.execution.runner import Runner
from dynagent.graph import AgentGraph
from dynagent.learning import checkpoint as checkpoints
from dynagent.learning.checkpoint import Checkpoint
from dynagent.learning.config import TrainConfig
from dynagent.learning.loop import train
from dynagent.learning.objectives import OBJECTIVES
from dynagent.llm.base import Reply
from dynagent.llm.reading import QuestionReader
from dynagent.llm.store import Recorded
from dynagent.policies.static import StaticEdgePolicy
from dynagent.policies.tuned import TunedEdgePolicy
from dynagent.runs.build import again, prepare
from dynagent.runs.config import RunConfig
from dynagent.runs.experiment import fingerprint
from dynagent.runs.record import RunRecord, run_folder
from dynagent.runs.run import run_experiment, train_all
from dynagent.runs.saving import finished_run, save_run
from dynagent.team.agents import Truthful
from dynagent.team.votes import MajorityVote
from tests.support.toy import EXPECTATIONS, Knows, Lucky, ToyPolicy, save_tiny_backbone, toy_graph, toy_questions

RUN = {"set of parameters": "0123", "version of dynagent's code": "abcd"}


@pytest.fixture
def after_each_step(monkeypatch):
    monkeypatch.setattr(checkpoints, "EVERY", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", float("inf"))


class Stopped(Runner):
    """Stops the training, as Ctrl-C does, when it is called for the `at`-th time."""

    def __init__(self, graph, at=None, seed=0):
        super().__init__(graph, seed)
        self.at, self.num_calls = at, 0

    def _call(self):
        if self.num_calls == self.at:
            raise KeyboardInterrupt
        self.num_calls += 1

    def run(self, *arguments):
        self._call()
        return super().run(*arguments)

    def ballots(self, *arguments):
        self._call()
        return super().ballots(*arguments)


def fit(policy, graph, runner, path, resume=True, run=RUN, **options):
    config = TrainConfig(**({"num_iterations": 12, "batch_size": 3, "graphs_per_question": 2} | options))
    checkpoint = Checkpoint(path, run, resume) if path else None
    questions = toy_questions(20)
    return train(
        policy, graph, questions, config, runner=runner, accelerator=Accelerator(cpu=True), checkpoint=checkpoint
    )


CASES = [
    *({"estimator": name} for name in OBJECTIVES),
    {"estimator": "leave_one_out", "early_stopping": 0.3, "schedule": "cosine", "num_iterations": 25},
    {"estimator": "moving_average", "optimizer": "sgd", "schedule": "linear"},
]


@pytest.mark.parametrize("kind", ["static", "dynamic"])
@pytest.mark.parametrize("options", CASES, ids=lambda options: "-".join(map(str, options.values())))
def test_a_training_stopped_anywhere_ends_as_if_it_had_not_been(options, kind, tmp_path, after_each_step):
    reads = options["estimator"] not in EXPECTATIONS
    graph = AgentGraph([Knows((0,), reads=reads), Lucky(0.6), Lucky(0.4, reads=reads)], MajorityVote())
    make = {"static": StaticEdgePolicy.for_graph, "dynamic": ToyPolicy.for_graph}[kind]
    whole, runner = make(graph), Stopped(graph)
    expected = fit(whole, graph, runner, None, **options)
    for at in range(0, runner.num_calls, 4):
        path = tmp_path / f"{at}.safetensors"
        with pytest.raises(KeyboardInterrupt):
            fit(make(graph), graph, Stopped(graph, at), path, **options)
        policy = make(graph)
        history = fit(policy, graph, Stopped(graph), path, **options)
        assert history.rows == expected.rows
        assert 0 <= history.num_resumed <= at
        assert history.num_resumed > 0 or at < 2
        for name, weights in whole.state_dict().items():
            assert torch.equal(policy.state_dict()[name], weights), (at, name)


@pytest.mark.parametrize("at", [0, 3, 9])
def test_what_was_stopped_in_a_notebook_is_run_again_in_its_next_cell(at, tmp_path):
    """The same policy and runner, half trained, and no checkpoint since the beginning: nothing is trained twice."""
    graph = toy_graph()
    whole = ToyPolicy.for_graph(graph)
    expected = fit(whole, graph, Runner(graph), None)
    policy, runner = ToyPolicy.for_graph(graph), Stopped(graph, at)
    with pytest.raises(KeyboardInterrupt):
        fit(policy, graph, runner, tmp_path / "state.safetensors")
    runner.at = None
    history = fit(policy, graph, runner, tmp_path / "state.safetensors")
    assert (history.num_resumed, history.rows) == (0, expected.rows)
    assert torch.equal(policy.head.weight, whole.head.weight)


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_tuned_language_model_goes_on_too(tune, tmp_path, after_each_step):
    reader = QuestionReader.load(save_tiny_backbone(tmp_path / "llm"), dtype="float32")
    graph = toy_graph()

    def make():
        return TunedEdgePolicy.from_backbone(reader, graph, tune=tune)

    whole = make()
    fit(whole, graph, Runner(graph), None, num_iterations=4)
    path = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(make(), graph, Stopped(graph, 2), path, num_iterations=4)
    policy = make()
    assert fit(policy, graph, Runner(graph), path, num_iterations=4).num_resumed == 2
    for name, weights in whole.own_tensors().items():
        assert torch.equal(policy.own_tensors()[name], weights), name


class FakeModel:
    """Writes replies that depend on the whole batch, as in half precision they do."""

    identity = "fake-0123456789ab-float32"

    def __init__(self):
        self.computed = []

    def batches(self, requests):
        return [list(range(start, min(start + 3, len(requests)))) for start in range(0, len(requests), 3)]

    def reply(self, requests):
        self.computed.append([request.key(self.identity) for request in requests])
        mixed = sum(int(request.key(self.identity), 16) for request in requests)
        return [Reply("ABCD"[(mixed >> i) % 4], None, None, 7, 1) for i, _ in enumerate(requests)]


@pytest.mark.parametrize("at", range(0, 12, 2))
def test_agents_that_read_are_asked_in_the_same_batches(at, tmp_path, after_each_step):
    """What they have heard so far decides what they are asked next: no call is made twice, and all are counted once."""

    def run(path, at=None):
        model = FakeModel()
        llm = Recorded(model, path / "calls.jsonl")
        graph = AgentGraph([Truthful(llm, mode="text", reads=True)] * 3, MajorityVote())
        policy, runner = StaticEdgePolicy.for_graph(graph), Stopped(graph, at)
        try:
            fit(policy, graph, runner, path / "state.safetensors", estimator="leave_one_out")
        except KeyboardInterrupt:
            assert at is not None
        return model.computed, policy.edge_logits.tolist(), llm.usage_of_run(), (path / "calls.jsonl").read_bytes()

    batches, *expected = run(tmp_path / "whole")
    before, *_ = run(tmp_path / "stopped", at) if at else ([],)
    after, *ended = run(tmp_path / "stopped")
    assert before + after == batches
    assert ended == expected


# --- the file


def stopped_training(path, at=5, **options):
    graph = toy_graph()
    with pytest.raises(KeyboardInterrupt):
        fit(ToyPolicy.for_graph(graph), graph, Stopped(graph, at), path, **options)


def test_a_checkpoint_holds_all_that_changes_and_no_pickle(tmp_path, after_each_step):
    path = tmp_path / "state.safetensors"
    stopped_training(path, early_stopping=0.3, estimator="moving_average", num_iterations=40, at=30)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["header"])
        assert set(file.keys()) == {str(number) for number in range(len(file.keys()))}
        state = header["state"]
    assert set(state) == {"policy", "optimizer", "schedule", "generator", "runner", "rows", "average", "best"}
    assert set(state["optimizer"]["state"]["0"]) == {"step", "exp_avg", "exp_avg_sq"}
    assert state["average"] is not None
    assert state["best"][1].keys() == state["policy"].keys()
    assert 0 < len(state["rows"]) < header["num_iterations"] == 40
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_unfinished_steps_of_another_run_are_neither_gone_on_with_nor_lost(tmp_path, after_each_step):
    path, graph = tmp_path / "state.safetensors", toy_graph()
    stopped_training(path)
    held = path.read_bytes()
    message = (
        "has 5 iterations of a run with another version of dynagent's code: bring that back to go on, or set resume"
    )
    with pytest.raises(ValueError, match=message):
        fit(ToyPolicy.for_graph(graph), graph, Runner(graph), path, run=RUN | {"version of dynagent's code": "x"})
    assert path.read_bytes() == held
    history = fit(ToyPolicy.for_graph(graph), graph, Runner(graph), path, resume=False)
    assert history.num_resumed == 0
    assert path.read_bytes() != held


@pytest.mark.parametrize("at", [0, None])
def test_where_nothing_is_lost_another_run_just_begins(at, tmp_path, after_each_step):
    path, graph = tmp_path / "state.safetensors", toy_graph()
    if at is None:
        fit(ToyPolicy.for_graph(graph), graph, Runner(graph), path)
    else:
        stopped_training(path, at)
    policy, whole = ToyPolicy.for_graph(graph), ToyPolicy.for_graph(graph)
    assert fit(policy, graph, Runner(graph), path, run={"other": "run"}).num_resumed == 0
    fit(whole, graph, Runner(graph), None)
    assert torch.equal(policy.head.weight, whole.head.weight)


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_damaged_checkpoint_is_one_sentence(damage, tmp_path, after_each_step):
    path, graph = tmp_path / "state.safetensors", toy_graph()
    stopped_training(path)
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "noise": b"\x80\x04" + content[9:], "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"^The checkpoint .* is damaged: set resume to false to train anew\.$"):
        fit(ToyPolicy.for_graph(graph), graph, Runner(graph), path)


def test_checkpoints_cost_a_small_share_of_the_time(tmp_path, monkeypatch):
    """By the clock: after 30 s, or twenty times what writing one takes; in a training of a second, first and last."""
    clock = iter(range(0, 10**6, 7))
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: next(clock))
    checkpoint, graph, saved = Checkpoint(tmp_path / "state", RUN), toy_graph(), []
    monkeypatch.setattr(checkpoints, "write_file", lambda path, chunks: saved.append(path))
    config = TrainConfig(num_iterations=200, batch_size=3)
    policy = ToyPolicy.for_graph(graph)
    train(policy, graph, toy_questions(20), config, accelerator=Accelerator(cpu=True), checkpoint=checkpoint)
    # Each look at the clock takes 7 s, so that writing takes 7 s and 140 s, twenty looks, have to pass.
    assert len(saved) == 1 + 200 // 20


def test_a_full_disk_stops_with_a_sentence_and_leaves_the_last_good_state(tmp_path, after_each_step):
    """The limit on files' sizes is that of this process, for the time of the test."""
    path, graph = tmp_path / "state.safetensors", toy_graph()
    stopped_training(path, num_iterations=400)
    held = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(held) + 2000, hard))
    try:
        with pytest.raises(OSError, match=re.escape(f"the disk of {tmp_path} is full: free some space and run again")):
            fit(ToyPolicy.for_graph(graph), graph, Runner(graph), path, num_iterations=400)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert len(path.read_bytes()) > len(held)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    policy, whole = ToyPolicy.for_graph(graph), ToyPolicy.for_graph(graph)
    assert fit(policy, graph, Runner(graph), path, num_iterations=400).num_resumed >= 5
    fit(whole, graph, Runner(graph), None, num_iterations=400)
    assert torch.equal(policy.head.weight, whole.head.weight)


# --- a run as a whole


@pytest.fixture
def config(tmp_path, monkeypatch) -> RunConfig:
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))
    llm = save_tiny_backbone(tmp_path / "llm")
    return RunConfig(
        dataset="sample", edge_llm=llm, agent_llm=llm, train_limit=16, eval_limit=12, num_iterations=6,
        num_truthful=2, num_adversarial=1, output_dir=str(tmp_path / "runs"),
    )  # fmt: skip


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_is_left_as_it_is_and_says_so(config, caplog):
    folder = run_experiment(config, "first")
    held = contents(folder)
    assert run_experiment(config, "second") == folder
    assert "finished and on record: nothing is changed" in caplog.text
    assert contents(folder) == held
    # As in a notebook, cell after cell: what was trained is loaded, and saving changes nothing.
    whole = prepare(config)
    policies, history = train_all(whole, save=True)
    assert history.num_resumed == len(history.rows) == 6
    results = compare_wirings(policies, whole.eval_questions, whole.runner, config)
    record, _ = save_run(whole, history, results, "third")
    assert (record.command, record.history) == ("first", history.rows)
    assert contents(folder) == held
    run_experiment(config.replace(resume=False), "fourth")
    assert RunRecord.load(folder / "record.json").command == "fourth"


def test_another_run_in_the_same_folder_is_run_and_takes_its_place(config, monkeypatch):
    folder = run_experiment(config, "first")
    whole = prepare(config)
    assert finished_run(whole).command == "first"
    known = fingerprint(whole)
    for name in known:
        monkeypatch.setattr("dynagent.runs.saving.fingerprint", lambda _, name=name: known | {name: "other"})
        assert finished_run(whole) is None, name
    run_experiment(config, "second")  # of other packages, that is
    assert RunRecord.load(folder / "record.json").command == "second"
    assert not (folder / ".new").exists()


def test_every_part_of_a_run_is_in_its_fingerprint(config, monkeypatch):
    whole = prepare(config)
    known = fingerprint(whole)

    def changed(experiment) -> set[str]:
        now = fingerprint(experiment)
        return {name for name in known if known[name] != now[name]}

    assert changed(again(whole, output_dir="elsewhere", resume=False)) == set()
    assert changed(again(whole, seed=1)) == {"set of parameters"}
    assert changed(replace(whole, train_questions=whole.train_questions[:-1])) == {"set of questions"}
    monkeypatch.setattr("dynagent.runs.experiment.used_sources", lambda _: whole.train_questions.sources)
    assert changed(whole) == {"data set or model"}
    monkeypatch.undo()
    monkeypatch.setattr("dynagent.runs.experiment.environment", lambda: {"packages": {"torch": "0"}})
    assert changed(whole) == {"version of the packages"}
    monkeypatch.undo()
    monkeypatch.setattr("dynagent.runs.experiment.CODE", "other")
    assert changed(whole) == {"version of dynagent's code"}


def test_a_disk_that_fills_up_while_a_run_is_saved_leaves_the_run_before(config, monkeypatch, capsys):
    folder = run_experiment(config, "first")
    held = contents(folder / "policy"), (folder / "record.json").read_bytes()
    monkeypatch.setattr(RunRecord, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="is full: free some space and run again; nothing saved is lost"):
        run_experiment(config.replace(resume=False), "second")
    assert (contents(folder / "policy"), (folder / "record.json").read_bytes()) == held


def test_a_training_question_that_is_an_evaluation_question_is_refused(config):
    whole = prepare(config)
    both = replace(whole.eval_questions, items=(*whole.eval_questions.items, whole.train_questions[3]))
    with pytest.raises(
        ValueError, match=f"1 training questions, the first {whole.train_questions[3].id}, are also eval"
    ):
        replace(whole, eval_questions=both)
    assert not run_folder(config).exists()
