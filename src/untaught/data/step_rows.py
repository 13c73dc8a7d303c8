"""Tables with one row per time step: long form, with a column that names the series, and wide form, where a table is one recording.

The steps of a series are sorted by time. Rows of one time are averaged if they are few, else refused. A series whose steps are not equal
(within 1% of the median step of the table; in months, if dates are months apart) is brought to the median step: linearly interpolated
between rows that are at most two steps apart, missing in gaps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from untaught.core import Modality, UserError
from untaught.data.clock import NUMBERS, SHARE, clock_of, in_months, kind_of, months_of, plain_times, seconds
from untaught.data.column_matching import asked_column, find_column
from untaught.data.label_column import LABELS
from untaught.data.labels import class_name, is_missing
from untaught.data.parts import Choice
from untaught.data.table import Table, rows_of
from untaught.data.written import NUMBERS as FORMS
from untaught.data.written import form_of, plainly

ID, TIME = "id", "time"  # in --columns
CHANNELS, CLOCK = "steps.channels", "steps.clock"  # columns of the joined table: names of the channels; see `clock_of`
IDS = ("id", "series_id", "unique_id", "item_id", "case_id", "case", "recording", "run", "instance", "instances")
TIMES = ("time", "timestamp", "datetime", "date", "ds", "timepoint", "timepoints")
SAME = 0.01  # difference of a step from the median step that is ignored, as a share
REPEATED = 0.01  # share of rows at the time of another row up to which their mean is taken
GAP = 2.01  # steps without a row that are interpolated over
LONGEST = 1 << 24  # steps of one series
WRITTEN = 1000  # rows from which it is inferred how numbers are written
BLANK = ("", "?", "na", "nan", "null", "none")
Row = dict[str, Any]
Found = tuple[np.ndarray, np.ndarray]  # times (T,) in order, values (T,C)


class Steps(NamedTuple):
    """How a table with one row per time step is read."""

    time: str  # columns
    own: str | None  # that names the series
    channels: list[str]
    other: set[str | None]  # labels, groups ...: one value per series


def find_steps(table: Table, modality: Modality, choice: Choice, where: str) -> Steps | None:
    """None for a table that has a column for the field, or neither a known nor a named time column. With numbered columns, the time column
    must be named. Raises UserError for columns that are missing or not numbers."""
    (name, usual), *_ = modality.fields.items()
    asked_id, asked_time = choice.columns.get(ID), choice.columns.get(TIME)
    channels = [part.strip() for part in choice.columns.get(name, "").split(",") if part.strip()]
    if not (asked_id or asked_time) and (len(channels) == 1 or any(find_column(known, table) for known in (name, *usual)) or table.joined):
        return None
    time = asked_column(asked_time, f"columns {TIME}=NAME: a column", table, where) or _usual(TIMES, table)
    if time is None:
        if asked_id:
            raise UserError(
                f"no column of {where} is recognised as the time; its columns are {', '.join(table.columns)}: --columns time=NAME"
            )
        return None
    if not table.scan:
        raise UserError(f"{table.name} has a row per time step and is a stream; give a local table")
    own = asked_column(asked_id, f"columns {ID}=NAME: a column", table, where) or _usual(IDS, table)
    other = {choice.label, choice.split, *(column for field, column in choice.columns.items() if field not in (name, ID, TIME))}
    other |= {found for usual_name in LABELS if not choice.label and (found := find_column(usual_name, table))}
    rest = [column for column in table.columns if column not in (time, own) and column not in other]
    channels = [str(asked_column(channel, f"columns {name}=NAME: a column", table, where)) for channel in channels] or rest
    if not channels:
        raise UserError(f"{where} has a time column {time} but no other column of numbers; give a table with the values of each time step")
    _check_numbers(table, channels, name, "" if own else f"; or the column that names the series: --columns {ID}=NAME")
    return Steps(time, own, channels, other)


def with_times(data: Any, modality: Modality, columns: dict[str, str]) -> tuple[Any, dict[str, str]]:
    """A pandas frame indexed by time, or by series and time, with these as columns, and their names; else both as they are."""
    index = getattr(data, "index", None)
    levels, dated = getattr(index, "nlevels", 1), type(index).__name__ in ("DatetimeIndex", "PeriodIndex", "TimedeltaIndex")
    if not modality.numbered or not (levels == 2 or dated) or {ID, TIME}.intersection([*columns, *getattr(data, "columns", ())]):
        return data, columns
    if not hasattr(data, "columns"):  # a single column
        data = data.to_frame(data.name or "value")
    if levels == 2:
        return data.reset_index(names=[ID, TIME]), {ID: ID, TIME: TIME, **columns}
    data = data.set_axis(index.to_timestamp()) if hasattr(index, "to_timestamp") else data  # type: ignore[union-attr]
    return data.reset_index(names=[TIME]), {TIME: TIME, **columns}


def read_steps(table: Table, steps: Steps, extra: Sequence[str] = ()) -> Iterator[tuple[str, Row, np.ndarray, int, np.ndarray]]:
    """Yields for every series its name ("" without a column of names), its values of the columns `extra`, its times (T,), their kind (see
    `clock`) and its channels (C,T). All series are held in memory. Raises UserError for repeated or unreadable times."""
    groups: dict[Any, tuple[Row, list[Any]]] = {}
    given: list[Any] = []
    forms = _forms(table, steps.channels)
    for number, row in enumerate(
        rows_of(table, list(dict.fromkeys([steps.time, *([steps.own] if steps.own else []), *steps.channels, *extra])))
    ):
        key = class_name(row[steps.own]) if steps.own else ""
        if key is None:
            raise UserError(f"{table.name} row {number} has no {steps.own}; name its series, or remove the row")
        first, rows = groups.setdefault(key, ({column: row[column] for column in extra}, []))
        for column in extra:
            before, now = first[column], row[column]
            if now != before and not (is_missing(now) and is_missing(before)):
                raise UserError(
                    f"column {column} changes within series {key or table.name} ({before!r} and {now!r}), but must have one value per "
                    f"series: split the series by it (--columns {ID}=NAME), or leave it out"
                )
        cells = [row[channel] for channel in steps.channels]
        if any(forms):
            cells = [plainly(cell, form) for cell, form in zip(cells, forms, strict=True)]
        rows.append((len(given), cells))
        given.append(row[steps.time])
    times_of = plain_times(given, table.name)
    kind = kind_of(times_of[0]) if given else NUMBERS
    title = lambda key: f"series {key}" if steps.own else table.name  # noqa: E731
    found = {
        key: _sorted([(times_of[place], cells) for place, cells in rows], steps.channels, title(key)) for key, (_, rows) in groups.items()
    }
    axes, months = _axes(found, kind)
    step = _median_step(axes)
    for key, (times, values) in found.items():
        channels, resampled = _regular(axes[key], values, step, title(key))
        if resampled:
            times = axes[key][0] + step * np.arange(channels.shape[1])
            times = in_months(times, *months[key]) if key in months else times
        yield key, groups[key][0], times, kind, channels


def join_steps(table: Table, modality: Modality, choice: Choice, where: str) -> Table:
    """The table with one row per series: its channels (C,T) in the column `joined`, every other column constant in a series.

    A table without steps (see `find_steps`) is returned unchanged. All series are held in memory while reading. Raises UserError for
    repeated or unreadable times, and for columns that are not numbers.
    """
    steps = find_steps(table, modality, choice, where)
    if steps is None:
        return table
    time, own, channels, other = steps
    joined = f"{len(channels)} channels" if len(channels) > 1 else channels[0]
    if joined in table.columns:
        joined = f"{joined} over {time}"

    def read(columns: Sequence[str], *start: int) -> Iterator[Row]:
        extra = [column for column in columns if column not in (joined, own, CHANNELS, CLOCK)]
        for key, first, times, kind, values in read_steps(table, steps, extra):
            made = {joined: values, CHANNELS: "\n".join(channels), CLOCK: clock_of(times, kind), **first}
            yield {column: key if column == own else made[column] for column in columns}

    count, note = _summary(table, time, own, channels)
    kept = tuple(column for column in table.columns if column in other or column == own)
    text = f"{count[1]:,} time steps of {count[0]:,} series by {time}, channels {', '.join(channels[:6])}"
    text += f" and {len(channels) - 6} more" if len(channels) > 6 else ""
    own_note = ", ".join(filter(None, (table.note, text, note)))
    return replace(
        table, columns=(*kept, joined, CHANNELS, CLOCK), rows=count[0], read=read, count=None, joined=joined, names=own or "", note=own_note
    )


def _usual(names: Sequence[str], table: Table) -> str | None:
    return next((found for name in names if (found := find_column(name, table))), None)


def _check_numbers(table: Table, channels: list[str], field: str, named: str) -> None:
    forms = _forms(table, channels)
    for row in islice(rows_of(table, channels, patient=False), 20):
        for channel, form in zip(channels, forms, strict=True):
            try:
                _number(plainly(row[channel], form))
            except ValueError:
                raise UserError(
                    f"column {channel} of {table.name} holds {str(row[channel])[:20]!r}, which is not a number; "
                    f"name the channels: --columns {field}=NAME,NAME{named}"
                ) from None


def _forms(table: Table, channels: Sequence[str]) -> list[str]:
    """How each channel's numbers are written (`written.NUMBERS`; "": plainly). Raises UserError for those that can be read in two ways."""
    rows = list(islice(rows_of(table, list(channels), patient=False), WRITTEN))
    found = []
    for channel in channels:
        form, doubt = form_of([row[channel] for row in rows if not _is_blank(row[channel])], SHARE)
        if doubt:
            raise UserError(f"column {channel} of {table.name} {doubt}")
        found.append(form if form in FORMS else "")
    return found


def _is_blank(cell: Any) -> bool:
    return is_missing(cell) or (isinstance(cell, str) and cell.strip().lower() in BLANK)


def _number(cell: Any) -> float:
    return math.nan if _is_blank(cell) else float(cell)


def _sorted(steps: list[Any], channels: list[str], where: str) -> Found:
    times, values = np.empty(len(steps)), np.empty((len(steps), len(channels)))
    for i, (time, cells) in enumerate(steps):
        try:
            times[i] = seconds(time)
        except (ValueError, TypeError):
            raise UserError(
                f"{where}: the time {str(time)[:30]!r} is neither a number nor a date; write it as 2026-01-31 or a number"
            ) from None
        for j, cell in enumerate(cells):
            try:
                values[i, j] = _number(cell)
            except (ValueError, TypeError):
                raise UserError(
                    f"{where}: {channels[j]} at time {time} is {str(cell)[:20]!r}, not a number; fix it or leave it empty"
                ) from None
    if not np.isfinite(times).all():
        raise UserError(f"{where} has a row without a time; remove it, or give it one")
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    if (same := np.diff(times) == 0).any():
        if same.mean() > REPEATED:
            given, more = steps[int(order[same.argmax()])][0], f" and at {same.sum() - 1:,} more" if same.sum() > 1 else ""
            raise UserError(
                f"{where} has two rows at time {given}{more}; keep one of each, or name the series by a column: --columns {ID}=NAME"
            )
        times, place = np.unique(times, return_inverse=True)
        known = np.isfinite(values)
        count, total = np.zeros((2, len(times), len(channels)))
        np.add.at(count, place, known)
        np.add.at(total, place, np.where(known, values, 0.0))
        values = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return times, values


def _axes(found: dict[Any, Found], kind: int) -> tuple[dict[Any, np.ndarray], dict[Any, tuple[float, int]]]:
    """The times of each series, in months if those of all series are months apart; and where in the month they are (see `months_of`)."""
    months = {key: months_of(times) for key, (times, _) in found.items() if len(times) > 1 and kind != NUMBERS}
    known = {key: one for key, one in months.items() if one is not None}
    if len(known) < len(months):
        known = {}
    axes = {key: known[key][0] if key in known else times for key, (times, _) in found.items()}
    return axes, {key: one[1:] for key, one in known.items()}


def _median_step(axes: dict[Any, np.ndarray]) -> float:
    steps = [np.diff(times) for times in axes.values() if len(times) > 1]
    return float(np.median(np.concatenate(steps))) if steps else 1.0


def _regular(times: np.ndarray, values: np.ndarray, step: float, where: str) -> tuple[np.ndarray, bool]:
    """-> values (C,T) at equal steps, and whether they were resampled."""
    steps = np.diff(times)
    if not steps.size or (np.abs(steps - step) <= SAME * step).all() or np.ptp(steps) <= SAME * steps.min():
        return values.T, False
    count = round((times[-1] - times[0]) / step) + 1
    if count > LONGEST or count > 1000 * len(times):
        raise UserError(
            f"{where} has {len(times):,} rows in {count:,} of the table's median steps; resample it, or split it at its long gaps"
        )
    at = times[0] + step * np.arange(count)
    after = np.searchsorted(times, at - SAME * step).clip(max=len(times) - 1)
    before = (after - 1).clip(min=0)
    on_row = np.abs(times[after] - at) <= SAME * step
    width = np.where(on_row, 1.0, times[after] - times[before])
    share = np.where(on_row, 1.0, ((at - times[before]) / np.where(width > 0, width, 1.0)).clip(0, 1))[:, None]
    made = np.where(share == 1.0, values[after], values[before] * (1 - share) + values[after] * share)
    made[~on_row & ((times[after] - times[before]) > GAP * step)] = np.nan
    return made.T, True


def _summary(table: Table, time: str, own: str | None, channels: list[str]) -> tuple[tuple[int, int], str]:
    """The numbers of series and of rows, and what is done to their times. Raises UserError for what can't be read."""
    names, given = [], []
    for row in rows_of(table, [time, *([own] if own else [])], patient=False):
        names.append(class_name(row[own]) if own else "")
        given.append(row[time])
    groups: dict[Any, list[Any]] = {}
    for name, moment in zip(names, plain_times(given, table.name), strict=True):
        groups.setdefault(name, []).append((moment, []))
    found, unsorted, repeated = {}, 0, 0
    for key, steps in groups.items():
        found[key] = _sorted(steps, [], f"series {key}" if own else table.name)
        read = np.array([seconds(time) for time, _ in steps])
        unsorted += bool((np.diff(read) < 0).any())
        repeated += len(read) - len(found[key][0])
    kind = kind_of(next(iter(groups.values()))[0][0]) if groups else NUMBERS
    axes, months = _axes(found, kind)
    step, unit = _median_step(axes), " months" if months else " seconds" if kind != NUMBERS else ""
    uneven = sum(_regular(times, np.zeros((len(times), 0)), step, str(key))[1] for key, times in axes.items())
    notes = [f"{unsorted:,} series sorted by time"] if unsorted else []
    notes += [f"{repeated:,} rows at the time of another averaged"] if repeated else []
    notes += [f"{uneven:,} series with uneven times resampled to steps of {step:g}{unit}, gaps are missing values"] if uneven else []
    notes += ["one recording: window=N cuts it into several series"] if len(groups) == 1 else []
    return (len(groups), sum(map(len, groups.values()))), ", ".join(notes)
