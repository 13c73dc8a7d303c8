"""Records cut into pieces: long recordings become several samples, of which none is in another split than the rest of its recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from untaught.core import Record
from untaught.data.decoding import CHUNK, ahead, chunks, processors
from untaught.data.identity import fingerprint
from untaught.data.parts import Part, Shard, Source

Cut = Callable[[Record], list[Record]]  # a record -> its pieces in order, itself if it is not cut


def cut_source(source: Source, cut: Cut, settings: object) -> Source:
    """The source with every record cut. Records whose number is known are cut once now, to count the pieces; streams while they are read.

    settings: what `cut` depends on, for the fingerprint. A source without long records is returned unchanged.
    """
    counts = {name: _counted(part, cut) for name, part in source.parts.items() if part.rows is not None}
    if all(name in counts and (counts[name] == 1).all() for name in source.parts):
        return source
    parts = {name: _cut(part, cut, counts.get(name)) for name, part in source.parts.items()}
    total = sum(part.rows or 0 for part in parts.values())
    what = source.what if len(counts) < len(parts) else f"{source.what}; cut into {total:,} pieces"
    return replace(source, what=what, parts=parts, fingerprint=fingerprint([source.fingerprint, settings]))


def records_of(source: Source, numbers: np.ndarray) -> np.ndarray:
    """Numbers of pieces among all of a cut source -> numbers of their records. Unchanged for sources that are not cut, and for streams,
    which don't know how many pieces a record has."""
    counts = [part.pieces for part in source.parts.values()]
    known = [each for each in counts if each is not None]
    if len(known) < len(counts):
        return numbers
    return np.searchsorted(np.concatenate(known).cumsum(), numbers, side="right")


def _counted(part: Part, cut: Cut) -> np.ndarray:
    """The number of pieces of each record (n,)."""
    count = lambda records: [len(cut(record)) for record in records]  # noqa: E731
    return np.array([number for numbers in ahead(count, chunks(part, CHUNK), processors()) for number in numbers], np.int64)


def _cut(part: Part, cut: Cut, counts: np.ndarray | None) -> Part:
    def pieces(records: Iterator[Record]) -> Iterator[Record]:
        return (piece for record in records for piece in cut(record))

    at = part.at
    if at is None or counts is None:
        rows = None if counts is None else int(counts.sum())
        return Part(rows, lambda: pieces(iter(part)), shards=[_shard(one, pieces) for one in part.shards], pieces=counts)
    ends = counts.cumsum()

    def piece(number: int) -> Record:
        record = int(np.searchsorted(ends, number, side="right"))
        return cut(at(record))[number - int(ends[record] - counts[record])]

    return Part(int(ends[-1]) if len(ends) else 0, lambda: pieces(iter(part)), piece, pieces=counts)


def _shard(shard: Shard, pieces: Callable[[Iterator[Record]], Iterator[Record]]) -> Shard:
    return replace(shard, count=lambda: None, read=lambda start: islice(pieces(shard.read(0)), start, None))
