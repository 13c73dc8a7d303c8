"""Merging rows that name the same file: tables often have one caption of an image per row."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from untaught.data.table import Table, rows_of


def grouped_rows(table: Table, key: str, several: Sequence[str]) -> Table:
    """The table with one row per value of the column `key`, in order of first occurrence.

    Columns in `several` hold the list of all values that are not missing, or None if all are; others hold the first row's value. A table
    without repeated keys, or one that is expensive to scan, is returned unchanged. All groups are held in memory while reading.
    """
    if not table.scan:
        return table
    keys = [_key(row[key]) for row in rows_of(table, [key], patient=False)]
    known = [value for value in keys if value is not None]
    if len(set(known)) == len(known):
        return table

    def read(columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        groups: dict[Any, dict[str, Any]] = {}
        lists = [column for column in several if column in columns]
        for number, row in enumerate(rows_of(table, [*columns, *([] if key in columns else [key])])):
            own = _key(row[key])
            group = groups.setdefault(number if own is None else own, {column: row[column] for column in columns} | {c: [] for c in lists})
            for column in lists:
                value = row[column]
                group[column] += value if isinstance(value, list) else [] if value is None else [value]
        for group in groups.values():
            yield group | {column: group[column] or None for column in lists}

    rows = len(set(known)) + len(keys) - len(known)
    note = f"{len(keys):,} rows of {rows:,} files"
    return replace(table, rows=rows, read=read, count=None, note=f"{table.note}, {note}" if table.note else note)


def _key(value: Any) -> Any:
    """The identifier of a row's file, the same for a.jpg and ./a.jpg; None if missing."""
    if isinstance(value, dict):
        value = value.get("path")
    return None if value is None or isinstance(value, Exception) or value != value or not str(value) else os.path.normpath(str(value))
