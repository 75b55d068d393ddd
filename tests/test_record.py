"""Recording real answers: one line a question and prompt, no text, and no call twice."""

import hashlib
import json
from collections import Counter

import pytest

from dynagent import record
from dynagent.llm import Reply, TransformersModel
from dynagent.tasks import load_questions


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
def run(monkeypatch, sample):
    """`record.main` with a model, into a folder."""

    def run(model, folder, *arguments):
        monkeypatch.setattr(TransformersModel, "load", lambda name: model)
        return record.main(["--output", str(folder), *arguments])

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


def test_the_index_tells_a_question_by_its_hash_and_never_by_its_text(run, sample, tmp_path):
    assert run(FakeModel(), tmp_path) == 0
    index = read_lines(tmp_path / "index.jsonl")
    assert index == [
        {
            "question": question.id,
            "dataset": "sample",
            "split": "train",
            "subject": question.subject,
            "language": question.language,
            "answer": question.answer,
        }
        for question in sample
    ]
    for file in ("index.jsonl", "fake-float32.jsonl"):
        text = (tmp_path / file).read_text(encoding="utf-8")
        assert not any(part in text for question in sample for part in question.text.split("。"))
        assert "\\u" not in text  # where the text of a Chinese question could hide
    assert sorted(path.suffix for path in tmp_path.iterdir()) in ([".jsonl"] * 2, [".jsonl", ".jsonl", ".lock"])


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
    with pytest.raises(KeyboardInterrupt):
        run(killed, tmp_path / "killed")
    assert killed.num_batches == num_finished
    assert run(resumed, tmp_path / "killed") == 0
    assert killed.prompts + resumed.prompts == undisturbed.prompts
    assert len(set(undisturbed.prompts)) == 2 * len(sample)
    for file in ("fake-float32.jsonl", "index.jsonl"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "undisturbed" / file).read_bytes()


def test_cmmlu_is_recorded_from_its_folder_only(run, sample, tmp_path, monkeypatch):
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
    assert len(index) == len(sample) + 5
    assert len(read_lines(tmp_path / "out" / "fake-float32.jsonl")) == 2 * len(index)


def test_what_is_not_there_is_one_sentence(run, tmp_path, capsys):
    assert run(FakeModel(), tmp_path / "out", "--cmmlu", str(tmp_path / "nowhere")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dynagent: There is no folder")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
