"""Tables with one event per row (user, item, time) as tables with one user per row: a user's items in order of time.

Users are in order of first occurrence. Events of one time keep the order of their rows; without a time column, so do all. A row without
a user, item or readable time, and a repeated row (one user, item and time), is left out and counted. Ids 7, 7.0, "7" and "7.0" are one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from itertools import islice, pairwise
from typing import Any

import numpy as np

from untaught.core import UserError
from untaught.data.clock import SURVEYED, time_form
from untaught.data.label_column import LABELS
from untaught.data.labels import class_name, sort_classes
from untaught.data.table import Table, rows_of
from untaught.data.written import plain_form

WHOLE = re.compile(r"-?\d+\.0+")
LONGEST = 200  # characters of an id
FEWEST, ASCENDING = 100, 0.95  # pairs of events of one time, and the share in ascending order of the items that is no accident


@dataclass(frozen=True)
class EventColumns:
    """The columns of events: user, item, time (None: in the order of the rows), and those with one value per user."""

    user: str
    item: str
    time: str | None = None
    per_user: tuple[str, ...] = ()


def grouped_events(tables: Sequence[Table], columns: EventColumns) -> Table:
    """All events of one split, as a table with one row per user: its id, its items and times as arrays, and its own columns.

    Reads the tables once; codes of 4 bytes an item, times of 8, and every distinct id are held in memory. A column with a usual label's
    name is kept if it has one value per user. Raises UserError for streams, if most rows are unusable, and for a column of `per_user`
    with several values for one user.
    """
    if streams := [table for table in tables if table.rows is None or not table.scan]:
        raise UserError(f"{streams[0].name} is a stream, whose rows can't be grouped by user; give local tables")
    found = _Events(tables, columns)
    order = np.lexsort((np.arange(len(found.users)), found.times, found.users))
    users, items, times = found.users[order], found.items[order], found.times[order]
    again = np.zeros(len(users), bool)
    if columns.time:
        by_item = np.lexsort((items, times, users))
        same = [np.diff(each[by_item]) == 0 for each in (users, times, items)]
        again[by_item[1:]] = same[0] & same[1] & same[2]
        users, items, times = users[~again], items[~again], times[~again]
    bounds = np.searchsorted(users, np.arange(len(found.user_names) + 1))
    names, item_names = list(found.user_names), np.array(list(found.item_names), dtype=object)
    constant = {column: values for column, values in found.own.items() if values is not None}

    def read(wanted: Sequence[str], start: int = 0) -> Iterator[dict[str, Any]]:
        for number, (first, end) in list(enumerate(pairwise(bounds.tolist())))[start:]:
            row = {columns.user: names[number], columns.item: item_names[items[first:end]]}
            if columns.time:
                row[columns.time] = times[first:end]
            row |= {column: values[number] for column, values in constant.items()}
            yield {column: row[column] for column in wanted}

    dropped = dict(found.dropped) | ({"repeated": int(again.sum())} if again.any() else {})
    order_note = f"sorted by {columns.time}, ties in the order of the rows" if columns.time else "in the order of the rows, without a time"
    note = f"{len(users):,} events, {order_note}"
    note += "".join(f"; {count:,} rows {'are repeated' if why == 'repeated' else why}: left out" for why, count in dropped.items() if count)
    note += _order_doubt(users, times, found.ranks[items]) if columns.time else ""
    kept: list[str] = [columns.user, columns.item, *([columns.time] if columns.time else []), *constant]
    name = tables[0].name if len(tables) == 1 else f"{len(tables)} tables"
    classes = {c: tables[0].classes[c] for c in constant if c in tables[0].classes}
    return Table(name, tuple(kept), len(names), read, classes, note=note, names=columns.user)


def _order_doubt(users: np.ndarray, times: np.ndarray, ranks: np.ndarray) -> str:
    """A doubt about events of one time that are in ascending order of their items: that order is the file's, not the user's, and a model
    that learns it scores too well. ranks (n,): of the events' items by name."""
    tied = (np.diff(users) == 0) & (np.diff(times) == 0)
    if tied.sum() < FEWEST or (np.diff(ranks)[tied] > 0).mean() < ASCENDING:
        return ""
    share = tied.sum() / max((np.diff(users) == 0).sum(), 1)
    return f"; {share:.0%} of the events have the time of the one before and a later item name: shuffle the rows, or scores are too high"


class _Events:
    """The usable rows: codes of users and items (n,) int32, times (n,) float64; names by code; and by user the values of its columns.

    ranks (items,): the place of each item in the order of the names.
    """

    def __init__(self, tables: Sequence[Table], columns: EventColumns) -> None:
        self.user_names: dict[str, int] = {}
        self.item_names: dict[str, int] = {}
        self.dropped = {f"have no {what}": 0 for what in ("user", "item", "readable time")}
        taken = (columns.user, columns.item, columns.time)
        usual = [column for column in tables[0].columns if column.strip().lower() in LABELS and column not in taken]
        self.own: dict[str, list[Any] | None] = {column: [] for column in (*columns.per_user, *usual)}
        users, items, times = [], [], []
        rows, unread = 0, None
        form = time_form(_first_times(tables, columns.time), tables[0].name) if columns.time else ""
        wanted = [*dict.fromkeys([column for column in taken if column is not None] + list(self.own))]
        for table in tables:
            for row in rows_of(table, [column for column in wanted if column in table.columns], patient=False):
                rows += 1
                user, item = _id(row[columns.user]), _id(row[columns.item])
                given = row[columns.time] if columns.time else 0.0
                time = time_of(plain_form(given, form) if form else given)
                if user is None or item is None or time is None:
                    self.dropped[f"have no {'user' if user is None else 'item' if item is None else 'readable time'}"] += 1
                    unread = row[columns.time] if user is not None and item is not None and columns.time else unread
                    continue
                number = self.user_names.setdefault(user, len(self.user_names))
                users.append(number)
                items.append(self.item_names.setdefault(item, len(self.item_names)))
                times.append(time)
                for column in self.own:
                    self._note(column, number, row.get(column), user, columns)
        if 2 * len(users) < rows:
            why, most = max(self.dropped.items(), key=lambda one: one[1])
            shown = f", e.g. {str(unread)[:40]!r}: write numbers, or dates as 2024-01-31 12:00" if "time" in why else ""
            options = "user=NAME,item=NAME,time=NAME"
            raise UserError(f"{most:,} of {rows:,} rows of {tables[0].name} {why}{shown}; give --columns {options}, or fix them")
        self.users, self.items = np.array(users, np.int32), np.array(items, np.int32)
        self.times = np.array(times, np.float64)
        order = {name: place for place, name in enumerate(sort_classes(set(self.item_names)))}
        self.ranks = np.array([order[name] for name in self.item_names], np.int64)

    def _note(self, column: str, number: int, value: Any, user: str, columns: EventColumns) -> None:
        values = self.own[column]
        if values is None:
            return
        values += [None] * (number + 1 - len(values))
        if values[number] is None:
            values[number] = value
        elif value is not None and class_name(value) != class_name(values[number]):
            if column in columns.per_user:
                raise UserError(
                    f"column {column} has several values for user {user}: {str(values[number])[:40]} and {str(value)[:40]}; "
                    "a label, split or group must have one value per user"
                )
            self.own[column] = None  # a property of events, not of users


def _first_times(tables: Sequence[Table], time: str) -> Iterator[Any]:
    rows = (row for table in tables for row in rows_of(table, [time], patient=False))
    return (row[time] for row in islice(rows, SURVEYED))


def _id(value: Any) -> str | None:
    """The name of a user or an item; None if it is missing."""
    name = class_name(value)
    name = None if name is None else name.strip()[:LONGEST]
    return name.partition(".")[0] if name and WHOLE.fullmatch(name) else name or None


def time_of(value: Any) -> float | None:
    """Seconds since 1970 of a date (without a zone: UTC), or a number as it is; None if it is neither."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            try:
                value = datetime.fromisoformat(value.strip().removesuffix("Z"))
            except ValueError:
                return None
    if isinstance(value, np.datetime64):
        value = None if np.isnat(value) else value.astype("M8[us]").astype(datetime)
    if isinstance(value, datetime):
        value = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
        value = value.timestamp() if value == value else None  # pandas' NaT is not equal to itself
    elif isinstance(value, date):
        value = datetime(value.year, value.month, value.day, tzinfo=timezone.utc).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(float(value)):
        return None
    return float(value)
