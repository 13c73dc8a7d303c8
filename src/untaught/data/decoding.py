"""Parallel decoding of records, in order, ahead of the consumer, in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from itertools import islice, repeat
from pathlib import Path
from typing import TypeVar

import numpy as np

from untaught.core import Preprocessor, Record, reason
from untaught.data.identity import file_facts

T = TypeVar("T")
S = TypeVar("S")

Decoded = tuple[Record, "dict[str, np.ndarray] | str"]  # a record with its arrays, or with the reason why it can't be decoded
FAULTS_OF_OURS = (AttributeError, NameError, TypeError, AssertionError, ImportError)  # bugs in decode, not faults in the data
HEAVY = 1 << 28  # bytes of encoded records waiting for decoding, above which reading pauses
CHUNK = 8  # records per task: scheduling costs more than decoding a small image


def decode(records: Iterable[Record], prep: Preprocessor) -> Iterator[Decoded]:
    """Decodes every record, in order. Threads suffice: image and audio decoders release the GIL. Optional fields may be None."""
    fields, optional = prep.modality.fields, prep.modality.optional

    def one(record: Record) -> Decoded:
        try:
            missing = [field for field in fields if record[field] is None]
            if lacking := [field for field in missing if field not in optional] or (missing if len(missing) == len(fields) else []):
                raise ValueError(f"has no {' and no '.join(lacking)}")
            for field in fields:
                if isinstance(record[field], Exception):
                    raise record[field]
            arrays = prep.decode(record)
            if "facts" in record and file_facts(Path(record["facts"][0])) != record["facts"]:
                raise ValueError("changed since the data was opened")
            return record, arrays
        except FAULTS_OF_OURS:
            raise
        except Exception as error:  # decoders fail on damaged files in many ways
            return record, reason(error)

    for chunk in ahead(lambda chunk: [one(record) for record in chunk], _loads(records), processors(), weigh=_weight):
        yield from chunk


def _loads(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Tasks of CHUNK records, or fewer if they exceed HEAVY bytes."""
    load: list[Record] = []
    for record in records:
        load.append(record)
        if len(load) == CHUNK or _weight(load) > HEAVY:
            yield load
            load = []
    if load:
        yield load


def _weight(records: list[Record]) -> int:
    return sum(len(value) for record in records for value in record.values() if isinstance(value, bytes))


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def ahead(
    work: Callable[[S], T], items: Iterable[S], workers: int, depth: int = 2, weigh: Callable[[S], int] = lambda item: 0
) -> Iterator[T]:
    """map(work, items) in order, with up to `depth` queued tasks per thread, fewer if they exceed HEAVY bytes. Closing stops the threads.

    Closing neither waits for threads nor takes locks: the garbage collector may close it inside threading's own code.
    """
    pool = ThreadPoolExecutor(workers)  # its threads end when it goes out of scope
    waiting, held = iter(items), 0
    running: deque[tuple[Future[T], int]] = deque()
    closed: list[bool] = []

    def task(item: S) -> T:
        if closed:
            raise CancelledError
        return work(item)

    try:
        while True:
            while len(running) < depth * workers and held < HEAVY and (coming := list(islice(waiting, 1))):
                weight = weigh(coming[0])
                running.append((pool.submit(task, coming[0]), weight))
                held += weight
            if not running:
                return
            future, weight = running.popleft()
            done = future.result()
            held -= weight
            yield done
    except Exception:
        pool.shutdown(wait=False)  # its traceback would keep the pool in scope
        raise
    finally:
        closed.append(True)


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """The same items, made in a thread two ahead. Exceptions are re-raised here; closing stops it after the current item."""
    turns = (items for _ in repeat(None))
    end = object()
    for item in ahead(lambda items: next(items, end), turns, workers=1, depth=3):
        if item is end:
            return
        yield item  # type: ignore[misc]


def processors() -> int:
    """CPU cores available to this process, at most 32."""
    return min(32, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
