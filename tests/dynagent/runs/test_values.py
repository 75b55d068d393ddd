"""What a record's values are in memory and in its file."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynagent.evaluation.statistics import Estimate
from dynagent.runs.values import plain_values, rows_as_lines, with_estimates

NUMBERS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
NESTED = st.recursive(NUMBERS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30)


@given(st.dictionaries(st.text(), NESTED))
def test_the_text_is_the_value_in_json(value):
    assert json.loads(rows_as_lines(value)) == value


def test_a_row_is_a_line():
    rows = [{"name": "x" * 300, "numbers": {"a": [1, 2], "b": {"c": 3}}} for _ in range(3)]
    lines = rows_as_lines({"rows": rows, "short": {"a": {"b": 1}}}).splitlines()
    assert [json.loads(line.strip().rstrip(",")) for line in lines[2:5]] == rows
    assert lines[6] == ' "short": {"a": {"b": 1}}'


def test_what_cannot_be_written_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        rows_as_lines({"a": math.nan})
    with pytest.raises(TypeError):
        rows_as_lines({"a": object()})


def test_what_a_record_holds_is_plain():
    value = {
        "estimate": Estimate(0.5, 0.25, 0.75, 8), "deeper": [{"nan": math.nan, "infinite": -math.inf}], "number": 3,
        "unknown": Estimate(math.nan, math.nan, math.nan, 2),
    }  # fmt: skip
    plain = plain_values(value)
    assert plain == {
        "estimate": {"mean": 0.5, "ci_low": 0.25, "ci_high": 0.75, "n": 8},
        "deeper": [{"nan": None, "infinite": None}],
        "number": 3,
        "unknown": {"mean": None, "ci_low": None, "ci_high": None, "n": 2},
    }
    json.dumps(plain, allow_nan=False)


def test_an_estimate_is_found_wherever_it_is():
    found = with_estimates({"rows": [{"gain": {"mean": 1, "ci_low": 0.5, "ci_high": 2, "n": 3}}], "mean": [1, 2]})
    assert found == {"rows": [{"gain": Estimate(1.0, 0.5, 2.0, 3)}], "mean": [1, 2]}
    unknown = with_estimates({"mean": None, "ci_low": None, "ci_high": None, "n": 2})
    assert math.isnan(unknown.mean)
    band = {"mean": [1.0, 2.0], "ci_low": [0.5, 1.0], "ci_high": [2.0, 3.0]}
    assert with_estimates(band) == band  # a curve, not an estimate
