"""Rows of a table as records: every column but the label, the split and the group, as one column of mappings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from untaught.core import Modality, UserError
from untaught.data.parts import PARTS
from untaught.data.table import Table

EVERY = "*"  # the usual name of a field that is read from all columns


def takes_whole_rows(modality: Modality) -> bool:
    """Whether the modality's records are rows: their field is read from all columns that are nothing else."""
    return any(EVERY in usual for usual in modality.fields.values())


def join_rows(table: Table, taken: set[str | None], where: str) -> Table:
    """Joins all columns that are not taken to one column of mappings {column: value}. Integers of named classes become their names.

    Raises UserError if two columns have one name, or if none is left.
    """
    names = [column for column in table.columns if column not in taken]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"column {twice[0]} occurs twice in {where}; rename one")
    if not names:
        raise UserError(f"{where} has no columns besides {', '.join(sorted(filter(None, taken)))}; give a table with features")
    joined = f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]
    rest = tuple(column for column in table.columns if column in taken)
    while joined in rest:
        joined += " "
    classes = {name: table.classes[name] for name in names if name in table.classes}

    def named(name: str, value: Any) -> Any:
        return classes[name][value] if isinstance(value, int) and 0 <= value < len(classes[name]) else value

    def read(columns: Sequence[str], *start: int) -> Iterator[dict[str, Any]]:
        asked = [column for column in columns if column != joined]
        if joined not in columns:
            yield from table.read(asked, *start)
            return
        for row in table.read([*asked, *names], *start):
            whole = {name: row[name] for name in names}
            for name in classes:
                whole[name] = named(name, whole[name])
            yield {**{column: row[column] for column in asked}, joined: whole}

    return replace(
        table,
        columns=(*rest, joined),
        read=read,
        joined=joined,
        media=(),
        classes={key: table.classes[key] for key in rest if key in table.classes},
    )


def split_doubts(table: Table, taken: set[str | None], values: Sequence[dict[str, Any]]) -> list[str]:
    """Warnings for columns that look like the split of the rows but are read as features. values: the first rows."""
    return [
        f"column {column} is read as a feature, but its values ({', '.join(sorted(words)[:3])}) name splits: give --split {column}"
        for column in table.columns
        if column not in taken and (words := {str(row[column]).strip().lower() for row in values}) and words <= PARTS.keys()
    ]
