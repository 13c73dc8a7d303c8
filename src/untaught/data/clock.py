"""Times of rows: numbers, dates and text, as numbers; and the times that follow them.

Dates are seconds since 1970, in UTC if they have a time zone. Dates that are months apart (all on one day of the month, or each on the
last), are equally spaced in months.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from untaught.core import UserError
from untaught.data.labels import is_missing
from untaught.data.written import DATES, form_of, plainly

NUMBERS, DATED, ZONED = 0, 1, 2  # kinds of times
MONTHLY = 4  # added to the kind of dates that are months apart; twice if they are counted from the end of the month
EPOCH = datetime.datetime(1970, 1, 1)
MONTH = 27.9 * 86400  # no month is shorter
SHARE = 0.95  # of texts that must have a form
SURVEYED = 20_000  # times that the form is inferred from


def kind_of(cell: Any) -> int:
    """NUMBERS, DATED or ZONED: what a readable time is."""
    if isinstance(cell, str):
        try:
            float(cell)
            return NUMBERS
        except ValueError:
            cell = _iso(cell)
    if isinstance(cell, datetime.datetime) and cell.tzinfo:
        return ZONED
    return DATED if isinstance(cell, np.datetime64 | datetime.date) else NUMBERS


def seconds(given: Any) -> float:
    """A time as a number: numbers as they are, dates and ISO text as seconds since 1970. Raises ValueError or TypeError."""
    if isinstance(given, str):
        try:
            return float(given)
        except ValueError:
            given = _iso(given)
    if isinstance(given, np.datetime64):
        return float(given.astype("M8[us]").astype(np.int64)) / 1e6
    if isinstance(given, datetime.datetime):
        return given.timestamp() if given.tzinfo else (given - EPOCH).total_seconds()
    if isinstance(given, datetime.date):
        return (datetime.datetime(given.year, given.month, given.day) - EPOCH).total_seconds()
    if isinstance(given, datetime.timedelta):
        return given.total_seconds()
    return float(given)


def _iso(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text.strip().replace("Z", "+00:00"))


def time_form(given: Iterable[Any], where: str) -> str:
    """The form that the dates of a column have (of `written.DATES`); "" for numbers, dates and ISO text.

    Raises UserError for dates that can be read in two ways.
    """
    texts = [cell for cell in given if isinstance(cell, str) and not is_missing(cell)]
    try:
        _ = [seconds(text) for text in texts]
        return ""
    except ValueError:
        form, doubt = form_of(texts, SHARE)
    if doubt:
        raise UserError(f"{where}: the time {doubt}")
    return form if form in DATES else ""


def plain_times(given: Sequence[Any], where: str) -> Sequence[Any]:
    """The times of a column as numbers, dates and ISO text. Raises UserError as `time_form`."""
    form = time_form(given[:: len(given) // SURVEYED + 1], where)
    return [plainly(cell, form) for cell in given]


def months_of(times: np.ndarray) -> tuple[np.ndarray, float, int] | None:
    """times (T,) in seconds -> their months since January 1970 (T,), and where in the month they are: seconds from the start of the month
    (0), or of the next (1). None if they are not all in one place of different months."""
    if len(times) < 2 or np.diff(times).min() < MONTH or not (np.abs(times) < 2**37).all():
        return None
    month = (times * 1e6).round().astype(np.int64).view("M8[us]").astype("M8[M]")
    for ahead in (0, 1):
        place = times - _starts(month + ahead)
        if (np.abs(place - place[0]) < 0.5).all():
            return month.astype(np.int64).astype(float), float(place[0]), ahead
    return None


def in_months(month: np.ndarray, place: float, ahead: int) -> np.ndarray:
    """The inverse of `months_of`."""
    return _starts((month.round().astype(np.int64) + ahead).view("M8[M]")) + place


def _starts(month: np.ndarray) -> np.ndarray:
    return month.astype("M8[s]").astype(np.int64).astype(float)


def clock_of(times: np.ndarray, kind: int) -> list[float]:
    """times (T,) -> the time of the last step, the time between steps (in months if the times are months apart), and their kind."""
    months = months_of(times) if kind != NUMBERS else None
    steps = np.diff(times if months is None else months[0])
    step, last = float(np.median(steps)) if len(steps) else 1.0, len(times) - 1
    if months is None:
        return [float(times[0]) + step * last, step, float(kind)]
    month, place, ahead = months
    return [float(in_months(month[:1] + step * last, place, ahead)[0]), step, float(kind + MONTHLY * (1 + ahead))]


def times_after(clock: Sequence[float], steps: int) -> list[str]:
    """The times of the next steps by `clock_of`: ISO text of dates, else numbers; "" without a clock, and beyond the year 9999."""
    if not all(map(math.isfinite, clock)):
        return [""] * steps
    (last, step), kind = clock[:2], int(clock[2])
    times = last + step * np.arange(1, steps + 1)
    if kind == NUMBERS:
        return [f"{time:.12g}" for time in times]
    if kind >= MONTHLY:
        ahead = kind // MONTHLY - 1
        month = np.array([last * 1e6]).round().astype(np.int64).view("M8[us]").astype("M8[M]")
        times = in_months(month.astype(np.int64) + step * np.arange(1, steps + 1), float(last - _starts(month + ahead)[0]), ahead)
    try:
        moments = [EPOCH + datetime.timedelta(seconds=round(float(time), 6)) for time in times]
    except OverflowError:
        return [""] * steps
    return [moment.isoformat(sep=" ") + "+00:00" * (kind % MONTHLY == ZONED) for moment in moments]
