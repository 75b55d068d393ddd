"""Tables of one's own: every row is read as it stands, or refused with its file and number; none vanishes."""

import contextlib
import csv
import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynagent.tasks.multiple_choice import load_questions
from dynagent.tasks.own import questions_from
from dynagent.tasks.tables import table_rows

HEADER = "question,A,B,C,D,answer\n"
ROW = {"question": "1 + 1 = ?", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "B"}


def write(folder, text, name="own.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(rows) -> str:
    """The sentence with which a table is refused: one, that ends with a full stop."""
    with pytest.raises(ValueError) as caught:
        questions_from(rows)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("question,answer,A,B,C,D\nGrams in a kilogram?,D,1,10,100,1,000\n", "row 1, has 7 cells and the header 6"),
        (HEADER + "fine?,1,2,3,4,A\nshort?,1,2,3,A\n", "row 2, has 5 cells and the header 6"),
        ("question,A,B,C,D,answer,\nq?,1,2,3,4,A\n", "row 1, has 6 cells and the header 7"),
        ("question,A,B,C,D,answer,A\nq?,1,2,3,4,A,9\n", "has 'A' twice"),
        (HEADER + 'a "quoted" word?,1,2,3,4,A\nthe "end" of it"?,1,"2"x,3,4,A\n', "is not CSV"),
        (HEADER + '"never closed?,1,2,3,4,A\nnext?,1,2,3,4,B\n', "is not CSV"),
        (HEADER + '"closed late?,1,2,3,4,A\nnext"?,1,2,3,4,B\n', "is not CSV"),
        (HEADER + '"closed late?,1,2,3,4,A\nnext?",1,2,3,4,B\n', "lines 2 to 3: a cell holds whole rows"),
        (HEADER + "q?,1,2,,4,A\n", "row 1, has an empty question or option"),
        (HEADER + "q?,1,2,3,4,E\n", "row 1, gives 'E' as the right answer"),
        (HEADER + "q?,1,2,3,4,4\n", "row 1, gives '4' as the right answer"),
        (HEADER + "q?,1,2,3,4,\n", "row 1, gives '' as the right answer"),
        (HEADER + "q?,1,2,3,4,0.5\n", "row 1, gives '0.5' as the right answer"),
        ("question,A,B,C,D,E,answer\n1+1?,1,2,3,4,5,B\n", "row 1, has an option E"),
        (HEADER, "has no questions"),
        ("", "has no questions"),
        (HEADER.encode() + "q\xe9?,1,2,3,4,A\n".encode("latin-1"), "is not UTF-8"),
    ],
)
def test_a_csv_file_that_does_not_fit_is_refused_with_its_row(tmp_path, text, place):
    assert place in refused(write(tmp_path, text))


def test_an_unclosed_quote_in_a_large_file_is_refused(tmp_path):
    rows = "".join(f"Question {i} {'x' * 200}?,1,2,3,4,B\n" for i in range(1000))
    assert "is not CSV" in refused(write(tmp_path, HEADER + '"Unclosed,1,2,3,4,A\n' + rows))


def test_commas_quotes_and_line_breaks_inside_quotes_are_text(tmp_path):
    path = write(tmp_path, HEADER + '"a, b,\nc, d, e, f, or ""g""?","1,000",None,NA,\'x\',d\n')
    (question,) = questions_from(path)
    assert question.text == 'a, b,\nc, d, e, f, or "g"?'
    assert (question.options, question.answer) == (("1,000", "None", "NA", "'x'"), 3)


@pytest.mark.parametrize("answer", ["1", "1.0", 1, 1.0, np.int64(1), np.float64(1), "B", " b ", "1 "])
def test_letters_and_indices_from_0_are_answers(answer):
    assert questions_from([ROW | {"answer": answer}])[0].answer == 1


@pytest.mark.parametrize("answer", [True, math.nan, None, -1, 4, 1.5, "AB", [1], ""])
def test_what_is_no_answer_is_refused(answer):
    assert "list, row 1, gives" in refused([ROW | {"answer": answer}])


def test_answers_that_are_counted_from_1_are_not_read_from_0():
    rows = [ROW | {"question": f"{i} + 5 = ?", "answer": 1 + i % 3} for i in range(20)]
    assert "counted from 1" in refused(rows)
    assert len(questions_from([*rows, ROW | {"answer": 0}])) == 21


def test_a_data_frame_is_read_by_rows_and_its_holes_are_refused():
    frame = pd.DataFrame([ROW | {"answer": 1}, ROW | {"question": "2 + 1 = ?", "answer": 2}])
    assert sorted(question.answer for question in questions_from(frame)) == [1, 2]
    frame.loc[1, "answer"] = None  # the column becomes one of floats, 1 becomes 1.0
    assert "DataFrame, row 2, gives" in refused(frame)
    frame = pd.DataFrame([ROW, ROW | {"question": None}])
    assert "DataFrame, row 2, has an empty question or option" in refused(frame)
    assert "row 1, has an empty question or option" in refused(pd.DataFrame([ROW | {"C": math.nan}]))


def test_json_lines_and_a_list_of_objects_are_tables(tmp_path):
    lines = write(tmp_path, json.dumps(ROW), "one.jsonl")  # one line without its end
    listed = write(tmp_path, json.dumps([ROW]), "one.json")
    tabs = write(tmp_path, "\t".join(ROW) + "\n" + "\t".join(ROW.values()) + "\n", "one.tsv")
    assert [list(questions_from(path)) for path in (lines, listed, tabs)] == [list(questions_from([ROW]))] * 3
    assert "bad.jsonl, line 2, is not JSON" in refused(write(tmp_path, json.dumps(ROW) + '\n{"q', "bad.jsonl"))
    assert "list.jsonl, line 1, is no JSON object" in refused(write(tmp_path, "3\n", "list.jsonl"))
    assert "empty.jsonl has no questions" in refused(write(tmp_path, "\n", "empty.jsonl"))


def test_half_a_character_is_refused(tmp_path):
    path = write(tmp_path, json.dumps(ROW | {"A": "\ud800"}), "half.jsonl")
    assert "half.jsonl, line 1, has half a character" in refused(path)


@pytest.mark.parametrize("rows", [[3], ["text"], [ROW | {"choices": "ABCD"}], [ROW | {"choices": ["1", "2", "3"]}]])
def test_rows_of_another_form_are_refused(rows):
    assert "list, row 1, " in refused(rows)


def folder_of(tmp_path, split, **files):
    (tmp_path / split).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write(tmp_path / split, text, f"{name}_{split}.csv")
    return str(tmp_path)


def test_files_that_a_system_leaves_behind_are_left_out(tmp_path):
    folder = folder_of(tmp_path, "test", anatomy="".join(f"q{i}?,1,2,3,4,A\n" for i in range(8)))
    write(tmp_path / "test", b"\x00\x05\x16\x07\xb0", "._anatomy_test.csv")
    write(tmp_path / "test", b"\x00", "~$anatomy_test.csv")
    assert len(load_questions("mmlu", "official_test", folder)) == 8


@pytest.mark.parametrize("text", ["", "".join(f"q{i}?,1,2,3,4,A\n" for i in range(5))])
def test_an_evaluation_set_that_ends_up_empty_is_found_when_it_is_loaded(tmp_path, text):
    folder = folder_of(tmp_path, "test", anatomy=text)
    with pytest.raises(ValueError, match=r"The split 'test' of mmlu in .* has no questions"):
        load_questions("mmlu", "test", folder)


CELL = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00,\n\r"), min_size=1, max_size=12)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(*[CELL] * 5, st.sampled_from("ABCD")), min_size=1, max_size=6))
def test_what_a_strict_writer_writes_is_read_to_the_cell(tmp_path, rows):
    """No row vanishes: as many as were written come back, each with its cells."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerows([["question", *"ABCD", "answer"], *rows])
    path = write(tmp_path, buffer.getvalue())
    assert [list(row.values()) for _, row in table_rows(path)] == [list(row) for row in rows]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=200), st.binary(max_size=200)), st.sampled_from(["own.csv", "own.jsonl", "own.tsv"]))
def test_any_bytes_are_questions_or_one_sentence(tmp_path, text, name):
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    path = write(tmp_path, HEADER.encode() + content, name)
    with contextlib.suppress(ValueError):
        assert len(questions_from(path)) > 0
