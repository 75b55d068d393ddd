"""What docs/start.md says of a newcomer's commands is on record."""

from pathlib import Path

from studies.common.record import load_record

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "start.md").read_text(encoding="utf-8")
# How the page's rows begin, and the names of the record's rows.
ROWS = {
    "`make train`, from nothing": "make train, from nothing",
    "`make train`, again": "make train, again",
    "the same with `ARGS='-p preset smoke'`": "preset smoke",
    "`make test`, everything installed and cached": "make test, caches there",
    "`make test`, from nothing": "make test, from nothing",
}


def test_the_page_prints_what_was_measured():
    measured = {row["name"]: row for row in load_record("benchmarks/first_run").numbers["rows"]}
    for beginning, name in ROWS.items():
        (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {beginning}")]
        seconds, gigabytes = (float(cell) for cell in line.strip("| ").split(" | ")[-2:])
        assert seconds == round(measured[name]["seconds"]), name
        assert abs(gigabytes - measured[name]["peak_memory_gb"]) <= 0.05 + 1e-9, name
