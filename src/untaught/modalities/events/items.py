"""Records to arrays: a user's items as numbers of a vocabulary, which is learned on training events alone.

Of each user, the last events are held out (`hold_out`): the last one tests, the one before validates ("last"); or those after two points
in time ("time"), at which 80% and 90% of all events are over. Held-out events are never in a training view, nor in the vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from untaught.core import Batch, Files, Options, Preprocessor, Record, UserError
from untaught.modalities.reading import readable
from untaught.ranges import Within

FILES = ("items.json",)
SPECIAL: Options = {"pad": 0, "unk": 1, "mask": 2, "cls": None, "sep": None}  # unk: an item that was not in the training events
FIRST = 3  # number of the most frequent item
LENGTHS = Within(2, 4096)  # events of a sample
COUNTS = Within(1, 1 << 20)
MOST = 1 << 20  # items
HELD_OUT = ("last", "time", "none")
SHARES = (0.8, 0.9)  # of all events, before validation and before the test
LEAST = 3  # events of a user, two of which are held out


def plan(records: list[Record], overrides: Options) -> Options:
    """Settings from the overrides. Raises UserError for impossible ones, and if no record can be read."""
    readable(records, "users", names_of)
    length, how = overrides.get("length") or 50, overrides.get("hold_out") or "last"
    if length not in LENGTHS:
        raise UserError(f"length={length}: must lie {LENGTHS} events")
    if how not in HELD_OUT:
        raise UserError(f"hold_out={how}: must be {', '.join(HELD_OUT)}")
    timed = all("time" in record for record in records)
    if how == "time" and not timed:
        raise UserError("hold_out=time needs a time for each event; give --columns time=NAME, or hold_out=last")
    fewest = overrides.get("fewest") or 1
    if fewest not in COUNTS:
        raise UserError(f"fewest={fewest}: must lie {COUNTS} events")
    return {"length": length, "hold_out": how, "fewest": fewest, "timed": timed, "ragged": ["ids", "times"]}


def learn(records: Iterable[Record], settings: Options) -> tuple[Options, Files]:
    """The vocabulary: items of training events, most frequent first; those with fewer than `fewest` events are left out. And, for
    hold_out=time, the two points in time. Raises UserError if there are too many items, or fewer than 2."""
    counts: Counter[str] = Counter()
    single = 0
    own = [(names, times) for record in records if (names := _names_or_none(record)) is not None for times in (_times(record, names),)]
    settings = {**settings, "cuts": []}
    if settings["hold_out"] == "time":
        every = np.sort(np.concatenate([times for _, times in own]))
        settings["cuts"] = [float(every[int(share * len(every))]) for share in SHARES]
        if settings["cuts"][0] <= every[0]:
            raise UserError("hold_out=time: most events have one time; check the time column, or give hold_out=last")
    for names, times in own:
        known = known_counts(times, settings)[0]
        counts.update(names[:known])
        single += known < 2
    if single == len(own):
        advice = "check the user column" if settings["hold_out"] == "none" else "check the user column, or give hold_out=none"
        raise UserError(f"none of the {len(own):,} users has 2 training events or more, so there is no next item to learn; {advice}")
    frequent = {name: count for name, count in counts.items() if count >= settings["fewest"]}
    if len(frequent) > MOST:
        least = sorted(counts.values(), reverse=True)[MOST] + 1
        left = sum(count >= least for count in counts.values())
        raise UserError(
            f"the events have {len(frequent):,} items, more than {MOST:,}; give fewest={least} to leave out items with fewer events "
            f"({left:,} remain), or a coarser item column"
        )
    if len(frequent) < 2:
        raise UserError(
            f"the training events have {len(frequent)} item{'s' * (len(frequent) != 1)} of {settings['fewest']} events or more; "
            "at least 2 are required: check the item column, or give a smaller fewest"
        )
    items = sorted(frequent, key=lambda name: (-frequent[name], name))
    content = json.dumps({"items": items}, ensure_ascii=False).encode()
    about = {"vocabulary": len(items) + FIRST, "special": dict(SPECIAL), "items": _hash(content)}
    return {**settings, **about, "rare": len(counts) - len(items), "single": single}, {FILES[0]: content}


def known_counts(times: np.ndarray, settings: Options) -> tuple[int, int]:
    """times (n,), ascending -> how many of a user's events are known in training, and how many when tested."""
    count = len(times)
    if settings["hold_out"] == "time":
        first, second = (int(np.searchsorted(times, cut)) for cut in settings["cuts"])
        return first, second
    return (count - 2, count - 1) if settings["hold_out"] == "last" and count >= LEAST else (count, count)


def decode(record: Record, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> ids (n,) int32; times (n,) float64, places in the sequence without a time; known (2,) int32, see `known_counts`."""
    names = names_of(record)
    times, numbers = _times(record, names), numbers_of(prep)
    ids = np.array([numbers.get(name, SPECIAL["unk"]) for name in names], np.int32)
    return {"ids": ids, "times": times, "known": np.array(known_counts(times, prep.settings), np.int32)}


def names_of(record: Record) -> list[str]:
    """The items of a user, as text. Raises ValueError."""
    value: Any = record["item"]
    if isinstance(value, Exception):
        raise value
    if isinstance(value, str) or not isinstance(value, np.ndarray | list | tuple):
        raise ValueError(f"{type(value).__name__} is not a sequence of items; give a table with columns user, item and time")
    value = np.asarray(value)
    if value.ndim != 1:
        raise ValueError(f"has items of shape {value.shape}; (events,) is allowed")
    if value.dtype.kind in "if":  # an array of integers, padded with negative ones
        value = value[value >= 0].astype(np.int64)
    if not len(value):
        raise ValueError("has no events")
    return [str(one) for one in value.tolist()]


def _names_or_none(record: Record) -> list[str] | None:
    """Packing reports unreadable records."""
    try:
        return names_of(record)
    except (ValueError, OSError):
        return None


def _times(record: Record, names: list[str]) -> np.ndarray:
    times = record.get("time")
    return np.arange(len(names), dtype=np.float64) if times is None else np.asarray(times, np.float64)


def fit(batch: Batch, prep: Preprocessor) -> Options:
    """What views need."""
    return {key: prep.settings[key] for key in ("special", "vocabulary", "items")}


def raw(batch: Batch, prep: Preprocessor) -> Any:
    """The raw baseline: how often each user had each item, (B,V) sparse."""
    from scipy.sparse import csr_matrix

    ids = batch["ids"].numpy()
    valid = batch["ids_valid"].numpy()
    rows, places = np.nonzero(valid)
    return csr_matrix((np.ones(len(rows), np.float32), (rows, ids[rows, places])), (len(ids), prep.settings["vocabulary"]))


def check_files(settings: Options, files: Files) -> None:
    """Raises UserError if items.json is not the vocabulary that the settings name."""
    if _hash(files[FILES[0]]) != str(settings.get("items")):
        raise UserError(f"{FILES[0]} is not the one the encoder was trained with; copy the whole folder again")
    items = _items(files[FILES[0]])
    if len(items) + FIRST != settings.get("vocabulary"):
        raise UserError(f"{FILES[0]} has {len(items):,} items, not as many as the settings say; copy the whole folder again")


def items_of(prep: Preprocessor) -> tuple[str, ...]:
    """The names of the vocabulary, by number; special ones in brackets."""
    return ("[padding]", "[unseen]", "[mask]", *_items(prep.files[FILES[0]]))


def numbers_of(prep: Preprocessor) -> dict[str, int]:
    """Item -> its number."""
    return _numbers(prep.files[FILES[0]])


@lru_cache(4)
def _items(content: bytes) -> tuple[str, ...]:
    try:
        items = json.loads(content)["items"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{FILES[0]} can't be read as a vocabulary; copy the whole folder again") from error
    if not isinstance(items, list) or not all(isinstance(name, str) for name in items) or len(set(items)) < len(items):
        raise UserError(f"{FILES[0]} is not a list of different names; copy the whole folder again")
    return tuple(items)


@lru_cache(4)
def _numbers(content: bytes) -> dict[str, int]:
    return {name: number for number, name in enumerate(_items(content), FIRST)}


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def ordinary(ids: torch.Tensor) -> torch.Tensor:
    """Whether each id is an item of the vocabulary."""
    return ids >= FIRST
