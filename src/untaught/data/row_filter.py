"""Rows of tables that are left out by the value of a column: `--without speaker=george`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from untaught.core import UserError
from untaught.data.column_matching import asked_column
from untaught.data.table import Table, rows_of

OPTION = "without"  # in --columns


def without(tables: dict[str, list[Table]], given: str, where: str) -> dict[str, list[Table]]:
    """The tables without the rows whose column has this value. given: "COLUMN=VALUE".

    Raises UserError if it is not of this form, if there is no such column, and if no row or every row has this value.
    """
    name, equals, value = given.partition("=")
    if not (name and equals and value):
        raise UserError(f"--without {given}: must be COLUMN=VALUE, e.g. --without speaker=george")
    first = next(iter(tables.values()))[0]
    column = asked_column(name, f"without {name}=VALUE: a column", first, where)
    assert column is not None
    kept = {part: [_filtered(table, column, value) for table in members] for part, members in tables.items()}
    before, after = (sum(table.rows or 0 for members in each.values() for table in members) for each in (tables, kept))
    if after in (0, before):
        raise UserError(f"--without {given}: {'no' if after else 'every'} row of {where} has {column} {value}; check the value")
    return kept


def _filtered(table: Table, column: str, value: str) -> Table:
    if table.rows is None or not table.scan:
        raise UserError(f"--without {column}={value} can't filter {table.name}, a stream; filter it before, or give a local table")

    def read(columns: list[str], start: int = 0) -> Iterator[dict[str, Any]]:
        for row in rows_of(table, list(dict.fromkeys([*columns, column]))):
            if str(row[column]) != value:
                yield {name: row[name] for name in columns}

    return replace(
        table,
        rows=sum(1 for _ in read([column])),
        read=read,
        count=None,
        note=f"{table.note + ', ' * bool(table.note)}without {column} {value}",
    )
