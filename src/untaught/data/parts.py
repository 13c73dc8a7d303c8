"""What a source is made of: parts that give records as often as wanted, in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from untaught.core import Record, UserError, reason
from untaught.data.identity import file_facts

TRAIN, VAL, TEST = "train", "val", "test"
PARTS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
}
PEEKED = 8  # shards that are looked into


def held_out_part(parts: Mapping[str, Sized]) -> str | None:
    """Which part is measured on: "test", else "val", whichever has something in it."""
    return next((name for name in (TEST, VAL) if len(parts.get(name, ()))), None)


class Broken(UserError):
    """A shard gives no more, though there should be some."""


@dataclass
class Shard:
    """One of a part's files, which can be entered at any record."""

    name: str
    count: Callable[[], int | None]  # its records; None: nobody knows before they have been read once
    read: Callable[[int], Iterator[Record]]  # from this number on; raises Broken
    bytes: int  # of all its records


@dataclass
class Part:
    """Records in a fixed order, read from the start by every `iter`."""

    rows: int | None  # None: a stream, whose end nobody knows yet
    read: Callable[[], Iterator[Record]]
    at: Callable[[int], Record] | None = None  # one record by its number, where that is as cheap as the next one
    shards: Sequence[Shard] = ()  # which `read` gives one after the other, where the part is made of such

    def __iter__(self) -> Iterator[Record]:
        return self.read()


@dataclass
class Source:
    """What the user gave, opened: nothing is decoded yet."""

    what: str  # one line for the user: what was read as what
    parts: dict[str, Part]  # the data's own "train", "val" and "test", or "all"
    classes: tuple[str, ...] | None  # names of the labels, which then are their numbers; None: unknown, or raw values
    fingerprint: str  # changes when the data or the choice of columns does
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (name, reason) of what listing alone passed over
    warnings: list[str] = field(default_factory=list)  # what the user should look at

    @property
    def rows(self) -> int | None:
        counts = [part.rows for part in self.parts.values()]
        return None if None in counts else sum(count or 0 for count in counts)


@dataclass(frozen=True)
class Choice:
    """What the user said of columns, or keys."""

    columns: dict[str, str] = field(default_factory=dict)  # field -> the column that holds it
    label: str | None = None
    split: str | None = None
    reading: dict[str, str] = field(default_factory=dict, repr=False)  # how a csv or json file is read: separator, header ...

    def refuse(self, where: str) -> None:
        """For sources without columns: an option is never ignored silently."""
        for option, value in vars(self).items():
            if value:
                option = f"columns {next(iter(self.reading))}" if option == "reading" else option
                raise UserError(f"--{option} came, but {where} has no columns; leave it out, or give a table (parquet, csv, json)")


def at_rest(source: Source, facts: list[tuple[str, int, int]]) -> Source:
    """The source, refused by a UserError at the end of a part if files that hold many records are not as they were (`file_facts`)."""

    def guarded(read: Callable[[], Iterator[Record]]) -> Iterator[Record]:
        yield from read()
        for before in facts:
            if file_facts(Path(before[0])) != before:
                raise UserError(f"{before[0]} changed while it was read; start again when it is at rest")

    for part in source.parts.values():
        part.read = partial(guarded, part.read)
    return source


def peek(source: Source, count: int = 100) -> list[Record]:
    """Some `count` records to plan with: spread evenly where that is cheap, over some shards, or else the parts' first.

    Raises UserError with the reason where none of them holds anything.
    """
    share = max(1, count // max(1, len(source.parts)))
    records: list[Record] = []
    for part in source.parts.values():
        if part.at is not None and part.rows:
            records += [part.at(int(i)) for i in np.unique(np.linspace(0, part.rows - 1, min(share, part.rows)).astype(int))]
        elif part.shards:
            chosen = part.shards[:: -(-len(part.shards) // PEEKED)]
            for shard in chosen:
                with suppress(Broken):  # whoever reads on says so
                    records += islice(shard.read(0), -(-share // len(chosen)))
        else:
            records += islice(part, share)
    whole = [record for record in records if not any(isinstance(value, Exception) for value in record.values())]
    if records and not whole:
        said = next(value for value in records[0].values() if isinstance(value, Exception))
        raise UserError(f"none of the first {len(records)} records can be read: {records[0].get('name', '?')} ({reason(said)})")
    return whole


def part_of(name: str) -> str | None:
    """The part that a file's or split's name speaks of: "train-00000-of-00005.parquet" -> "train", "x_val" -> "val"."""
    for word in re.split(r"[^a-z]+", name.lower()):
        if word in PARTS:
            return PARTS[word]
    return None


def sort_parts(parts: dict[str, Any]) -> dict[str, Any]:
    order = (TRAIN, VAL, TEST)
    return {name: parts[name] for name in sorted(parts, key=lambda name: order.index(name) if name in order else -1)}
