"""Sources and their splits: re-iterable records in bounded memory."""

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
from untaught.data.identity import change_time, file_facts, fingerprint

TRAIN, VAL, TEST = "train", "val", "test"
PARTS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "dev"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
}
GROUP = "group"  # of a record: those of one speaker, patient or recording belong together
PEEKED = 8  # shards inspected to plan with


def held_out_part(parts: Mapping[str, Sized]) -> str | None:
    """The split to evaluate on: "test", else "val", if not empty; else None."""
    return next((name for name in (TEST, VAL) if len(parts.get(name, ()))), None)


class Broken(UserError):
    """A shard ended early or can't be read."""


@dataclass
class Shard:
    """One file of a split, readable from any record."""

    name: str
    count: Callable[[], int | None]  # number of records; None: unknown until read once
    read: Callable[[int], Iterator[Record]]  # records from this number on; raises Broken
    bytes: int  # total size of its records


@dataclass
class Part:
    """A split: records in a fixed order; every `iter` starts from the beginning."""

    rows: int | None  # None: a stream of unknown length
    read: Callable[[], Iterator[Record]]
    at: Callable[[int], Record] | None = None  # a record by number, if random access is as cheap as sequential
    shards: Sequence[Shard] = ()  # the shards that `read` reads in order, if the split has any
    pieces: np.ndarray | None = None  # of a split whose records are cut: the number of pieces of each (n,), if it is known

    def __iter__(self) -> Iterator[Record]:
        return self.read()


@dataclass
class Source:
    """The user's data, opened but not decoded."""

    what: str  # one line for the user: what was read, and how
    parts: dict[str, Part]  # the data's own splits "train", "val" and "test", or "all"
    classes: tuple[str, ...] | None  # class names, with labels as their indices; None: unknown, or raw labels
    fingerprint: str  # changes with the data and the choice of columns
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (name, reason) of files skipped while listing
    warnings: list[str] = field(default_factory=list)  # for the user
    changed: int = 0  # the newest `change_time` of its files: caches compare it, runs do not, since copying the data also changes it

    @property
    def version(self) -> str:
        """Key of what is cached of the data; unlike the fingerprint, it also changes with files of the same size and modification time."""
        return fingerprint([self.fingerprint, self.changed]) if self.changed else self.fingerprint

    @property
    def rows(self) -> int | None:
        counts = [part.rows for part in self.parts.values()]
        return None if None in counts else sum(count or 0 for count in counts)


@dataclass(frozen=True)
class Choice:
    """The user's choice of columns or keys."""

    columns: dict[str, str] = field(default_factory=dict)  # field -> column
    label: str | None = None
    split: str | None = None
    reading: dict[str, str] = field(default_factory=dict, repr=False)  # how a csv or json file is read: separator, header ...

    def refuse(self, where: str) -> None:
        """Raises UserError if an option is set, for sources without columns: options are never ignored silently."""
        for option, value in vars(self).items():
            if value:
                option = f"columns {next(iter(self.reading))}" if option == "reading" else option
                option = GROUP if option == "columns" and [*self.columns] == [GROUP] else option
                raise UserError(f"--{option} needs a table (parquet, csv, json), but {where} has no columns; remove the option")


def at_rest(source: Source, facts: list[tuple[str, int, int]]) -> Source:
    """A source that raises UserError at the end of a split if files with many records have changed since opening (`file_facts`)."""

    def guarded(read: Callable[[], Iterator[Record]]) -> Iterator[Record]:
        yield from read()
        for before in facts:
            if file_facts(Path(before[0])) != before:
                raise UserError(f"{before[0]} changed while it was read; start again once it no longer changes")

    for part in source.parts.values():
        part.read = partial(guarded, part.read)
    source.changed = max([source.changed, *(change_time(Path(path)) for path, *_ in facts)])
    return source


def peek(source: Source, count: int = 100) -> list[Record]:
    """About `count` records to plan with: evenly spaced if random access is cheap, else from some shards, else each split's first.

    Raises UserError with the first reason if none of them can be read.
    """
    share = max(1, count // max(1, len(source.parts)))
    records: list[Record] = []
    for part in source.parts.values():
        if part.at is not None and part.rows:
            records += [part.at(int(i)) for i in np.unique(np.linspace(0, part.rows - 1, min(share, part.rows)).astype(int))]
        elif part.shards:
            chosen = part.shards[:: -(-len(part.shards) // PEEKED)]
            for shard in chosen:
                with suppress(Broken):  # reported when all data are read
                    records += islice(shard.read(0), -(-share // len(chosen)))
        else:
            records += islice(part, share)
    intact = [record for record in records if not any(isinstance(value, Exception) for value in record.values())]
    if records and not intact:
        note = next(value for value in records[0].values() if isinstance(value, Exception))
        raise UserError(f"none of the first {len(records)} records can be read: {records[0].get('name', '?')} ({reason(note)})")
    return intact


def part_of(name: str) -> str | None:
    """The split named in a file or split name: "train-00000-of-00005.parquet" -> "train", "x_val" -> "val"; None if there is none."""
    for word in re.split(r"[^a-z]+", name.lower()):
        if word in PARTS:
            return PARTS[word]
    return None


def sort_parts(parts: dict[str, Any]) -> dict[str, Any]:
    order = (TRAIN, VAL, TEST)
    return {name: parts[name] for name in sorted(parts, key=lambda name: order.index(name) if name in order else -1)}
