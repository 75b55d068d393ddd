"""Questions and features on record: an experiment replays without the data set and without the edge LLM."""

import json
from pathlib import Path

import pytest
import torch

from dynagent.artefacts.sources import file_sha256
from dynagent.llm.local import READOUTS
from dynagent.llm.reading import QuestionReader, RecordedReader, save_features
from dynagent.tasks.multiple_choice import Question, load_questions
from dynagent.tasks.recorded import RecordedQuestion, load_recorded
from tests.support.toy import save_tiny_backbone

RECORDINGS = Path(__file__).resolve().parents[3] / "results" / "recordings"


def row(number: int, dataset: str = "mmlu", split: str = "train", **changes) -> dict:
    made = {"question": f"hash{number}", "dataset": dataset, "split": split}
    return made | {"subject": "virology", "language": "en", "answer": number % 4} | changes


def write_index(folder: Path, rows) -> Path:
    lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
    (folder / "index.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


# --- questions


def test_questions_come_in_the_order_of_the_record(tmp_path):
    order = [5, 2, 9, 0]
    write_index(tmp_path, [row(7, split="test"), *map(row, order), row(2, "cmmlu", language="zh")])
    questions = load_recorded(tmp_path, "mmlu", "train")
    assert [question.id for question in questions] == [f"hash{i}" for i in order]
    assert [question.answer for question in questions] == [i % 4 for i in order]
    assert [question.id for question in load_recorded(tmp_path, "mmlu", "train", limit=3)] == [
        "hash5",
        "hash2",
        "hash9",
    ]
    assert len(load_recorded(tmp_path, "mmlu", "train", limit=50)) == 4
    (source,) = questions.sources
    assert (source.kind, source.sha256) == ("record", file_sha256(tmp_path / "index.jsonl"))
    assert (questions.dataset, questions.split) == ("mmlu", "train")


def test_what_is_known_of_a_question_without_its_text(tmp_path):
    write_index(tmp_path, [row(1), row(2, "cmmlu", "dev", language="zh")])
    (question,) = load_recorded(tmp_path, "mmlu", "train")
    assert isinstance(question, RecordedQuestion)
    assert (question.id, question.subject, question.language, question.answer) == ("hash1", "virology", "en", 1)
    assert question.area == Question("text", tuple("wxyz"), 0, "virology", "en").area
    assert len(question.options) == 4
    with pytest.raises(ValueError, match=r"^The text of question hash1 is not on record, .* load the data set itself"):
        question.render()
    for split in ("dev", "train"):  # of CMMLU the published dev split is what there is to train on
        (chinese,) = load_recorded(tmp_path, "cmmlu", split)
        assert (chinese.id, chinese.language) == ("hash2", "zh")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, r"^There is no record of questions .*index\.jsonl: `make record` makes it\.$"),
        ([row(1, split="test")], r"index\.jsonl has no questions of mmlu train: `make record` adds them\.$"),
        ([], r"^Line 1 of .*index\.jsonl is not a question on record: `make record` mends it\.$"),
        ([row(1), row(2), row(1)], r"index\.jsonl has a question of mmlu train twice: `make record` mends it\.$"),
        ([row(1), '{"question": "ha'], r"^Line 2 of .*index\.jsonl is not a question on record"),
        ([row(1), "[1, 2]"], r"^Line 2 of .* is not a question on record"),
        ([row(1), "3", row(2)], r"^Line 2 of .* is not a question on record"),
        ([row(1), row(2), {"dataset": "mmlu", "split": "train"}], r"^Line 3 of .* is not a question on record"),
    ],
)
def test_a_bad_index_is_one_sentence(tmp_path, rows, message):
    if rows is not None:
        write_index(tmp_path, rows)
    with pytest.raises(ValueError, match=message) as caught:
        load_recorded(tmp_path, "mmlu", "train")
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_same_question_may_stand_in_two_splits(tmp_path):
    write_index(tmp_path, [row(1), row(1, split="test"), row(1, "cmmlu")])
    assert [load_recorded(tmp_path, "mmlu", split)[0].id for split in ("train", "test")] == ["hash1", "hash1"]


@pytest.mark.parametrize(
    ("dataset", "split", "num_questions"),
    [("mmlu", "train", 285), ("mmlu", "test", 1000), ("mmlu", "worlds", 1200), ("cmmlu", "test", 500)],
)
def test_the_committed_index_has_every_split(dataset, split, num_questions):
    questions = load_recorded(RECORDINGS, dataset, split)
    assert len(questions) == num_questions
    assert {question.language for question in questions} == {"zh" if dataset == "cmmlu" else "en"}
    assert {question.answer for question in questions} == {0, 1, 2, 3}
    assert all(question.area for question in questions)


def test_the_committed_features_are_there_for_every_committed_question():
    (path,) = RECORDINGS.glob("smollm2-*.safetensors")
    reader = RecordedReader(path)
    assert (reader.name, reader.identity) == ("smollm2-135m-instruct", path.stem)
    for dataset, split in (
        ("mmlu", "train"),
        ("mmlu", "test"),
        ("mmlu", "worlds"),
        ("cmmlu", "dev"),
        ("cmmlu", "test"),
    ):
        features = reader.read(load_recorded(RECORDINGS, dataset, split))
        assert features.isfinite().all()
        assert features.shape[1] == reader.hidden_size == 576
        assert len(features.unique(dim=0)) == len(features), "questions should differ"


# --- features


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNAGENT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    return save_tiny_backbone(tmp_path_factory.mktemp("tiny-backbone"))


@pytest.mark.parametrize("readout", READOUTS)
def test_recorded_features_are_those_of_the_model_in_half_precision(backbone, tmp_path, readout):
    questions = load_questions("sample", "train", limit=12)
    reader = QuestionReader.load(backbone, dtype="float32")
    path = save_features(reader, questions, tmp_path)
    recorded = RecordedReader(path)
    assert path == tmp_path / f"{reader.identity}.safetensors"
    assert (recorded.identity, recorded.hidden_size, recorded.forwards) == (reader.identity, reader.hidden_size, 0)
    known = [RecordedQuestion(answer=q.answer, subject=q.subject, language=q.language, id=q.id) for q in questions]
    expected = reader.read(questions, readout)
    found = recorded.read(known[::-1], readout)
    assert found.dtype == torch.float32
    assert torch.equal(found.flip(0), expected.half().float())
    torch.testing.assert_close(found.flip(0), expected, rtol=2**-10, atol=2**-14)


def test_readouts_on_record_differ(backbone, tmp_path):
    questions = load_questions("sample", "train", limit=3)
    recorded = RecordedReader(save_features(QuestionReader.load(backbone), questions, tmp_path))
    first, second, third = (recorded.read(questions, readout) for readout in READOUTS)
    assert not torch.allclose(first, second)
    assert not torch.allclose(second, third)
    assert torch.equal(recorded.read(questions), recorded.read(questions, "mean_hidden"))
    with pytest.raises(ValueError, match=r"one of last_hidden, mean_hidden, mean_embedding, not 'first'"):
        recorded.read(questions, "first")


def test_missing_features_are_one_sentence(backbone, tmp_path):
    with pytest.raises(ValueError, match=r"^There are no recorded features .*none\.safetensors: `make record` makes"):
        RecordedReader(tmp_path / "none.safetensors")
    questions = load_questions("sample", "train", limit=5)
    recorded = RecordedReader(save_features(QuestionReader.load(backbone), questions[:2], tmp_path))
    message = (
        rf"^3 questions, the first {questions[2].id}, have no features in .*: `make record` adds what is missing\.$"
    )
    with pytest.raises(ValueError, match=message):
        recorded.read(questions)
