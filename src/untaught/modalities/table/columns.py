"""The columns of a table: their kinds, inferred from training rows, and what of them is needed to read other rows.

A number column becomes one feature, a date several (see `dates.py`), a category column one feature with a value per category. A column
without information is left out: constant, without values, the numbers of the rows. So is text that differs from row to row, unless it is
hashed (`text=hash`).
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from itertools import chain, islice
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import xxhash

from untaught.console import say, warn
from untaught.core import Files, Options, Preprocessor, Record, UserError
from untaught.data.labels import MISSING, NUMBER, is_missing
from untaught.data.written import FORMS, form_of, plain_form
from untaught.modalities.table.dates import PARTS, as_date, date_parts

FILE = "columns.json"
WORDS = {"number": "numbers", "category": "categories", "date": "dates", "hash": "hashed text"}  # for messages
KINDS = ("number", "category", "date", "hash", "leave")
SURVEYED = 1 << 15  # training rows from which columns are inferred, drawn at random from all
MARGINAL = 1024  # values by which the distribution of a feature is known
CATEGORIES = 255  # most frequent categories that get a value of their own; the others share one
HASHED = 64  # values of a hashed text column
READABLE = 0.95  # share of a column's values that must be numbers, or dates, for it to be one; the others are missing
DISTINCT, LONG = 50, 50  # text with more different values than this in more than half of the rows, or with more characters, is no category
BINS = 16  # of a number's piecewise linear encoding, at most
WIDEST = 1 << 16  # numbers of a row


class Feature(NamedTuple):
    """A feature as it is read from rows: which column and part of a date, how it is written (see `written.py`; "": plainly), its values in
    the order of their codes (None: a number), the mean and standard deviation of a number, and its distribution: MARGINAL cells at most,
    NaN where missing, numbers in order."""

    column: str
    part: str
    form: str
    values: dict[str, int] | None
    other: int  # code of unseen categories; -1: none
    buckets: int  # of hashed text; 0: not hashed
    mean: float
    std: float
    missing: bool  # whether values are missing in training rows
    marginal: np.ndarray


def names_of(row: Any) -> list[str]:
    """The column names of a row: a mapping, or an array (C,) whose columns are x0, x1 ... Raises ValueError for anything else."""
    if isinstance(row, dict):
        return list(row)
    array = np.asarray(row)
    if array.ndim != 1 or array.dtype.kind not in "uifbUO":
        raise ValueError(f"has shape {array.shape} of {array.dtype}; a row of numbers or texts (columns,) is allowed")
    return [f"x{i}" for i in range(len(array))]


def values_of(row: Any) -> dict[str, Any]:
    """Column name -> value."""
    return row if isinstance(row, dict) else dict(zip(names_of(row), np.asarray(row).tolist(), strict=True))


def plan(records: list[Record], overrides: Options) -> Options:
    """The names of the columns, and how they are asked to be read; `learn` adds the features."""
    for record in records:
        try:
            names = names_of(record["table"])
        except ValueError as error:
            raise UserError(f"{record.get('name', 'the first row')} {error}") from None
        asked = asked_kinds(str(overrides.get("kinds", "")), names)
        return {
            "columns": names,
            "kinds": ",".join(f"{name}:{kind}" for name, kind in asked.items()),
            "text": overrides.get("text", "leave"),
            "scale": overrides.get("scale", "quantile"),
        }
    raise UserError("there are no rows; give a table with at least one")


def asked_kinds(kinds: str, names: list[str]) -> dict[str, str]:
    """ "zip:category,id:leave" -> kind by column. Raises UserError for an unknown column or kind."""
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in kinds.split(","))):
        name, _, kind = part.rpartition(":")
        if name not in names:
            raise UserError(f"kinds={part}: there is no column {name or part}; the columns are {', '.join(names[:40])}: give NAME:KIND")
        if kind not in KINDS:
            raise UserError(f"kinds={part}: {kind} is no kind of column; allowed: {', '.join(KINDS)}")
        found[name] = kind
    return found


# ---------------------------------------------------------------------------------------------- learning the columns


def learn(records: Iterable[Record], settings: Options) -> tuple[Options, Files]:
    """Training rows and the settings of `plan` -> settings with features, and columns.json. What was decided is printed.

    Raises UserError if no column can be used.
    """
    rows, seen = _survey(records)
    if not rows:
        raise UserError("there are no training rows that can be read; give at least one")
    found, left = _inferred(rows, settings["columns"], settings)
    if not found:
        raise UserError(f"no column can be used: {'; '.join(left[:5])}; give other data, or kinds=NAME:KIND")
    _announce(found, len(rows), seen)
    return _described_by(found, settings)


def extend(records: Iterable[Record], prep: Preprocessor) -> Preprocessor:
    """The preprocessor of an encoder's training, for a table with other columns: shared ones are read as in training, new ones are
    inferred from these training rows, and those that the table lacks are dropped; it is printed which are which.

    The same preprocessor if the columns are the same. Raises UserError if none is shared.
    """
    own = json.loads(prep.files[FILE])["features"]
    had = dict.fromkeys(one["column"] for one in own)
    first = list(islice(records := iter(records), 1))
    names = [name for record in first for name in names_of(record["table"])]
    new = [name for name in names if name not in prep.settings["columns"]]
    gone = [name for name in had if name not in names]
    if len(gone) == len(had):
        raise UserError(f"the table shares no column with the one the encoder was trained on: {_listed(list(had))}; rename its columns")
    rows, _ = _survey(chain(first, records)) if new else ([], 0)
    found, _ = _inferred(rows, new, prep.settings) if rows else ([], [])
    if not found and not gone:
        return prep
    kept = [name for name in had if name not in gone]
    said = [f"{len(kept)} as in pretraining: {_listed(kept)}"]
    added = list(dict.fromkeys(one["column"] for one in found))
    said += [f"{len(added)} new, whose weights are drawn: {_listed(added)}"] if added else []
    said += [f"{len(gone)} of pretraining not in this table, dropped: {_listed(gone)}"] if gone else []
    say(f"columns   {'; '.join(said)}")
    count = len(own[0]["marginal"])
    for one in found:  # distributions have one length
        places = ((np.arange(count) + 0.5) / count * len(one["marginal"])).astype(int)
        one["marginal"] = [one["marginal"][place] for place in places]
    columns = [name for name in prep.settings["columns"] if name in names] + new
    settings, files = _described_by([one for one in own if one["column"] not in gone] + found, {**prep.settings, "columns": columns})
    return replace(prep, settings=settings, files=files)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _inferred(rows: list[dict[str, Any]], names: list[str], settings: Options) -> tuple[list[Options], list[str]]:
    """The features of these columns, and what is said of columns, which is printed as warnings."""
    asked = asked_kinds(settings["kinds"], settings["columns"])
    found: list[Options] = []
    left: list[str] = []
    for name in names:
        cells = [row.get(name) for row in rows]
        parts, why = _column(name, cells, asked.get(name), settings["text"], len(rows))
        found += parts
        left += [f"{name} {why}"] if why else []
    for line in left if found else []:
        warn(f"column {line}")
    return found, left


def _described_by(found: list[Options], settings: Options) -> tuple[Options, Files]:
    """Settings with these features, and columns.json. Raises UserError for rows that are too wide."""
    files = {FILE: json.dumps({"features": found}).encode()}
    features = [_described(one, scale=settings["scale"]) for one in features_of_file(files[FILE])]
    if (wide := sum(one["values"] + 1 for one in features)) > WIDEST:
        raise UserError(f"a row would have {wide:,} numbers, {WIDEST:,} are allowed; leave columns out with kinds=NAME:leave")
    return {**settings, "features": features, "digest": digest_of(files)}, files


def digest_of(files: Files) -> str:
    """Of columns.json: rows are packed by it, so that other statistics never read the same store."""
    return xxhash.xxh3_128_hexdigest(files[FILE])


def _survey(records: Iterable[Record]) -> tuple[list[dict[str, Any]], int]:
    """SURVEYED rows drawn from all with equal chances (reservoir sampling), and the number of all."""
    rows: list[dict[str, Any]] = []
    draw, seen = random.Random(0), 0
    for record in records:
        if record["table"] is None or isinstance(record["table"], Exception):
            continue
        at = seen if seen < SURVEYED else draw.randrange(seen + 1)
        if at < SURVEYED:
            row = values_of(record["table"])
            if seen < SURVEYED:
                rows.append(row)
            else:
                rows[at] = row
        seen += 1
    return rows, seen


def _column(name: str, cells: list[Any], asked: str | None, text: str, rows: int) -> tuple[list[Options], str]:
    """The features of a column, and what is said of it ("" for nothing)."""
    known = [value for value in map(plain, cells) if value is not None]
    if asked == "leave":
        return [], "is left out, as asked"
    if odd := next(
        (type(value).__name__ for value in known if not isinstance(value, (bool, int, float, str)) and as_date(value) is None), ""
    ):
        return [], f"is left out: it holds {odd} values; numbers, texts and dates are allowed"
    if not known:
        return [], "is left out: it has no values"
    form, doubt = form_of(known, READABLE) if asked in (None, "number", "date") else ("", "")
    if form:
        cells = [plain_form(plain(value), form) or value for value in cells]
        parts, why = _column(name, cells, asked, text, rows)
        return [{**part, "form": form} for part in parts], why
    kind, why = (asked, "") if asked else _kind(known, text, rows)
    if doubt and (asked or kind == "leave"):
        return [], f"is left out: it {doubt}"
    if kind == "leave":
        return [], why
    if kind == "date":
        return _dates(name, cells)
    if kind == "number":
        return _number(name, [number_of(value) for value in cells], cells, keep=asked is not None)
    if kind == "hash":
        return [_hashed(name, cells)], why
    return _category(name, cells, keep=asked is not None)


def _kind(known: list[Any], text: str, rows: int) -> tuple[str, str]:
    """The kind of a column with these values, and what is said of it."""
    if all(isinstance(value, bool) for value in known):
        return "category", ""
    numbers = [number_of(value) for value in known]
    readable = sum(number is not None for number in numbers)
    coded = sum(isinstance(value, str) and re.fullmatch(r"0\d+", value.strip()) is not None for value in known)  # zip codes, ids
    if readable >= READABLE * len(known) and coded < (1 - READABLE) * len(known):
        whole = {number for number in numbers if number is not None}
        if len(known) == rows == len(whole) >= 20 and all(n.is_integer() for n in whole) and max(whole) - min(whole) == len(whole) - 1:
            return "leave", "is left out: it numbers the rows"
        return "number", ""
    if sum(as_date(value) is not None for value in known) >= READABLE * len(known):
        return "date", ""
    words = {str(value) for value in known}
    long = sum(len(word) for word in words) / len(words) > LONG
    if len(words) > 1 and (long or (len(words) > DISTINCT and len(words) > len(known) / 2) or (len(words) == len(known) >= 20)):
        what = f"text with {len(words):,} different values in {len(known):,} rows"
        if text == "hash":
            return "hash", f"is {what}: hashed to {HASHED} values"
        return "leave", f"is left out: it is {what}; text=hash reads its hash"
    return "category", ""


def plain(value: Any) -> Any:
    """A cell as a plain Python value; None if it is missing: a blank, "?", "NA", NaN, infinite."""
    if isinstance(value, np.generic):
        value = value.item()
    if is_missing(value) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, str) and (not (word := value.strip()) or word.lower() in MISSING):
        return None
    if hasattr(value, "as_tuple"):  # Decimal
        return float(value)
    return value


def number_of(value: Any) -> float | None:
    """A cell as a finite number, None if it is missing or no number."""
    if isinstance(value, str):
        value = value.strip()
        value = float(value) if NUMBER.fullmatch(value) else None
    else:
        value = plain(value)
    if not isinstance(value, (bool, int, float)):
        return None
    value = float(value)
    return value if math.isfinite(value) else None


def word_of(value: Any) -> str | None:
    """A cell as the name of its category, None if it is missing: 3, 3.0 and "3" are one category."""
    value = plain(value)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _number(name: str, numbers: list[float | None], cells: list[Any], keep: bool) -> tuple[list[Options], str]:
    there = np.array([number for number in numbers if number is not None])
    if not len(there):
        return [], "is left out: none of its values is a number"
    mean, std = float(there.mean()), float(there.std())
    if not (std > 1e-12 * max(abs(mean), 1e-300)) and not keep:
        return [], f"is left out: it is constant ({mean:g})"
    infinite = sum(isinstance(value, (float, np.floating)) and math.isinf(value) for value in cells)
    wrong = [value for value, number in zip(cells, numbers, strict=True) if number is None and plain(value) is not None]
    said = f"has {infinite:,} infinite values, read as missing" if infinite else ""
    if wrong:
        said += f"{' and ' * bool(said)}has {len(wrong):,} values that are not numbers, e.g. {str(wrong[0])[:20]!r}, read as missing"
    missing = len(numbers) - len(there)
    return [{"column": name, "kind": "number", "missing": missing, **_moments(there, missing, mean, std or 1.0)}], said


def _moments(there: np.ndarray, missing: int, mean: float, std: float) -> Options:
    """Mean, standard deviation, and standardised values at evenly spaced ranks; a share as large as in the rows is missing (null)."""
    count = min(MARGINAL, len(there) + missing)
    lost = min(math.ceil(missing * count / (len(there) + missing)), count - 1)
    ranks = (np.arange(count - lost) + 0.5) / (count - lost) * len(there)
    chosen = (np.sort(there)[np.minimum(ranks.astype(int), len(there) - 1)] - mean) / std
    return {"mean": mean, "std": std, "marginal": [*(float(f"{value:.7g}") for value in chosen), *[None] * lost]}


def _dates(name: str, cells: list[Any]) -> tuple[list[Options], str]:
    dates = [as_date(value) for value in map(plain, cells)]
    wrong = sum(date is None and plain(value) is not None for date, value in zip(dates, cells, strict=True))
    parts = [None if date is None else date_parts(date) for date in dates]
    missing, found = sum(part is None for part in parts), []
    for at, part in enumerate(PARTS):
        there = np.array([values[at] for values in parts if values is not None])
        if (std := float(there.std())) > 1e-9:
            own = _moments(there, missing, float(there.mean()), std)
            found.append({"column": name, "part": part, "kind": "date", "missing": missing, **own})
    if not found:
        return [], "is left out: it is constant"
    return found, f"has {wrong:,} values that are not dates, read as missing" if wrong else ""


def _category(name: str, cells: list[Any], keep: bool) -> tuple[list[Options], str]:
    words = [word_of(value) for value in cells]
    counts = Counter(word for word in words if word is not None)
    missing = sum(word is None for word in words)
    if len(counts) == 1 and not missing and not keep:
        return [], f"is left out: it is constant ({next(iter(counts))})"
    often = sorted(word for word, _ in counts.most_common(CATEGORIES))
    codes = {word: code for code, word in enumerate(often)}
    pooled = len(counts) - len(often)
    sizes = [*(counts[word] for word in often), *([sum(counts.values()) - sum(counts[word] for word in often)] if pooled else [])]
    said = f"has {len(counts):,} categories: the {CATEGORIES} most frequent are told apart" if pooled else ""
    own = {"column": name, "kind": "category", "values": often, "other": len(often) if pooled else -1}
    return [{**own, "missing": missing, "marginal": _codes_at_ranks(sizes, missing), "codes": len(codes) + bool(pooled)}], said


def _hashed(name: str, cells: list[Any]) -> Options:
    codes = [None if (word := word_of(value)) is None else bucket(word, HASHED) for value in cells]
    sizes = np.bincount([code for code in codes if code is not None], minlength=HASHED).tolist()
    missing = sum(code is None for code in codes)
    return {"column": name, "kind": "hash", "codes": HASHED, "missing": missing, "marginal": _codes_at_ranks(sizes, missing)}


def bucket(word: str, buckets: int) -> int:
    """The same in every process."""
    return xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass")) % buckets


def _codes_at_ranks(sizes: list[int], missing: int) -> list[int | None]:
    """Category codes at evenly spaced ranks of the rows, so that each has the share it has there; None where missing."""
    ends = np.cumsum([*sizes, missing])
    count = min(MARGINAL, int(ends[-1]))
    found = np.searchsorted(ends, (np.arange(count) + 0.5) / count * ends[-1], side="right")
    return [None if code == len(sizes) else int(code) for code in found]


def _announce(found: list[Options], rows: int, seen: int) -> None:
    """Prints the kinds of the columns."""
    by_kind: dict[str, list[str]] = {}
    for one in found:
        if one["column"] not in by_kind.setdefault(one["kind"], []):
            by_kind[one["kind"]].append(one["column"])
    for kind, names in by_kind.items():
        say(f"columns   {len(names)} read as {WORDS[kind]}: {_listed(names)}")
    share = lambda missing: f"{missing / rows:.0%}" if missing >= 0.01 * rows else "<1%"  # noqa: E731
    absent = [f"{one['column']} {share(one['missing'])}" for one in found if one["missing"] and not one.get("part")]
    if absent:
        say(f"columns   missing values in {_listed(absent)}")
    if seen > rows:
        say(f"columns   inferred from {rows:,} of {seen:,} training rows, drawn at random; another kind: kinds=NAME:KIND")


# ------------------------------------------------------------------------------------------------ features, as read


def features_of(prep: Preprocessor) -> tuple[Feature, ...]:
    return features_of_file(prep.files[FILE])


@lru_cache(8)
def features_of_file(content: bytes) -> tuple[Feature, ...]:
    """Raises UserError for a file that is damaged."""
    try:
        found = tuple(
            Feature(
                str(one["column"]),
                str(one.get("part", "")),
                _known_form(one.get("form", "")),
                {str(value): code for code, value in enumerate(one["values"])}
                if one["kind"] == "category"
                else {}
                if one["kind"] == "hash"
                else None,
                int(one.get("other", -1)),
                int(one["codes"]) if one["kind"] == "hash" else 0,
                float(one.get("mean", 0.0)),
                float(one.get("std", 1.0)),
                bool(one["missing"]),
                np.array([np.nan if value is None else value for value in one["marginal"]], np.float32),
            )
            for one in json.loads(content)["features"]
        )
        if len({len(one.marginal) for one in found}) != 1 or not len(found[0].marginal):
            raise ValueError("its distributions differ in length")
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{FILE} can't be read ({error}); copy the whole folder again") from error


def _known_form(form: str) -> str:
    if form and form not in FORMS:
        raise ValueError(f"a column is written as {form!r}")
    return form


def _described(feature: Feature, scale: str) -> Options:
    """What an encoder must know: the feature's name, its number of values, and for a number the edges of bins with equally many rows."""
    name = f"{feature.column}.{feature.part}" if feature.part else feature.column
    if feature.values is not None:
        codes = feature.buckets or len(feature.values) + (feature.other >= 0)
        return {"name": name, "values": codes, "edges": []}
    _, scores, counts = knots_of(feature, scale)
    every = np.repeat(scores, counts)
    edges = np.unique(np.quantile(every, np.linspace(0, 1, BINS + 1)).round(5))
    return {"name": name, "values": 1, "edges": edges.tolist() if len(edges) > 1 else [float(edges[0]), float(edges[0]) + 1.0]}


def knots_of(feature: Feature, scale: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct standardised values of a number's distribution, their scores, and how often each occurs in it.

    quantile: the score is the normal quantile of a value's mid-rank; standard: the value itself, at most 10 standard deviations.
    """
    knots, counts = np.unique(feature.marginal[np.isfinite(feature.marginal)], return_counts=True)
    if scale == "standard":
        return knots, knots.clip(-10, 10), counts
    ranks = (np.cumsum(counts) - counts / 2) / counts.sum()
    return knots, np.array([NormalDist().inv_cdf(rank) for rank in ranks]), counts


def check_files(settings: Options, files: Files) -> None:
    """Raises UserError if columns.json is damaged or belongs to other settings."""
    features_of_file(files[FILE])
    if settings.get("digest") != digest_of(files):
        raise UserError(f"{FILE} describes other columns than the settings; copy the whole folder again")
