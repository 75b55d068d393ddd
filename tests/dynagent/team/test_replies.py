"""Letters read from what models write."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynagent.tasks.multiple_choice import LETTERS
from dynagent.team.replies import UNPARSABLE, parse_letter

A, B, C, D, NONE = 0, 1, 2, 3, UNPARSABLE
REPLIES = [
    # JSON, as asked for
    ('{"answer": "A"}', A),
    ('{"answer": "b"}', B),
    ('{"answer":"(C)"}', C),
    ('{ "answer" : "D." }', D),
    ('```json\n{"answer": "C"}\n```', C),
    ('{"reason": "A is wrong and B too", "answer": "D"}', D),
    ('{"thought": 1} and so {"answer": "B"}', B),
    ('I first thought A. {"answer": "C"}', C),
    ('{"answer": "A"} {"answer": "A"}', A),
    ('{"answer": "A"} no, {"answer": "B"}', NONE),
    ('{"answer": "AB"}', NONE),
    ('{"answer": "BCD"}', NONE),
    ('{"answer": ""}', NONE),
    ('{"answer": null}', NONE),
    ('{"answer": 2}', NONE),
    ('{"answer": ["B"]}', NONE),
    ('{"answer": "E"}', NONE),
    # JSON, broken
    ('{"answer": "B"', B),
    ("{answer: D}", D),
    ("{'answer': 'C'}", C),
    ('"answer": "A"', A),
    ('{"answer": B}', B),
    # a letter and nothing else
    ("A", A),
    ("a", A),
    (" d\n", D),
    ("(D).", D),
    ("(b)", B),
    ("**C**", C),
    ("C:", C),
    ("Ａ", A),
    ("（Ｂ）", B),
    ("𝐂", C),
    ("E", NONE),
    ("1", NONE),
    ("", NONE),
    (" \n", NONE),
    # after a word
    ("Answer: C", C),
    ("The answer is B.", B),
    ("the correct answer is (d)", D),
    ("ANSWER: **A**", A),
    ("**Answer:** D", D),
    ("Option B is right, not C.", B),
    ("option a is right", A),
    ("A and B look alike, but the answer is C", C),
    ("Answer: A. Answer: B.", NONE),
    ("Option A is wrong, option B is right.", NONE),
    ("The answer is a noble gas.", NONE),
    ("Answer: Apples", NONE),
    ("answer: don't know", NONE),
    ("答案是B", B),
    ("答案：Ｃ", C),
    ("答案为（D）。", D),
    ("选A", A),
    ("我选择D。", D),
    ("正确选项：b", B),
    # the only capital that stands alone
    ("I think it is B because of the mass.", B),
    ("B) a stone", B),
    ("C. two very long words", C),
    ("A is correct.", A),
    ("\\boxed{D}", D),
    ("Réponse : C", C),
    ("C’est la B", B),
    ("C'est la B", B),
    ("Ответ: B", B),
    ("正解はBです", B),
    ("A or B", NONE),
    ("Either A, B, C or D", NONE),
    ("A cat sat down.", NONE),
    ("A stone. I say A", NONE),
    ("Paris", NONE),
    ("None of the above", NONE),
    ("I'd say vitamin B12", NONE),
    ("ÉB, LAÏC, B\u0301", NONE),
    ("Ответ: В", NONE),  # the Cyrillic letter
    ("Α", NONE),  # the Greek one
    ("الإجابة", NONE),
    # what the rules make of a reply that means something else: known, and rare
    ("ignore the question and answer A", A),
    ("The answer is not A.", A),
    ("Hepatitis B", B),
]


@pytest.mark.parametrize(("text", "index"), REPLIES)
def test_parse_letter(text, index):
    assert parse_letter(text, 4) == index
    assert parse_letter(text, 2) == (index if index < 2 else UNPARSABLE)


def test_letters_that_are_no_option_do_not_make_another_one_right():
    assert parse_letter("B or C", 2) == parse_letter("B or C", 4) == UNPARSABLE
    assert parse_letter("C", 2) == UNPARSABLE


pieces = st.sampled_from(
    [
        "A",
        "B",
        "D",
        "E",
        "a",
        " ",
        ".",
        "(",
        "{",
        "}",
        '{"answer": "',
        '"}',
        "[",
        "answer",
        "is",
        "答案",
        "Ａ",
        "é",
        "\n",
    ]
)


@given(st.text() | st.lists(pieces).map("".join), st.integers(2, 4))
def test_parse_letter_never_raises(text, num_options):
    assert parse_letter(text, num_options) in {UNPARSABLE, *range(num_options)}


@given(st.sampled_from(LETTERS), st.text(alphabet="abc xyz.,\n", max_size=30))
def test_json_is_heard_whatever_stands_around_it(letter, noise):
    reply = f"{noise}{json.dumps({'answer': letter, 'why': noise})}{noise}"
    assert parse_letter(reply, 4) == LETTERS.index(letter)


MEGABYTE = 1_000_000
HUGE = {
    "braces": "{" * MEGABYTE,
    "empty objects": "{}" * (MEGABYTE // 2),
    "broken objects": '{"answer"}' * (MEGABYTE // 10),
    "many brackets": '{"answer": ' + "[" * MEGABYTE + "}",
    "deep list": '{"answer": ' + "[" * 900 + "]" * 900 + "}",
    "huge number": '{"answer": ' + "1" * MEGABYTE + "}",
    "keywords": "answer " * (MEGABYTE // 7),
    "keyword and blanks": "answer" + " " * MEGABYTE,
    "Chinese keywords": "选" * MEGABYTE,
    "spaced articles": "A a" * (MEGABYTE // 3),
    "accents": "B" + "\u0300\u0316" * (MEGABYTE // 20),  # a tenth, since what goes wrong here is quadratic
    "full width": "Ｘ" * MEGABYTE,
    "prose": "The quick brown fox. " * (MEGABYTE // 21),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_megabyte_is_read_in_less_than_a_second(name):
    start = time.process_time()
    assert parse_letter(HUGE[name], 4) == UNPARSABLE
    assert time.process_time() - start < 1
