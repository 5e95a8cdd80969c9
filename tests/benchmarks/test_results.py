"""The pages' figures are those of benchmarks/results, and every one of these says where it comes from."""

import re
from datetime import UTC, date, datetime

import pytest

from benchmarks import report
from benchmarks.record import FIELDS

RESULTS = report.load()


@pytest.mark.parametrize("name", RESULTS)
def test_every_record_says_where_its_figures_come_from(name):
    assert RESULTS[name]
    for record in RESULTS[name]:
        assert tuple(record) == FIELDS
        assert all(record[field] for field in FIELDS if field != "note"), record
        assert re.fullmatch(r"[0-9a-f]{7,}(\+changes)?", record["commit"]), record["commit"]
        assert "(1 threads)" not in record["machine"]  # or it is another machine than "(1 thread)"
        assert date.fromisoformat(record["date"]) <= datetime.now(UTC).date()
        for row in record["rows"]:
            assert all(isinstance(value, str | int | float | None) for value in row.values()), row
            assert any(isinstance(value, int | float) for value in row.values()), f"no figure in {row}"


def test_the_page_is_made_from_the_records():
    assert report.PAGE.read_text(encoding="utf-8") == report.page(RESULTS), "run: python -m benchmarks.report"


def test_readme_shows_the_records():
    text = report.README.read_text(encoding="utf-8")
    assert text == report.readme(text, RESULTS), "run: python -m benchmarks.report"
    assert 1 <= len(report.HEADLINES) <= 6


def test_a_table_shows_a_column_with_the_same_places_and_says_nothing_where_nothing_was_measured():
    rows = [{"way": "a | b", "s": 0.5, "n": 1234}, {"way": "c", "s": 12.345678, "x": None}]
    assert report.table(rows).splitlines() == [
        "| way | s | n | x |",
        "| --- | ---: | ---: | --- |",
        "| a \\| b | 0.50 | 1,234 |  |",
        "| c | 12.35 |  |  |",
    ]


def test_a_row_that_readme_wants_and_nobody_recorded_is_named():
    with pytest.raises(LookupError, match="README's table wants .*'other'.*train_step.json lacks"):
        report._find(RESULTS, "train_step", [("AIRL", ["AIRL"], "images/s"), ("other", ["x"], "images/s")])


def test_what_stands_side_by_side_in_readme_was_measured_in_one_run():
    old = {"date": "2026-01-01", "rows": [{"way": "AIRL", "s": 2.0}, {"way": "timm", "s": 3.0}]}
    new = {"date": "2026-02-02", "rows": [{"way": "AIRL", "s": 1.0}]}
    sides = [("AIRL", ["AIRL"], "s"), ("timm", ["timm"], "s")]
    assert report._find({"x": [old, new]}, "x", sides) == (old, [2.0, 3.0])
