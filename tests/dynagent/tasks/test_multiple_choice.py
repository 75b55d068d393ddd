"""Multiple choice: one split whatever the source, ids of content alone, and errors that name file and row."""

import csv
import hashlib
import json
import logging
import os
import random
import re
import unicodedata
import zipfile
from collections import Counter
from itertools import chain, permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynagent.artefacts import sources
from dynagent.tasks import multiple_choice
from dynagent.tasks.multiple_choice import Question, load_questions
from dynagent.tasks.subjects import AREAS
from dynagent.tasks.subjects import SUBJECTS as SUBJECTS_OF

DATA = Path(os.environ.get("DYNAGENT_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def data_folder(name: str) -> str:
    if not (DATA / name / "test").is_dir():
        pytest.skip(f"needs the official files of {name}: set DYNAGENT_TEST_DATA to the folder that has {name}/")
    return str(DATA / name)


def digest(questions) -> str:
    """A short hash over ids in their order."""
    return hashlib.sha256("".join(question.id for question in questions).encode()).hexdigest()[:16]


def contents(questions) -> list[tuple]:
    return [(q.id, q.text, q.options, q.answer, q.subject, q.language) for q in questions]


# --- questions

words = st.text(min_size=1).filter(str.strip)
options = st.lists(words, min_size=4, max_size=4)
blanks = st.text(alphabet=" \t\n\u3000", max_size=3)


@given(words, options, blanks, st.sampled_from(["NFC", "NFD"]))
def test_id_ignores_unicode_form_and_outer_blanks(text, choices, blank, form):
    def written(string):
        return blank + unicodedata.normalize(form, string) + blank

    question = Question(text, tuple(choices), 0, "mathematics", "en")
    other = Question(written(text), tuple(map(written, choices)), 3, "philosophy", "zh")
    assert other.id == question.id
    assert re.fullmatch("[0-9a-f]{16}", question.id)


@given(words, st.lists(words.map(multiple_choice.canonical), min_size=4, max_size=4, unique=True))
def test_id_tells_the_order_of_options(text, choices):
    orders = [Question(text, order, 0, "mathematics", "en").id for order in permutations(choices)]
    assert len(set(orders)) == 24


def test_id_is_fixed():
    # Recordings refer to questions by id: this must never change.
    assert Question("1 + 1 = ?", ("1", "2", "3", "4"), 1, "mathematics", "en").id == "381b0649ecc1390e"
    assert Question("“一”加一等于？", ("一", "二", "三", "四"), 1, "mathematics", "zh").id == "9817c152899e4e7c"
    # A boundary between text and options cannot be forged by the content.
    assert (
        Question('a","b', ("c", "d", "e", "f"), 0, "x", "en").id != Question("a", ("b", "c", "d", "e"), 0, "x", "en").id
    )


def test_render_is_the_papers_form():
    question = Question("1 + 1 = ?", ("1", "2", "3", "4"), 1, "mathematics", "en")
    assert question.render() == "1 + 1 = ?\nOption A: 1\nOption B: 2\nOption C: 3\nOption D: 4"


def test_areas_cover_both_benchmarks_and_the_sample():
    sizes = [{area: len(names) for area, names in SUBJECTS_OF[name].items()} for name in ("mmlu", "cmmlu", "sample")]
    assert sizes == [
        {"stem": 18, "humanities": 13, "social_sciences": 12, "other": 14},
        {"stem": 17, "humanities": 13, "social_sciences": 22, "other": 15},
        {"stem": 4, "humanities": 3, "social_sciences": 2, "other": 1},
    ]
    assert len(AREAS["en"]) == 57 + 10 - 1 + 4  # philosophy is in MMLU and in the sample; areas are their own
    assert len(AREAS["zh"]) == 67 + 10 - 3 + 4  # philosophy, computer_science and economics
    assert Question("?", ("a", "b", "c", "d"), 0, "anatomy", "en").area == "other"
    assert Question("?", ("a", "b", "c", "d"), 0, "anatomy", "zh").area == "stem"
    with pytest.raises(ValueError, match=r"Add the subject 'alchemy' to dynagent/tasks/subjects\.json"):
        _ = Question("?", ("a", "b", "c", "d"), 0, "alchemy", "en").area


# --- a small MMLU, written as a folder, as the package's file and as the hub's files

SUBJECTS = ("anatomy", "high_school_us_history", "virology")


def small_mmlu() -> list[tuple[str, list[str]]]:
    """(subject, row) of 12 questions a subject, with every peculiarity of the published files."""
    rows = [
        (
            subject,
            [f"{subject} {n}?", "None", "NA", f' blank, "quoted"\nand broken {n} ', f"{n}", "ABCD"[n % 4]],
        )
        for subject in SUBJECTS
        for n in range(12)
    ]
    rows.append(("virology", rows[0][1]))  # a question of anatomy, again
    rows.append(("virology", rows[-2][1]))  # twice in one subject
    rows.append(("virology", ["Two equal options?", "x", "x", "y", "\u2028 é", "C"]))
    return rows


def write_folder(folder: Path, rows, split: str = "test", header=None) -> Path:
    (folder / split).mkdir(parents=True)
    for subject in {subject for subject, _ in rows}:
        name = f"{subject}.csv" if header else f"{subject}_{split}.csv"
        with (folder / split / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if header:
                writer.writerow(header)
            for number, (_, row) in enumerate(row for row in rows if row[0] == subject):
                writer.writerow([number, *row] if header else row)
    return folder


def write_package(file: Path, rows) -> Path:
    keys = ("question", "answer_a", "answer_b", "answer_c", "answer_d", "correct_answer")
    lines = [dict(zip(keys, row, strict=True)) | {"topic": subject.replace("_", " ")} for subject, row in rows]
    lines += [{key: key for key in keys[:-1]} | {"correct_answer": "answer", "topic": "anatomy"}] * 2
    random.Random(0).shuffle(lines)
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return file


def use_hub(monkeypatch, snapshot: Path) -> dict:
    """Let the hub give `snapshot`; return what it is asked."""
    import huggingface_hub

    asked: dict = {}
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **options: asked.update(options, name=name) or snapshot,
    )
    return asked


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The same questions from three sources: their `source` arguments."""
    import pyarrow
    from pyarrow import parquet

    rows = small_mmlu()
    write_folder(tmp_path / "folder", rows)
    package = write_package(tmp_path / "mmlu.jsonl", rows)
    monkeypatch.setattr(multiple_choice, "fetch", lambda name: package)
    snapshot = tmp_path / COMMIT
    (snapshot / "all").mkdir(parents=True)
    columns = {
        "question": [row[0] for _, row in rows],
        "subject": [subject for subject, _ in rows],
        "choices": [row[1:5] for _, row in rows],
        "answer": ["ABCD".index(row[5]) for _, row in rows],
    }
    parquet.write_table(pyarrow.table(columns), snapshot / "all" / "test-00000-of-00001.parquet")
    use_hub(monkeypatch, snapshot)
    return {"folder": str(tmp_path / "folder"), "package": "package", "hub": "hub"}


@pytest.mark.parametrize("split", ["train", "test", "official_test"])
def test_sources_agree(small, split):
    loaded = {kind: load_questions("mmlu", split, source) for kind, source in small.items()}
    order = sorted if split == "official_test" else list
    assert order(contents(loaded["folder"])) == order(contents(loaded["package"]))
    assert order(contents(loaded["folder"])) == order(contents(loaded["hub"]))
    for kind, questions in loaded.items():
        (source,) = questions.sources
        assert (source.name, source.kind, questions.dataset, questions.split) == ("mmlu", kind, "mmlu", split)
        assert re.fullmatch("[0-9a-f]{64}", source.sha256)
    assert loaded["hub"].sources[0].revision == COMMIT
    assert loaded["folder"].sources[0].location == small["folder"]


def test_split_follows_its_definition(small):
    official = load_questions("mmlu", "official_test")
    assert len(official) == 39
    first: dict[str, Question] = {}  # the definition, written out: by id, the first subject keeps a duplicate
    for question in sorted(official, key=lambda q: q.subject, reverse=True):
        first[question.id] = question
    train = [
        question
        for subject in SUBJECTS
        for question in sorted((q for q in first.values() if q.subject == subject), key=lambda q: q.id)[:5]
    ]
    test = [question for question in first.values() if question not in train]
    assert list(load_questions("mmlu", "train")) == sorted(train, key=lambda q: q.id)
    assert list(load_questions("mmlu", "test")) == sorted(test, key=lambda q: q.id)
    assert (len(train), len(test)) == (15, 22)


def test_limit_gives_nested_subsets(small):
    everything = load_questions("mmlu", "test")
    for limit in (1, 7, 22, 99):
        assert list(load_questions("mmlu", "test", limit=limit)) == list(everything)[:limit]
    with pytest.raises(ValueError, match="limit must be at least 1"):
        load_questions("mmlu", limit=0)


def test_questions_are_a_sequence_with_a_short_repr(small):
    questions = load_questions("mmlu", "test")
    assert questions[:3].sources == questions.sources
    assert list(questions[:3]) == [questions[0], questions[1], questions[2]]
    assert questions[0] in questions
    assert questions[0].text not in repr(questions)


def test_text_stays_text(small, caplog):
    caplog.set_level(logging.INFO, logger="dynagent")
    questions = load_questions("mmlu", "official_test", small["folder"])
    assert questions[0].options == ("None", "NA", 'blank, "quoted"\nand broken 0', "0")
    assert questions[-1].options == ("x", "x", "y", "é")
    assert "39 questions read, 1 of them with two equal options, as published" in caplog.text


def test_official_splits_and_the_layout_below_data(tmp_path):
    rows = small_mmlu()
    write_folder(tmp_path / "data", rows[:7], "val")
    write_folder(tmp_path / "data", rows[7:9], "dev")
    assert [q.text for q in load_questions("mmlu", "val", tmp_path)] == [row[0] for _, row in rows[:7]]
    assert len(load_questions("mmlu", "dev", str(tmp_path))) == 2
    with pytest.raises(ValueError, match="has no folder test with CSV files"):
        load_questions("mmlu", "train", tmp_path)


def test_cmmlu_from_a_folder_and_from_the_hubs_archive(tmp_path, monkeypatch):
    header = ["", "Question", "A", "B", "C", "D", "Answer"]
    rows = [("anatomy", [f"问题{n}", "甲", "乙", "丙", "None", "D"]) for n in range(9)]
    folder = write_folder(tmp_path / "cmmlu", rows, header=header)
    snapshot = tmp_path / COMMIT
    snapshot.mkdir()
    with zipfile.ZipFile(snapshot / "cmmlu_v1_0_1.zip", "w") as archive:
        archive.write(folder / "test" / "anatomy.csv", "test/anatomy.csv")
    asked = use_hub(monkeypatch, snapshot)
    here, hub = (load_questions("cmmlu", "official_test", source) for source in (folder, "hub"))
    assert contents(here) == contents(hub)
    assert [(q.text, q.options, q.answer, q.language, q.area) for q in here[:1]] == [
        ("问题0", ("甲", "乙", "丙", "None"), 3, "zh", "stem")
    ]
    assert here.sources[0].sha256 == hub.sources[0].sha256
    assert (hub.sources[0].revision, hub.sources[0].licence) == (COMMIT, "CC-BY-NC-SA-4.0")
    assert (asked["name"], asked["repo_type"]) == ("haonan-li/cmmlu", "dataset")
    assert [len(load_questions("cmmlu", split, folder)) for split in ("train", "test")] == [5, 4]


# --- what is refused


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"q,1,2,3,4,A\nq,1,2,3,4\n", r"anatomy_test\.csv, row 2, has 5 values instead of"),
        (
            b"q,1,2,3,4,A\nq,1,2,3,4,E\n",
            r"row 2, gives 'E' as the right answer: it must be one of A, B, C and D",
        ),
        (b"question,A,B,C,D,answer\n", r"row 1, gives 'answer' as the right answer"),
        (b"q,1,2,3,4,AB\n", r"row 1, gives 'AB'"),
        (b"q,1,2,,4,A\n", r"row 1, has an empty question or option"),
        (b" ,1,2,3,4,A\n", r"row 1, has an empty question or option"),
        ("q,1,2,3,é,A\n".encode("latin-1"), r"anatomy_test\.csv is not UTF-8 \(byte 8\)"),
        (b'q,1,2,3,4,A\n"q,1,2,3,4,A\n', r"line 2, is not CSV"),
    ],
)
def test_malformed_files_are_named_with_their_row(content, sentence, tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "anatomy_test.csv").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        load_questions("mmlu", "test", tmp_path)


def test_cmmlu_without_its_header_is_refused(tmp_path):
    write_folder(tmp_path, [("anatomy", ["问", "1", "2", "3", "4", "A"])], header=["", *"QABCD", "Answer"])
    with pytest.raises(ValueError, match=r"anatomy\.csv, row 1, is not CMMLU's header"):
        load_questions("cmmlu", "test", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        (
            ("mlu",),
            ValueError,
            r"no data set 'mlu'; did you mean 'mmlu'\? Known: cmmlu, mmlu, sample\.$",
        ),
        (("MMLU",), ValueError, "no data set 'MMLU'; did you mean 'mmlu'"),
        (("mmlu", "tset"), ValueError, r"no split 'tset'.+did you mean 'test'"),
        (("mmlu", "val"), ValueError, "package has no split 'val' of MMLU: give source='hub' or a folder"),
        (("cmmlu",), ValueError, "No package holds cmmlu: give source='hub' or the path of a folder"),
        (
            ("sample", "dev"),
            ValueError,
            "comes with dynagent: give no source, and the split 'train' or 'test'",
        ),
        (("sample", "train", "hub"), ValueError, "comes with dynagent: give no source"),
        (("mmlu", "test", "no/such"), FileNotFoundError, "There is no folder no/such"),
    ],
)
def test_wrong_arguments_say_what_to_do(arguments, kind, sentence):
    with pytest.raises(kind, match=sentence):
        load_questions(*arguments)


def test_folder_without_csv_files_is_refused(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "anatomy.txt").write_text("q")
    with pytest.raises(ValueError, match=r"has no files <subject>_test\.csv"):
        load_questions("mmlu", "test", tmp_path)


# --- the sample and the real files


def test_sample_comes_with_the_package():
    train, test = (load_questions("sample", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (60, 100)
    assert Counter(question.language for question in train) == {"en": 30, "zh": 30}
    assert set(Counter((question.language, question.subject) for question in train).values()) == {3}
    assert not {question.id for question in train} & {question.id for question in test}
    assert {question.area for question in test} == {"stem", "humanities", "social_sciences", "other"}
    assert train.sources[0].kind == "builtin"


# The default splits of MMLU: recordings and results refer to them.
MMLU_SPLITS = {"train": (285, "d0a905208f807bf1"), "test": (13_652, "01af66c5c120bc67")}


@pytest.mark.parametrize("split", ["train", "test"])
def test_mmlu_split_from_the_folder(split):
    questions = load_questions("mmlu", split, data_folder("mmlu"))
    assert (len(questions), digest(questions)) == MMLU_SPLITS[split]


def test_mmlu_folder():
    folder = data_folder("mmlu")
    official, dev = (load_questions("mmlu", split, folder) for split in ("official_test", "dev"))
    train, test = (load_questions("mmlu", split, folder) for split in ("train", "test"))
    assert (len(official), len(dev)) == (14_042, 285)
    assert len({question.id for question in official}) == 14_042 - 105
    assert sum(len(set(question.options)) < 4 for question in official) == 9
    assert set(Counter(question.subject for question in train).values()) == {5}
    assert {question.id for question in [*train, *test]} == {question.id for question in official}
    assert {question.subject for question in official} == set(chain(*SUBJECTS_OF["mmlu"].values()))
    assert sum(option in ("None", "NA") for question in official for option in question.options) == 10


def test_cmmlu_folder():
    folder = data_folder("cmmlu")
    train, test = (load_questions("cmmlu", split, folder) for split in ("train", "test"))
    assert set(Counter(question.subject for question in train).values()) == {5}
    assert {question.subject for question in train} == set(chain(*SUBJECTS_OF["cmmlu"].values()))
    assert not {question.id for question in train} & {question.id for question in test}
    assert len(load_questions("cmmlu", "dev", folder)) == 335
    assert "Answer" not in {question.text for question in [*train, *test]}


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
def test_mmlu_split_from_the_package(split):
    questions = load_questions("mmlu", split)
    assert (len(questions), digest(questions)) == MMLU_SPLITS[split]
    assert questions.sources == (sources.pinned_source("mmlu"),)


@pytest.mark.slow
def test_mmlu_package_equals_the_official_files():
    folder, package = (load_questions("mmlu", "official_test", s) for s in (data_folder("mmlu"), "package"))
    assert sorted(contents(package)) == sorted(contents(folder))
    assert len(package) == 14_042
