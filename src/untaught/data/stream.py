"""Batches directly from a source: for data larger than the disk budget, and for encoding new data once.

Sharded data are read in lanes. A lane is a section of the epoch's shards, in an order drawn per epoch; each lane contributes the same
share of every batch, shuffled within windows. So batches do not depend on the number of processes, each process reads only the lanes of
its share, and resuming skips records by number without opening skipped shards.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import count, islice
from math import gcd
from typing import Any

import numpy as np
from torch import Tensor

from untaught.core import Preprocessor, Record, UserError
from untaught.data import decoding
from untaught.data.column import pad
from untaught.data.loader import check_batch, to_tensors
from untaught.data.parts import Broken, Part, Shard

HELD = 256 << 20  # maximum bytes of undecoded records in the shuffle windows: 4096 photographs would be gigabytes
LANES = 8  # maximum lanes: up to as many processes read nothing twice
WEIGHED = 64  # first records from which the record size is estimated if it is unknown
REMEMBERED = 16  # batches whose names are kept for the consumer
NAMED = 1000  # unreadable records kept by name

Numbered = tuple[int, Record]


class Stream:
    """Batches of one split, decoded on the fly. Undecoded records are shuffled, so resuming decodes nothing twice.

    Batches are formed before decoding, so that their boundaries don't depend on which records are readable. With `drop_last` (training),
    an unreadable record is replaced by another of its batch, and the missing records of a broken shard by records of the next; otherwise
    the batch is smaller. With shards of unknown length, epoch 0 never ends.
    """

    def __init__(
        self,
        part: Part,
        prep: Preprocessor,
        batch_size: int,
        seed: int,
        buffer: int = 4096,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
        drop_last: bool = True,
        shuffle: bool = True,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        check_batch(batch_size, part.rows, world, drop_last)
        self.part, self.prep, self.batch_size, self.seed = part, prep, batch_size, seed
        self.buffer, self.rank, self.world, self.pin, self.drop_last, self.shuffle = buffer, rank, world, pin, drop_last, shuffle
        self.warn = warn
        self.steps_per_epoch = None if part.rows is None else part.rows // batch_size if drop_last else -(-part.rows // batch_size)
        self.shards: Sequence[Shard] = part.shards or (Shard("", lambda: part.rows, lambda start: islice(part, start, None), 0),)
        training = bool(part.shards) and drop_last and shuffle
        self.endless = training and part.rows is None
        most = min(LANES, len(self.shards)) if self.endless else LANES
        self.lanes = max(n for n in range(1, most + 1) if batch_size % n == 0) if training else 1
        self.skipped: dict[str, str] = {}  # name -> reason
        self.passed = self.given = 0  # records read, readable or not; records put into batches
        self.broken: set[str] = set()  # broken shards already reported
        self._names: OrderedDict[int, str] = OrderedDict()

    @property
    def left_out(self) -> int:
        """Unreadable records so far that were not replaced."""
        return self.passed - self.given

    @property
    def how(self) -> str:
        """One line for the user: shuffling, what each process reads, and the cost of resuming."""
        if self.part.at is not None:
            return "fully shuffled; resuming is immediate"
        read = "every process reads everything and takes its share; " if self.world > 1 else ""
        if self.lanes > 1 and (common := gcd(self.lanes, self.world)) > 1:
            read = f"each process reads {self.lanes // common} of the lanes; "
        again = "the shards not yet counted" if self.endless else "all previous records"
        resumes = "is immediate" if self.part.shards and not self.endless else f"rereads {again}, without decoding"
        shards = f"{len(self.shards):,} shards in {self.lanes} lanes, " if self.part.shards else ""
        return f"{shards}shuffle window of {self.window * self.lanes:,} records; {read}resuming {resumes}"

    def batches(self, epoch: int, step: int = 0) -> Iterator[dict[str, Tensor]]:
        """The epoch's batches from `step` on: each field (B, ...) and "index" (B,), the records' running numbers in the part."""
        return decoding.prefetch(self._make(epoch, step))

    def first_batch(self) -> dict[str, Tensor]:
        """The global first batch of epoch 0; skipped records are not counted."""
        alone = copy.copy(self)
        alone.rank, alone.world, alone.skipped, alone.broken, alone._names = 0, 1, {}, set(), OrderedDict()
        return next(iter(alone.batches(0)))

    def names(self, index: np.ndarray | Tensor) -> list[str]:
        """The names of a recent batch's records."""
        return [self._names[int(i)] for i in index]

    def _make(self, epoch: int, step: int) -> Iterator[dict[str, Tensor]]:
        sizes: list[int] = []

        def records() -> Iterator[Record]:
            for share in filter(None, self._shares(epoch, step)):
                sizes.append(len(share))
                while share:  # frees records once they are used: a batch of photographs is a hundred megabytes
                    number, record = share.popleft()
                    self.passed += 1
                    yield {**record, "index": number}

        decoded = decoding.decode(records(), self.prep)
        light = (({"name": record["name"], "index": record["index"]}, arrays) for record, arrays in decoded)
        while batch := list(islice(light, 1)):  # the batch's size is known once its first record arrives
            batch += islice(light, sizes.pop(0) - 1)
            if arrays := self._join(batch):
                yield to_tensors(arrays, self.pin)

    def _shares(self, epoch: int, step: int) -> Iterator[deque[Numbered]]:
        """This process's share of every batch: lanes are interleaved, and it takes the records at its own positions."""
        each = self.batch_size // self.lanes
        common = gcd(self.lanes, self.world)
        lanes = {lane: self._lane(epoch, lane, step * each) for lane in range(self.rank % common, self.lanes, common)}
        while True:
            batch = {lane: list(islice(records, each)) for lane, records in lanes.items()}
            come = min(map(len, batch.values()))
            if come < each and (self.drop_last or come == 0):
                return
            places = ((turn, lane) for turn in range(come) for lane in batch)
            share = deque(batch[lane][turn] for turn, lane in places if (turn * self.lanes + lane) % self.world == self.rank)
            batch.clear()
            yield share

    def _lane(self, epoch: int, lane: int, skip: int) -> Iterator[Numbered]:
        """(running number, record) of a lane without its first `skip`."""
        part = self.part
        if not self.shuffle:
            yield from self._read(epoch, lane, skip)
        elif part.at is not None and part.rows is not None:
            order = np.random.default_rng([self.seed, epoch]).permutation(part.rows)
            yield from ((int(i), part.at(int(i))) for i in order[skip:])
        else:
            window, passed = divmod(skip, self.window)
            yield from islice(self._shuffled(epoch, lane, window), passed, None)

    def _shuffled(self, epoch: int, lane: int, window: int) -> Iterator[Numbered]:
        """A lane's windows from this one on, each permuted; each record yielded is replaced by one of the next window."""
        coming = self._read(epoch, lane, window * self.window)
        held: list[Any] = list(islice(coming, self.window))
        while held:
            following: list[Any] = []
            for i in np.random.default_rng([self.seed, epoch, lane, window]).permutation(len(held)):
                given, held[i] = held[i], None
                yield given
                following += islice(coming, 1)
            held, window = following, window + 1

    @cached_property
    def window(self) -> int:
        """Shuffle window of a lane in records. It depends only on the data, so that resuming can skip to any window."""
        known = [shard.bytes / number for shard in self.part.shards if (number := shard.count())]
        if not known or self.part.rows is None:
            first = next(filter(None, (list(islice(self._records(i, 0), WEIGHED)) for i in range(len(self.shards)))), [])
            known = [sum(_bytes(record) for _, record in first) / max(1, len(first))]
        return max(1, min(self.buffer, int(HELD / max(1, *known))) // self.lanes)

    # ------------------------------------------------------------------------------------------------------- reading

    def _read(self, epoch: int, lane: int, skip: int) -> Iterator[Numbered]:
        """(running number, record) of a lane in reading order, without its first `skip`. Rows of known number are skipped unread."""
        place = vain = 0  # position in the lane; consecutive pieces without records
        for shard, first, rows in self._pieces(epoch, lane):
            passed = min(skip, rows or 0)
            place, skip = place + passed, skip - passed
            if rows is not None and passed == rows:
                continue
            before = place
            for given, row, record in self._piece(shard, first + passed, None if rows is None else rows - passed):
                number = place * self.lanes + lane if self.part.rows is None else int(self._starts[given]) + row
                place += 1
                if skip:
                    skip -= 1
                else:
                    yield number, record
            vain = 0 if place > before else vain + 1
            if self.part.shards and vain == -(-len(self.shards) // self.lanes):
                raise self._nothing()

    def _pieces(self, epoch: int, lane: int) -> Iterator[tuple[int, int, int | None]]:
        """(shard, first row, rows) of a lane in reading order; rows None: all, of unknown number."""
        if self.endless:
            for turn in count():
                order = np.random.default_rng([self.seed, turn]).permutation(len(self.shards))
                yield from ((int(shard), 0, self.shards[shard].count()) for shard in order[lane :: self.lanes])
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards)) if self.shuffle else range(len(self.shards))
        if self.part.rows is None:
            yield from ((int(shard), 0, self.shards[shard].count()) for shard in order)
            return
        share = self.part.rows // self.lanes
        begin, end = lane * share, self.part.rows if self.lanes == 1 else (lane + 1) * share
        for shard in order:
            rows = self.shards[shard].count() or 0
            low, high = max(begin, 0), min(end, rows)
            if low < high:
                yield int(shard), low, high - low
            begin, end = begin - rows, end - rows

    @cached_property
    def _starts(self) -> np.ndarray:
        """The running number of each shard's first record."""
        return np.cumsum([0, *(shard.count() or 0 for shard in self.shards)])

    def _piece(self, shard: int, start: int, rows: int | None) -> Iterator[tuple[int, int, Record]]:
        """(shard, row, record) of a section of a shard. In training, missing records of a broken shard are replaced by records of the
        next shards, so that every process keeps its number of steps."""
        came = 0
        for row, record in self._records(shard, start, rows):
            came += 1
            yield shard, row, record
        missing = rows - came if rows is not None and self.drop_last else 0
        while missing:
            before = missing
            for other in (*range(shard + 1, len(self.shards)), *range(shard + 1)):
                for row, record in self._records(other, 0, missing):
                    missing -= 1
                    yield other, row, record
            if missing == before:
                raise self._nothing()

    def _records(self, shard: int, start: int, rows: int | None = None) -> Iterator[Numbered]:
        """(row, record) of a shard from `start` on, as far as it can be read."""
        try:
            yield from enumerate(islice(self.shards[shard].read(start), rows), start)
        except Broken as error:
            if not self.part.shards:
                raise
            name = self.shards[shard].name
            if name not in self.broken:
                self.broken.add(name)
                self.warn(f"{error}; continuing without the rest of it")

    def _nothing(self) -> UserError:
        shown = ", ".join(sorted(self.broken)[:3])
        return UserError(f"none of the {len(self.shards)} shards can be read any more ({shown} ...); check that they are accessible")

    def _join(self, decoded: list[decoding.Decoded]) -> dict[str, np.ndarray] | None:
        """Decoded records -> one batch; fields in `prep.ragged` are padded to the longest."""
        good = [(record, arrays) for record, arrays in decoded if not isinstance(arrays, str)]
        self.skipped |= {record["name"]: arrays for record, arrays in decoded if isinstance(arrays, str) and len(self.skipped) < NAMED}
        if not good:
            if not self.drop_last:
                return None
            shown = "; ".join(f"{record['name']}: {reason}" for record, reason in decoded[:3])
            raise UserError(f"none of {len(decoded)} {self.prep.modality.noun} of a batch can be read ({shown}); fix or remove them")
        if self.drop_last:
            good += [good[i % len(good)] for i in range(len(decoded) - len(good))]
        batch: dict[str, Any] = {}
        for name in good[0][1]:
            rows = [arrays[name] for _, arrays in good]
            if name in self.prep.ragged:
                lengths = np.array([len(row) for row in rows])
                batch[name], batch[f"{name}_valid"] = pad(np.concatenate(rows), np.cumsum(lengths) - lengths, lengths)
            else:
                batch[name] = np.stack(rows)
        self.given += len(good)
        batch["index"] = np.array([record["index"] for record, _ in good], np.int64)
        self._names.update((record["index"], record["name"]) for record, _ in good)
        while len(self._names) > REMEMBERED * self.batch_size:
            self._names.popitem(last=False)
        return batch


def _bytes(record: Record) -> int:
    return 256 + sum(len(value) if isinstance(value, (bytes, str)) else getattr(value, "nbytes", 0) for value in record.values())
