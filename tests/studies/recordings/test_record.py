"""Recording real answers and features: one line a question and prompt, no text, and no call twice."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dynagent.artefacts import sources
from dynagent.graph import AgentGraph
from dynagent.llm.base import Reply
from dynagent.llm.local import TransformersModel
from dynagent.llm.reading import QuestionReader, RecordedReader
from dynagent.policies.agent_aware import Description
from dynagent.runs.build import build_graph
from dynagent.runs.config import RunConfig
from dynagent.tasks.multiple_choice import Question, load_questions
from dynagent.team.votes import MajorityVote
from dynagent.worlds.teams import NUM_PER_SUBJECT, SUBJECTS, TEAMS
from studies.recordings import record
from tests.support.toy import save_tiny_backbone


class FakeModel:
    """Scores that depend on the prompt alone; it can be killed after a number of batches."""

    identity = "fake-float32"

    def __init__(self, killed_after=None):
        self.killed_after = killed_after
        self.prompts = []
        self.num_batches = 0

    def batches(self, requests):
        return [list(range(start, min(start + 16, len(requests)))) for start in range(0, len(requests), 16)]

    def reply(self, requests):
        if self.num_batches == self.killed_after:
            raise KeyboardInterrupt
        self.num_batches += 1
        self.prompts += [request.prompt for request in requests]
        return [self._reply(request) for request in requests]

    def _reply(self, request):
        digest = hashlib.sha256(str(request.prompt).encode()).digest()
        return Reply(None, tuple(-digest[i] / 10 for i in range(len(request.options))), (1,) * len(request.options))


@pytest.fixture
def sample(monkeypatch):
    monkeypatch.setattr(record, "MMLU", (("sample", "train", None),))
    return load_questions("sample", "train")


@pytest.fixture
def of_worlds(monkeypatch):
    """Questions that are read and never asked."""
    questions = load_questions("sample", "test", limit=7)
    questions = replace(questions, split="worlds")
    monkeypatch.setattr(record, "world_questions", lambda: questions)
    return questions


@pytest.fixture(scope="module")
def edge_llm(tmp_path_factory) -> str:
    return save_tiny_backbone(tmp_path_factory.mktemp("edge_llm"))


@pytest.fixture
def run(monkeypatch, sample, of_worlds, edge_llm, tmp_path_factory):
    """`record.main` with a model for the agents, into a folder."""
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path_factory.mktemp("cache")))
    load = TransformersModel.load

    def run(model, folder, *arguments):
        monkeypatch.setattr(TransformersModel, "load", lambda name: load(name) if name == edge_llm else model)
        return record.main(["--output", str(folder), "--edge-llm", edge_llm, "--agent-llm", "fake", *arguments])

    return run


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_one_line_a_question_and_prompt_with_its_origin(run, sample, tmp_path):
    model = FakeModel()
    assert run(model, tmp_path) == 0
    lines = read_lines(tmp_path / "fake-float32.jsonl")
    asked = Counter((mode, kind, question, heard) for mode, kind, _, question, heard in (x["origin"] for x in lines))
    assert asked == Counter(("letter", kind, question.id, "") for question in sample for kind in ("right", "wrong"))
    assert all(len(line["log_probs"]) == 4 and line["origin_key"] for line in lines)
    assert len({line["origin_key"] for line in lines}) == len(lines) == len(model.prompts) == 2 * len(sample)


def test_option_likelihoods_are_asked_for_once_a_question(run, sample, tmp_path):
    model = FakeModel()
    assert run(model, tmp_path, "--agent-mode", "options") == 0
    origins = [line["origin"] for line in read_lines(tmp_path / "fake-float32.jsonl")]
    assert sorted((mode, kind, question) for mode, kind, _, question, _ in origins) == sorted(
        ("options", "right", question.id) for question in sample
    )
    assert sorted(model.prompts) == sorted(f"Question: {question.text}\nAnswer:" for question in sample)
    assert run(model, tmp_path, "--agent-mode", "letter") == 0  # both modes of a model stand in one file
    assert len(read_lines(tmp_path / "fake-float32.jsonl")) == 3 * len(sample)


def test_by_default_each_model_is_asked_in_the_mode_that_it_can_answer_in(
    sample, of_worlds, edge_llm, monkeypatch, tmp_path
):
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))
    models = {name: FakeModel() for name, _ in record.AGENTS}
    for name, model in models.items():
        model.identity = f"{name}-0123456789ab-float32"
    load = TransformersModel.load
    monkeypatch.setattr(TransformersModel, "load", lambda name: models.get(name) or load(name))
    assert record.main(["--output", str(tmp_path / "out"), "--edge-llm", edge_llm]) == 0
    kinds = {
        name: Counter(tuple(line["origin"][:2]) for line in read_lines(tmp_path / "out" / f"{model.identity}.jsonl"))
        for name, model in models.items()
    }
    assert kinds == {
        "qwen2.5-coder-1.5b-instruct": {("letter", "right"): len(sample), ("letter", "wrong"): len(sample)},
        "smollm2-135m-instruct": {("options", "right"): len(sample)},
    }


def test_the_index_tells_a_question_by_its_hash_and_never_by_its_text(run, sample, of_worlds, tmp_path):
    assert run(FakeModel(), tmp_path) == 0
    index = read_lines(tmp_path / "index.jsonl")
    assert index == [
        {
            "question": question.id,
            "dataset": "sample",
            "split": questions.split,
            "subject": question.subject,
            "language": question.language,
            "answer": question.answer,
        }
        for questions in (sample, of_worlds)
        for question in questions
    ]
    for file in ("index.jsonl", "fake-float32.jsonl"):
        text = (tmp_path / file).read_text(encoding="utf-8")
        assert not any(part in text for question in sample for part in question.text.split("。"))
        assert "\\u" not in text  # where the text of a Chinese question could hide
    suffixes = Counter(path.suffix for path in tmp_path.iterdir())
    del suffixes[".lock"]
    assert suffixes == Counter({".jsonl": 2, ".safetensors": 1, ".json": 1})


def test_features_of_every_question_and_of_every_agent_are_on_record(run, sample, of_worlds, edge_llm, tmp_path):
    assert run(FakeModel(), tmp_path) == 0
    (path,) = tmp_path.glob("*.safetensors")
    described = dict.fromkeys([*record.descriptions_of_worlds(), *record.descriptions_of_teams()])
    read = [*sample, *of_worlds, *described]
    assert len({one.id for one in read}) == len(read)
    teams = [make(3) for make in TEAMS.values()]
    for parameters in ({"adversary": "constant"}, {"team": "specialists"}, {"team": "languages"}, {}):
        teams.append(build_graph(RunConfig(**parameters), SimpleNamespace()).team)
    nodes = [node for team in teams for node in AgentGraph(team, MajorityVote()).nodes]
    assert {Description.of(node).id for node in nodes} <= {one.id for one in read}
    expected = QuestionReader.load(edge_llm).read(read)
    torch.testing.assert_close(RecordedReader(path).read(read), expected, rtol=1e-3, atol=1e-3)


def test_questions_of_the_worlds_are_the_first_of_ten_subjects(monkeypatch):
    subjects = [*SUBJECTS, "virology"]
    every = load_questions("sample", "test")
    items = [Question(f"{i} {s}", tuple("wxyz"), 0, s, "en") for i in range(NUM_PER_SUBJECT + 5) for s in subjects]
    monkeypatch.setattr(record, "load_questions", lambda dataset, split: replace(every, items=tuple(items)))
    questions = record.world_questions()
    assert questions.split == "worlds"
    assert [q.subject for q in questions] == [subject for subject in SUBJECTS for _ in range(NUM_PER_SUBJECT)]
    assert {int(q.text.split()[0]) for q in questions} == set(range(NUM_PER_SUBJECT))


def test_a_second_run_asks_nothing_and_changes_nothing(run, tmp_path):
    run(FakeModel(), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in ("index.jsonl", "fake-float32.jsonl")}
    model = FakeModel()
    assert run(model, tmp_path) == 0
    assert model.prompts == []
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("num_finished", [0, 1, 5])
def test_a_killed_run_goes_on_after_its_last_finished_batch(run, sample, tmp_path, num_finished):
    undisturbed = FakeModel()
    run(undisturbed, tmp_path / "undisturbed")
    killed, resumed = FakeModel(killed_after=num_finished), FakeModel()
    assert run(killed, tmp_path / "killed") == 130  # as after Ctrl-C
    assert killed.num_batches == num_finished
    assert run(resumed, tmp_path / "killed") == 0
    assert killed.prompts + resumed.prompts == undisturbed.prompts
    assert len(set(undisturbed.prompts)) == 2 * len(sample)
    for file in ("fake-float32.jsonl", "index.jsonl"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "undisturbed" / file).read_bytes()


def test_cmmlu_is_recorded_from_its_folder_only(run, sample, of_worlds, tmp_path, monkeypatch):
    monkeypatch.setattr(record, "CMMLU", (("cmmlu", "dev", 2), ("cmmlu", "test", 3)))
    for split in ("dev", "test"):
        (tmp_path / "cmmlu" / split).mkdir(parents=True)
        rows = "".join(f"{i},{split} 问题 {i},甲,乙,丙,丁,B\n" for i in range(30))
        text = ",Question,A,B,C,D,Answer\n" + rows
        (tmp_path / "cmmlu" / split / "chinese_history.csv").write_text(text, encoding="utf-8")
    assert run(FakeModel(), tmp_path / "out", "--cmmlu", str(tmp_path / "cmmlu")) == 0
    index = read_lines(tmp_path / "out" / "index.jsonl")
    counts = Counter((line["dataset"], line["split"], line["language"]) for line in index)
    assert counts["cmmlu", "dev", "zh"] == 2
    assert counts["cmmlu", "test", "zh"] == 3
    assert len(index) == len(sample) + len(of_worlds) + 5
    assert len(read_lines(tmp_path / "out" / "fake-float32.jsonl")) == 2 * (len(sample) + 5)


def test_what_is_not_there_is_one_sentence(run, tmp_path, capsys):
    assert run(FakeModel(), tmp_path / "out", "--cmmlu", str(tmp_path / "nowhere")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dynagent: There is no folder")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_recording_is_not_gone_on_with_by_other_packages(run, sample, tmp_path, monkeypatch, capsys):
    """Their answers may differ, and nobody could tell later which are whose."""
    assert run(FakeModel(), tmp_path) == 0
    held = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(json.loads(held["packages.json"]).values()) == {sources.computed_by()}
    monkeypatch.setattr(record, "computed_by", lambda: "torch0.1-transformers9")
    assert run(FakeModel(), tmp_path) == 2
    message = f"was recorded with {sources.computed_by()}, and here is torch0.1-transformers9: install those versions"
    assert message in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == held
