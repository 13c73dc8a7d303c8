"""Rows that name one file become one row; what has no file, or no second value, is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from untaught.data.grouped_rows import grouped_rows
from untaught.data.table import Table

ROWS = [("a.png", "one"), (None, "two"), ("b.png", None), ("a.png", "three"), (None, "four"), ("a.png", None)]


def table(rows: Sequence[tuple[str | None, str | None]]) -> Table:
    def read(columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        return ({column: row[("image", "caption").index(column)] for column in columns} for row in rows)

    return Table("pairs.csv", ("image", "caption"), len(rows), read)


def test_a_file_has_all_its_captions_and_rows_without_a_file_stay_apart() -> None:
    found = grouped_rows(table(ROWS), "image", ["caption"])
    expected = [("a.png", ["one", "three"]), (None, ["two"]), ("b.png", None), (None, ["four"])]
    assert [(row["image"], row["caption"]) for row in found.read(["image", "caption"])] == expected
    assert found.rows == 4
    assert found.note == "6 rows of 4 files"


def test_a_table_of_different_files_is_read_as_it_is() -> None:
    plain = table([("a.png", "one"), (None, "two"), (None, "three"), ("b.png", None)])
    assert grouped_rows(plain, "image", ["caption"]) is plain


def test_a_file_is_one_however_its_path_is_written() -> None:
    found = grouped_rows(
        table([("b/a.png", "one"), ("./b//a.png", "two"), ("b/../b/a.png", "three"), ("a.png", "four")]), "image", ["caption"]
    )
    assert [row["caption"] for row in found.read(["image", "caption"])] == [["one", "two", "three"], ["four"]]
