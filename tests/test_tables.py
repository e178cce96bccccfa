"""CSV tables: whole or not at all, no formulas, and never over another table."""

from __future__ import annotations

import csv

import pytest

from beit.tables import as_text, refuse_other_table, write_table


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("daisy", "daisy"),
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-a", "'-a"),
        ("\t=1", "'\t=1"),
        ("-0.25", "-0.25"),
        ("+1e3", "+1e3"),
        ("a=b", "a=b"),
        (-3, -3),
        ("", ""),
    ],
)
def test_spreadsheet_programs_run_no_cell(cell, written):
    assert as_text(cell) == written


def test_a_table_is_read_back(tmp_path):
    rows = [['=x,"y"', 1], ["two\nlines", -2.5], ["花", ""], ["\udcff", "0"]]
    file = write_table(tmp_path / "new" / "t.csv", ("name", "value"), rows)
    text = file.read_bytes().decode(errors="surrogateescape")
    found = list(csv.reader(text.splitlines(keepends=True)))
    assert found == [["name", "value"], ['\'=x,"y"', "1"], *[[str(cell) for cell in row] for row in rows[1:]]]


def test_a_table_that_cannot_be_finished_leaves_the_earlier_one(tmp_path):
    file = write_table(tmp_path / "t.csv", ("a",), [[1]])

    def rows():
        yield [2]
        raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        write_table(file, ("a",), rows())
    assert file.read_text() == "a\n1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("content", [b"", b"path,label\na.png,cat\n", b"\xff", b"query,ran"])
def test_another_table_is_not_overwritten(tmp_path, content):
    file = tmp_path / "t.csv"
    refuse_other_table(file, ("query", "rank"))
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.csv exists and is another table, .* name another --output"):
        refuse_other_table(file, ("query", "rank"))
    write_table(file, ("query", "rank"), [])
    refuse_other_table(file, ("query", "rank"))
