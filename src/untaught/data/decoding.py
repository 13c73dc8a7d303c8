"""Decode records side by side, in order and in bounded memory, and work ahead of the consumer."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from itertools import islice, repeat
from pathlib import Path
from typing import TypeVar

import numpy as np

from untaught.core import Modality, Options, Record, reason
from untaught.data.identity import file_facts

T = TypeVar("T")
S = TypeVar("S")

Decoded = tuple[Record, "dict[str, np.ndarray] | str"]  # a record with its arrays, or with the reason why it has none
FAULTS_OF_OURS = (AttributeError, NameError, TypeError, AssertionError, ImportError)  # in decode itself, not in the data
HEAVY = 1 << 28  # bytes of encoded records that wait to be decoded, beyond which no more are read
CHUNK = 8  # records a task: a small image costs less than handing it over


def decode(records: Iterable[Record], modality: Modality, layout: Options) -> Iterator[Decoded]:
    """Every record in order. Threads suffice: image and sound decoders release the interpreter's lock."""

    def one(record: Record) -> Decoded:
        try:
            for field in modality.fields:
                if record[field] is None:
                    raise ValueError(f"has no {field}")
                if isinstance(record[field], Exception):
                    raise record[field]
            arrays = modality.decode(record, layout)
            if "facts" in record and file_facts(Path(record["facts"][0])) != record["facts"]:
                raise ValueError("changed since the data was opened")
            return record, arrays
        except FAULTS_OF_OURS:
            raise
        except Exception as error:  # a damaged file breaks its decoder in many ways
            return record, reason(error)

    for chunk in ahead(lambda chunk: [one(record) for record in chunk], _loads(records), processors(), weigh=_weight):
        yield from chunk


def _loads(records: Iterable[Record]) -> Iterator[list[Record]]:
    """What a task gets: CHUNK records, or fewer that weigh more than HEAVY."""
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
    """map(work, items) in order, with threads `depth` tasks ahead each, fewer where they weigh more than HEAVY. Closing it stops them.

    Closing waits for no thread and takes no lock: the garbage collector may do it in the middle of threading's own code.
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
    """The same items, made in a thread two ahead. Its exceptions come out here; closing stops it after the item it is at."""
    turns = (items for _ in repeat(None))
    end = object()
    for item in ahead(lambda items: next(items, end), turns, workers=1, depth=3):
        if item is end:
            return
        yield item  # type: ignore[misc]


def processors() -> int:
    """Cores that this process may use."""
    return min(32, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
