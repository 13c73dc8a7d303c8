"""Dates as numbers."""

from __future__ import annotations

import math
import re
from datetime import date, datetime, timezone
from typing import Any

PARTS = ("day", "year_sin", "year_cos", "weekday_sin", "weekday_cos", "hour_sin", "hour_cos")
ISO = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([ T]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?)?(Z|[+-]\d{2}:?\d{2})?")


def as_date(value: Any) -> datetime | None:
    """A date, or text in ISO form (2024-03-01, 2024-03-01 12:30:00), in UTC if it has a time zone; None for anything else."""
    if isinstance(value, str):
        if not ISO.fullmatch(value.strip()):
            return None
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime) or value != value:
        return None
    return value.astimezone(timezone.utc).replace(tzinfo=None) if value.tzinfo else value


def date_parts(moment: datetime) -> tuple[float, ...]:
    """The numbers of PARTS: days since 1970, and the place in the year, the week and the day on a circle."""
    seconds = (moment - datetime(1970, 1, 1)).total_seconds()
    turns = moment.timetuple().tm_yday / 365.25, moment.weekday() / 7, (moment.hour + moment.minute / 60) / 24
    circles = [circle(2 * math.pi * turn) for turn in turns for circle in (math.sin, math.cos)]
    return (seconds / 86400, *circles)
