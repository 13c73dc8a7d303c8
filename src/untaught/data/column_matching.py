"""Matching a table's columns to a modality's fields."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from untaught.core import Modality, UserError
from untaught.data.table import Table, rows_of

LISTED = ("file_name", "file", "filename", "path")  # columns that usually hold the paths of a listing
MANY = 40  # maximum columns listed in a message


def find_column(name: str, table: Table) -> str | None:
    """The column of this name; else the only one that differs just in case and surrounding whitespace; else None."""
    if name in table.columns:
        return name
    alike = {column for column in table.columns if column.strip().lower() == name.strip().lower()}
    return alike.pop() if len(alike) == 1 else None


def asked_column(asked: str | None, option: str, table: Table, where: str) -> str | None:
    """The column named by --label or --split, None if not given. Raises UserError if it does not exist."""
    if asked is None or (found := find_column(asked, table)) is not None:
        return None if asked is None else found
    raise UserError(f"no column {asked} in {where}; its columns are {_list(table)}: give --{option} NAME")


def choose_column(name: str, table: Table, modality: Modality, columns: dict[str, str]) -> str:
    """The column of a field: the user's choice, else by its usual names, else the only one with files. Raises UserError."""
    if name in columns:
        if found := find_column(columns[name], table):
            return found
        raise UserError(f"no column {columns[name]} in {table.name}; its columns are {_list(table)}: give --columns {name}=NAME")
    for usual in (name, *modality.fields[name]):
        if found := find_column(usual, table):
            return found
    if len(table.media) == 1:
        return table.media[0]
    if table.joined:
        return table.joined
    if len(modality.fields) == 1 and modality.suffixes:
        for usual in LISTED:
            if (found := find_column(usual, table)) and lists_files([table], found, modality):
                return found
        if table.scan and len(listing := [column for column in table.columns if lists_files([table], column, modality)]) == 1:
            return listing[0]
    steps = ", or --columns time=NAME for a table with one row per time step" if modality.numbered else ""
    raise UserError(
        f"no column of {table.name} is recognised as the {name}; its columns are {_list(table)}: give --columns {name}=NAME{steps}"
    )


def extra_columns(table: Table, modality: Modality, columns: dict[str, str]) -> dict[str, str]:
    """The columns of a modality's extras: the user's choices, and those with a usual name. Raises UserError for a missing choice."""
    chosen = {}
    for name, usual in modality.extras.items():
        if name in columns and find_column(columns[name], table) is None:
            raise UserError(f"no column {columns[name]} in {table.name}; its columns are {_list(table)}: give --columns {name}=NAME")
        found = (find_column(each, table) for each in ([columns[name]] if name in columns else [name, *usual]))
        if (column := next(filter(None, found), None)) is not None:
            chosen[name] = column
    return chosen


def join_numbered(table: Table, modality: Modality, taken: set[str | None]) -> Table:
    """Joins numbered columns (t0, t1, ...) to one column of lists, if there is exactly one such group and no column for the field."""
    (name, usual), *_ = modality.fields.items()
    if table.joined or any(find_column(known, table) for known in (name, *usual) if not known[-1].isdigit()):  # dim_0 may be one of several
        return table
    groups: dict[str, list[tuple[int, str]]] = {}
    for column in table.columns:
        if column not in taken and (found := re.fullmatch(r"(.*?)(\d{1,9})", column.strip())):
            groups.setdefault(found[1], []).append((int(found[2]), column))
    runs = [sorted(group) for group in groups.values() if len(group) > 1]
    if len(runs) != 1 or [number for number, _ in runs[0]] not in (list(range(len(runs[0]))), list(range(1, len(runs[0]) + 1))):
        return table
    steps = [column for _, column in runs[0]]
    joined = f"{steps[0]} to {steps[-1]}"

    def read(columns: Sequence[str], *start: int) -> Iterator[dict[str, Any]]:
        asked = [column for column in columns if column != joined]
        for row in table.read([*asked, *steps] if joined in columns else asked, *start):
            own = {column: row[column] for column in asked}
            yield {**own, joined: [row[step] for step in steps]} if joined in columns else own

    rest = tuple(column for column in table.columns if column not in set(steps))
    return replace(table, columns=(*rest, joined), read=read, joined=joined)


def _list(table: Table) -> str:
    more = len(table.columns) - MANY
    return ", ".join(table.columns[:MANY]) + (f" and {more} more" if more > 0 else "")


def lists_files(tables: list[Table], column: str, modality: Modality) -> bool:
    """Whether a column holds paths: its first value has a suffix of the modality, or is a Hugging Face file without bytes."""
    for table in tables:
        if column in table.media and not table.scan:
            return False
        for row in islice(rows_of(table, [column], patient=False), 10):
            value = row[column]
            if isinstance(value, dict) and "bytes" in value:
                return value["bytes"] is None and bool(value.get("path"))
            if value is not None and not isinstance(value, Exception):
                return isinstance(value, (str, Path)) and "\n" not in str(value) and Path(value).suffix.lower() in modality.suffixes
    return False
