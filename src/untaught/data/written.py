"""Numbers and dates as they are written in tables: 1.234,50, 1,234.50, $12, 45 %, 31.12.2020, 12/31/2020, Jan 2020, 2020 Q1. A column has
one form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from untaught.data.labels import NUMBER

UNIT = r"[$€£¥%]"
NUMBERS = {  # form -> whole part, decimal mark; thousands may be separated
    "1,234.5": re.compile(rf"{UNIT}?\s*([-+]?)\s*{UNIT}?\s*((?!0\d)\d{{1,3}}(?:,\d{{3}})+|0|[1-9]\d*)(?:\.(\d+))?\s*{UNIT}?"),
    "1.234,5": re.compile(rf"{UNIT}?\s*([-+]?)\s*{UNIT}?\s*((?!0\d)\d{{1,3}}(?:[.'\s]\d{{3}})+|0|[1-9]\d*)(?:,(\d+))?\s*{UNIT}?"),
}
TIME = r"(?:,?[T\s]+(?P<time>\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?)(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?)?"
YEAR, MONTH, DAY = r"(?P<y>\d{4})", r"(?P<m>\d{1,2})", r"(?P<d>\d{1,2})"
NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
NAME = rf"(?P<name>(?:{'|'.join(NAMES)})[a-z]{{0,6}})\.?"
DATES = {  # form -> groups: year, month or its name or quarter, day, time, half of the day
    "y/m/d": re.compile(rf"{YEAR}[./]{MONTH}[./]{DAY}{TIME}"),
    "d.m.y": re.compile(rf"{DAY}\.{MONTH}\.{YEAR}{TIME}"),
    "d/m/y": re.compile(rf"{DAY}[/-]{MONTH}[/-]{YEAR}{TIME}"),
    "m/d/y": re.compile(rf"{MONTH}[/-]{DAY}[/-]{YEAR}{TIME}"),
    "y-m": re.compile(rf"{YEAR}[/-]{MONTH}"),
    "d mon y": re.compile(rf"{DAY}[\s/-]{NAME}[\s/,-]+{YEAR}{TIME}", re.IGNORECASE),
    "mon d y": re.compile(rf"{NAME}\s+{DAY},?\s+{YEAR}{TIME}", re.IGNORECASE),
    "mon y": re.compile(rf"{NAME}[\s/,-]+{YEAR}", re.IGNORECASE),
    "y mon": re.compile(rf"{YEAR}[\s/-]*{NAME}", re.IGNORECASE),
    "y q": re.compile(rf"{YEAR}[\s/-]*Q(?P<q>[1-4])", re.IGNORECASE),
}
FORMS = (*NUMBERS, *DATES)


def form_of(values: Sequence[Any], share: float) -> tuple[str, str]:
    """The form of a column's values that are not missing, "" if there is none or they are plain; and a doubt.

    At least this share of the values must have the form. If two forms fit that read the values differently, it is none of them.
    """
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) < share * len(values) or sum(NUMBER.fullmatch(text.strip()) is not None for text in texts) >= share * len(values):
        return "", ""
    for family in (NUMBERS, DATES):
        read = {form: [plain_form(text, form) for text in texts] for form in family}
        fits = [form for form, found in read.items() if sum(one is not None for one in found) >= share * len(values)]
        if len(fits) > 1 and read[fits[0]] != read[fits[1]]:
            differs = next(text for text, one, other in zip(texts, read[fits[0]], read[fits[1]], strict=True) if one != other)
            plainly = "1234.5" if family is NUMBERS else "2020-12-31"
            return "", f"may be written as {fits[0]} or as {fits[1]}, e.g. {differs}: write {plainly}"
        if fits:
            return fits[0], ""
    return "", ""


def plainly(value: Any, form: str) -> Any:
    """A text of this form as a plain number or an ISO date; anything else, and with "" everything, as it is."""
    return plain_form(value, form) or value if form else value


def plain_form(value: Any, form: str) -> Any:
    """A text of this form as a plain number or an ISO date, None if it has another form; what is no text as it is."""
    if not isinstance(value, str):
        return value
    if form in NUMBERS:
        if (found := NUMBERS[form].fullmatch(value.strip())) is None:
            return None
        sign, whole, decimals = found.groups()
        return f"{sign}{re.sub(r'[^0-9]', '', whole)}{f'.{decimals}' if decimals else ''}"
    if (found := DATES[form].fullmatch(value.strip())) is None:
        return None
    given = found.groupdict()
    month = int(given.get("m") or 0) or 3 * int(given.get("q") or 0) - 2
    month = NAMES.index(given["name"][:3].lower()) + 1 if "name" in given else month
    day = int(given.get("d") or 1)
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    hour, colon, rest = (given.get("time") or "").partition(":")
    if given.get("half"):
        if not 1 <= int(hour) <= 12:
            return None
        hour = str(int(hour) % 12 + 12 * (given["half"] in "pP"))
    return f"{given['y']}-{month:02}-{day:02}{f' {hour:0>2}:{rest}' if colon else ''}"
