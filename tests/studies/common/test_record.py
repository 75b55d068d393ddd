"""Every committed record is read by the one loader, and is where its study says."""

from pathlib import Path

import pytest

from dynagent.runs.record import VERSION, Record, RunRecord
from studies.common.record import PLACES, load_record, place_of, record_path
from studies.common.tables import compact, in_words, listed
from studies.table2.settings import cells

ROOT = Path(__file__).resolve().parents[3]
NO_RECORDS = {"recordings/packages.json"}  # beside the configurations of policies
FILES = [
    path
    for path in sorted((ROOT / "results").rglob("*.json"))
    if path.parent.name != "policy" and not path.is_relative_to(ROOT / "results" / "runs")
    and str(path.relative_to(ROOT / "results")) not in NO_RECORDS
]  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "results")))
def test_every_file_is_a_record(path):
    record = Record.load(path)
    assert record.version == VERSION
    if record.kind == "run":
        assert RunRecord.load(path).history
    elif record.kind != "readings/features":
        assert record_path(record.kind) == path
    if record.arrays:
        assert record.read_arrays(path.parent)
    for row in record.numbers.get("rows", []):
        assert row.get("origin") is None or row["origin"] in record.parts
    record_again = Record.model_validate(record.to_dict())
    assert record_again.to_dict() == record.to_dict()


def test_every_record_is_committed():
    kinds = {Record.load(path).kind for path in FILES}
    assert kinds >= set(PLACES) | {f"table2/{cell}" for cell in cells()}


@pytest.mark.parametrize("kind", ["frontier", "table2/specialized-default"])
def test_a_missing_record_is_a_sentence_with_its_command(kind, tmp_path):
    with pytest.raises(ValueError, match="There is no record") as error:
        load_record(kind, tmp_path)
    assert str(error.value).endswith(f"`{place_of(kind).command}` makes it.")


def test_another_studys_record_is_refused(tmp_path):
    Record(kind="idea", command="make idea").save(tmp_path / "frontier.json")
    with pytest.raises(ValueError, match=r"is a record of 'idea', not of 'frontier': `make frontier` makes that\.$"):
        load_record("frontier", tmp_path)


def test_a_place_is_a_folder_or_a_file(tmp_path):
    assert record_path("frontier", tmp_path) == tmp_path / "frontier.json"
    assert record_path("frontier", tmp_path / "other.json") == tmp_path / "other.json"
    assert record_path("frontier") == ROOT / "results" / "frontier.json"


def test_numbers_in_words():
    assert (compact(0.8963), compact(15500.0), compact(2)) == ("0.896", "15,500", "2")
    assert (listed([1000, 570, 1000]), in_words(0), in_words(20), in_words(1000)) == (
        "570 or 1,000", "none", "twenty", "1,000",
    )  # fmt: skip
