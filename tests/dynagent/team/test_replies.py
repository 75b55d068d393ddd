"""What replies say: a table of forms, no letter easier than another, thoughts, hostile input."""

import json
import time
from pathlib import Path
from string import ascii_uppercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynagent.llm.base import Reply
from dynagent.tasks.multiple_choice import LETTERS, Question
from dynagent.team.agents import Truthful
from dynagent.team.replies import CUT_OFF, REFUSED, UNPARSABLE, parse_letter, parse_reason, parse_reply
from dynagent.team.thoughts import without_thoughts

# Each row a reply, the options' texts (or how many there are) and the letter that it says, null or "cut off". Those of
# the author "independent" are by somebody who had not seen the parser.
FORMS = [json.loads(line) for line in Path(__file__).with_name("forms.jsonl").read_text(encoding="utf-8").splitlines()]
CITIES = ["London", "Paris", "Rome", "Oslo"]
CAPITAL = Question("The capital of France?", tuple(CITIES), 1, "geography", "en")


def said(reply, options):
    """The letter that a reply says, None or "cut off"."""
    texts = [] if isinstance(options, int) else options
    answer = parse_reply(reply, len(texts) or options, texts)
    return {CUT_OFF: "cut off", UNPARSABLE: None}[answer] if answer < 0 else ascii_uppercase[answer]


@pytest.mark.parametrize("author", ["developer", "independent"])
def test_every_form_is_read_as_what_it_says(author):
    rows = [row for row in FORMS if row["author"] == author]
    assert len(rows) >= 120
    wrong = [row for row in rows if said(row["reply"], row["options"]) != row["expected"]]
    assert not wrong


def test_the_table_has_every_kind_of_answer():
    assert {row["expected"] for row in FORMS} >= {None, "cut off", *LETTERS}


# --- no letter is easier to read than another


STATED = [
    "{L}", "{l}", "({L})", "**{L}**", "`{l}`", "{L}.", "{l})", "[[{L}]]", "\\boxed{{{L}}}",
    "<answer>{L}</answer>", '{{"answer": "{L}"}}', "{{'answer': '{l}'}}", "{{answer: {L}}}",
    '{{"answer": "Option {L}"}}', "Answer: {L}", "answer: {l}.", "The answer is {L}.", "The answer is ({l}).",
    "Final answer: **{L}**", "I choose {L}.", "I would go with {L}.", "So it must be {L}.", "Therefore, {L}",
    "option {l} is right", "Option {L}", "My guess: {L}", "{L} seems right.", "{L} would be the best choice.",
    "{L} is correct.", "{L} is the answer.", "{L} fits best.", "{L}, because it is so.", "{L} because it is so.",
    "{L}. A fine city", "{L}) a fine city", "{L}\n\nIt is so.", "It is so.\n\n{L}",
    "It is {L}, not the other one.", "答案：{L}", "答案是{L}。", "故选{L}。", "选{L}", "{L}选项正确。", "正解は{L}です",
    "Réponse : {L}", "La respuesta es {L}.", "Ответ: {L}", "<think>{M}?</think>{L}", "{M} is wrong. {L}",
    "Not {M} but {L}.", "{M}. No, {L}.", "{M} and {N} look alike, but the answer is {L}.",
]  # fmt: skip
UNSTATED = [
    "Not {L}.", "{L} is wrong.", "The answer cannot be {L}.", "It isn't {L}.", "选项{L}错误", "答案不是{L}",
    "{L} or {M}", "Answer: {L} or {M}", "Neither {L} nor {M}.", "{L} cat sat down.", "Is it {L}?", "Rule out {L}.",
    "Answer: {L}. Answer: {M}.", "The answer is {L} noble gas.", "I can't decide between {L} and {M}.", "{L}{M}",
    "<think>{L}</think>", '{{"answer": "{L}"}} {{"answer": "{M}"}}',
]  # fmt: skip


def filled(form, index, num_options):
    """The form with the letter of an option and those of the two after it."""
    this, second, third = (ascii_uppercase[(index + step) % num_options] for step in range(3))
    return form.format(L=this, l=this.lower(), M=second, N=third)


@pytest.mark.parametrize("num_options", [4, 10, 26])
def test_no_letter_is_easier_to_read_than_another(num_options):
    read = {
        form: [parse_letter(filled(form, index, num_options), num_options) for index in range(num_options)]
        for form in STATED + UNSTATED
    }
    every = list(range(num_options))
    assert [form for form in STATED if read[form] != every] == []
    assert [form for form in UNSTATED if read[form] != [UNPARSABLE] * num_options] == []


def test_letters_that_are_no_option_do_not_make_another_one_right():
    assert parse_letter("B or C", 2) == parse_letter("B or C", 4) == UNPARSABLE
    assert parse_letter("C", 2) == parse_letter("The answer is E.", 4) == UNPARSABLE


# --- options' texts


def test_the_longest_text_counts_and_equal_ones_name_nothing():
    options = ["iron", "iron oxide", "lead", "lead"]
    assert parse_reply("It is iron oxide.", 4, options) == 1
    assert parse_reply("It is iron.", 4, options) == 0
    assert parse_reply("It is lead.", 4, options) == UNPARSABLE
    assert parse_reply("irons", 4, options) == UNPARSABLE


@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=10), st.text(max_size=40))
def test_texts_of_any_kind_are_options(options, reply):
    assert parse_reply(reply, len(options), options) in {CUT_OFF, UNPARSABLE, *range(len(options))}


@given(st.text("abcdefgh xyz", min_size=2, max_size=12).map(str.strip).filter(lambda text: len(text) > 1))
def test_an_options_text_alone_is_that_option(text):
    assert parse_reply(f"{text.upper()}.", 3, ["1", text, "3"]) == 1


# --- replies that end too early


def test_a_reply_at_its_token_limit_is_cut_off_where_it_states_nothing():
    for text in ("", "Let me look at option A", "London is the capital of", "<think>A", '{"answer": "', "A or B"):
        assert parse_reply(text, 4, CITIES, at_limit=True) == CUT_OFF
    for text in ('{"answer": "B", "reason": "It li', "B. It is the capital of", "The answer is B, since"):
        assert parse_reply(text, 4, CITIES, at_limit=True) == 1
    assert parse_reply("", 4) == parse_reply("<think>B</think>", 4) == UNPARSABLE


@pytest.mark.parametrize(("mode", "most_tokens"), [("text", 50), ("letter", 50)])
def test_an_agent_knows_a_reply_that_was_cut_off(mode, most_tokens):
    agent = Truthful(None, mode=mode)
    weighing = "Let me look at option A"
    assert agent.answer(CAPITAL, Reply(weighing, completion_tokens=most_tokens - 1), 0.5) == 0
    assert agent.answer(CAPITAL, Reply(weighing, completion_tokens=most_tokens), 0.5) == CUT_OFF
    assert agent.answer(CAPITAL, Reply(weighing, finish_reason="length"), 0.5) == CUT_OFF
    assert agent.answer(CAPITAL, Reply("<think>A", completion_tokens=3), 0.5) == CUT_OFF
    assert agent.answer(CAPITAL, Reply("", finish_reason="content_filter"), 0.5) == REFUSED
    assert agent.answer(CAPITAL, Reply("It is Paris."), 0.5) == 1


def test_a_reply_that_was_begun_for_the_model_is_read_with_and_without_its_beginning():
    agent = Truthful(None, mode="text", reads=True)
    for text in ('B", "reason": "A is wrong"}', 'B"}', '<think>A?</think>{"answer": "B", "reason": "A is not"}'):
        assert agent.answer(CAPITAL, Reply(text), 0.5) == 1
    assert agent.answer(CAPITAL, Reply('", "reason": "It is A"}'), 0.5) == UNPARSABLE


# --- thoughts


TAGS = [("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<thought>", "</thought>"), ("[THINK]", "[/THINK]"),
        ("<reasoning>", "</reasoning>"), ("<|begin_of_thought|>", "<|end_of_thought|>"), ("◁think▷", "◁/think▷"),
        ("<|START_THINKING|>", "<|END_THINKING|>"), ("<unused94>thought", "<unused95>"),
        ("<seed:think>", "</seed:think>"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("&lt;think&gt;", "&lt;/think&gt;"), ("Thinking...\n", "\n...done thinking.\n"),
        ('<details type="reasoning" done="true">', "</details>"), ("＜think＞", "＜/think＞")]  # fmt: skip


@pytest.mark.parametrize(("begin", "end"), TAGS)
def test_thoughts_are_no_part_of_the_answer(begin, end):
    assert said(f"{begin}The answer is A.\n{end}\n\nB", 4) == "B"
    assert said(f"The answer is A.\n{end}\n\nB", 4) == "B"
    assert said(f'{begin}A{end}{{"answer": "C"}}', 4) == "C"
    assert said(f"{begin}The answer is A.", 4) == "cut off"
    assert said(f"{begin}The answer is A.{end}", 4) is None
    assert said(f"{begin}{end}D", 4) == "D"


replies_without_tags = st.text(st.characters(exclude_characters="<[◁&.", codec="utf-8"), max_size=60)


@given(replies_without_tags, st.sampled_from(FORMS))
def test_thoughts_before_it_change_no_answer(thoughts, row):
    if without_thoughts(row["reply"]) == (row["reply"], False):
        assert said(f"<think>{thoughts}</think>\n{row['reply']}", row["options"]) == row["expected"]


def test_thoughts_are_no_reason():
    assert parse_reason('<think>"reason": "x"</think>{"answer": "B", "reason": "It shines."}') == "It shines."


# --- anything at all


PIECES = [
    *"ABDEIa .,:;!?(){}[]*_`'\"\\\n$#|-é、。", *"是选不错", '{"answer": "', '"}', "answer", "is", "not", "or", "and",
    "the", "答案", "选项", "Ａ", "Paris", "London", "wrong", "right", "<think>", "</think>", "<answer>", "</answer>",
    "\\boxed{", "wait", "final answer", "Option", "\ud800", "\u202e", "\x00",
]  # fmt: skip
pieces = st.sampled_from(PIECES)
anything = st.text() | st.lists(pieces, max_size=40).map("".join) | st.lists(pieces, max_size=40).map(" ".join)


@given(anything, st.integers(1, 26), st.booleans())
def test_a_fuzzed_reply_is_an_option_or_none(text, num_options, at_limit):
    answers = {CUT_OFF, UNPARSABLE, *range(num_options)}
    assert parse_reply(text, num_options, CITIES[:num_options], at_limit) in answers
    assert parse_letter(text, num_options) in answers - {CUT_OFF}
    assert (parse_reply(text, num_options) == CUT_OFF) == without_thoughts(text)[1] or not text.isascii()
    assert parse_reason(text) == " ".join(parse_reason(text).split())


@given(anything, st.sampled_from(LETTERS))
def test_a_fuzzed_reply_is_cut_off_or_speaks_after_its_thoughts(text, letter):
    assert parse_letter(f"<think>{text}</think></think>{letter}", 4) == LETTERS.index(letter)


@given(st.sampled_from(LETTERS), st.text(alphabet="abc xyz.,\n", max_size=30))
def test_json_is_heard_whatever_stands_around_it(letter, noise):
    reply = f"{noise}{json.dumps({'answer': letter, 'why': noise})}{noise}"
    assert parse_letter(reply, 4) == LETTERS.index(letter)


# --- hostile input


UNITS = [
    "{", "{}", '{"answer"}', '{"answer": ', '{"answer": [', "answer ", "answer: ", "选", "A a", "B\u0300\u0316",
    "Ｘ", "A B ", "A, ", "A and ", "<think>", "</think>", "<", "< ", "<think ", "[", "(A", "**A** ", "A\n", "\n",
    " ", "\t\n", "not ", "A is wrong. ", "the answer is A ", "应为", "不", "A? ", '"answer": "',
    '"answer": "x A y B" ', "\\boxed{", "\\text{", "<answer>", "'", '"', "`", "Paris ", "London or ", "wait ",
    "final answer: A ", "A) B) C) D) ", "\nquestion:", "...", "... ", "<|", "<|x|>", "&lt;", "####A\n", "I ", "𝐂",
    "\ud800", "final", ", ", "\\", "\x00", "The quick brown fox. ",
]  # fmt: skip


@pytest.mark.parametrize("begin", ["", '{"answer": "', "<"])
@pytest.mark.parametrize("unit", UNITS)
def test_a_hundred_thousand_characters_are_read_in_less_than_a_second(begin, unit):
    text = begin + unit * (100_000 // len(unit))
    start = time.process_time()
    parse_reply(text, 4, CITIES)
    parse_reason(text)
    assert time.process_time() - start < 1


HUGE = {
    "many brackets": '{"answer": ' + "[" * 1_000_000 + "}",
    "deep list": '{"answer": ' + "[" * 900 + "]" * 900 + "}",
    "huge number": '{"answer": ' + "1" * 1_000_000 + "}",
    "prose": "The quick brown fox. " * 50_000,
}


@pytest.mark.parametrize("name", HUGE)
def test_a_megabyte_is_read_in_seconds(name):
    start = time.process_time()
    assert parse_letter(HUGE[name], 4) == UNPARSABLE
    assert time.process_time() - start < 5
