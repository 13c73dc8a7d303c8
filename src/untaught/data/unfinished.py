"""A store being packed: interrupted packing resumes after the last record that is safely on disk."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import xxhash

from untaught.core import Record
from untaught.data.checksum import digest_of_row
from untaught.data.column import Column, Growing
from untaught.data.target import TARGET

PROGRESS, LABELS = "progress.json", "labels.jsonl"
EVERY = 5.0  # seconds between two saves
NAMED = 1000  # skipped records, and groups, kept by name
OWN = ("part", "name", "hash", "number", "group")


class Unfinished:
    """The files of a growing store: `columns` of the modality's fields, and `own` columns: each row's split, name, content hash, number
    among all records, readable or not, and group (a hash; of a record without one, of its number).

    part, record: position of the next record in the source; done, failed: records stored and not; skipped: (name, reason).
    """

    def __init__(self, folder: Path, ragged: Sequence[str]) -> None:
        self.folder, self.ragged = folder, ragged
        try:
            self._begin(json.loads((folder / PROGRESS).read_text("utf-8")))
        except Exception:  # nothing saved, or damaged: start over
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            self._begin({})

    def _begin(self, state: dict[str, Any]) -> None:
        self.part, self.record, self.done, self.failed = (state.get(key, 0) for key in ("part", "record", "done", "failed"))
        self.skipped: list[tuple[str, str]] = [(name, reason) for name, reason in state.get("skipped", [])]
        self.groups: dict[str, str] = state.get("groups", {})  # the first names, by hash
        own, begun = state.get("own", {}), state.get("columns", {})
        if own and set(own) != set(OWN):
            raise ValueError("was begun by another version")
        self.own = {name: Column(self.folder, f"row.{name}", name == "name", own.get(name)) for name in OWN}
        self.columns = {name: Column(self.folder, name, name in self.ragged, begun[name]) for name in begun}
        self.labels: TextIO = (self.folder / LABELS).open("r+" if state else "w+", encoding="utf-8")
        if self.labels.seek(0, os.SEEK_END) < state.get("labels", 0):
            raise ValueError(f"{LABELS} is shorter than it was")
        self.labels.seek(self.labels.truncate(state.get("labels", 0)))
        self.saved = time.monotonic()

    def fits(self, arrays: dict[str, np.ndarray]) -> str | None:
        """Why a record's arrays do not fit the store, or None; the first record's define dtypes and shapes."""
        for name in arrays if not self.columns else ():
            self.columns[name] = Column(self.folder, name, name in self.ragged)
        return next((fault for fault in (self.columns[name].misfit(array) for name, array in arrays.items()) if fault), None)

    def append(self, part: int, numbers: Sequence[int], good: Sequence[tuple[Record, dict[str, np.ndarray]]]) -> None:
        for name in good[0][1] if good else ():
            self.columns[name].append([arrays[name] for _, arrays in good])
        self.own["part"].append(np.full(len(good), part, np.uint8))
        self.own["name"].append([np.frombuffer(r["name"].encode("utf-8", "surrogateescape"), np.uint8) for r, _ in good])
        self.own["hash"].append(np.array([digest_of_row(_own(arrays)) for _, arrays in good], np.uint64))
        self.own["number"].append(np.array(numbers, np.int64))
        groups = [record.get("group", number) for number, (record, _) in zip(numbers, good, strict=True)]
        hashes = [xxhash.xxh3_64_intdigest(repr(group).encode("utf-8", "replace")) for group in groups]
        self.own["group"].append(np.array(hashes, np.uint64))
        for (record, _), group in zip(good, hashes, strict=True):
            if "group" in record and len(self.groups) < NAMED:
                self.groups[str(group)] = str(record["group"])
        if good:
            self.labels.write(json.dumps([_plain(record.get("label")) for record, _ in good]) + "\n")
        self.done += len(good)

    def skip(self, name: str, reason: str) -> None:
        self.failed += 1
        self.skipped += [(name, reason)][: NAMED - len(self.skipped)]

    def save(self) -> None:
        """Saves progress to disk, unless it was saved less than EVERY seconds ago."""
        if time.monotonic() - self.saved < EVERY or not self.done:
            return
        for file in self.files:
            file.save()
        self.labels.flush()
        os.fsync(self.labels.fileno())
        state = {key: getattr(self, key) for key in ("part", "record", "done", "failed", "skipped", "groups")}
        state |= {key: {name: column.state for name, column in getattr(self, key).items()} for key in ("own", "columns")}
        partial = self.folder / f"{PROGRESS}.partial"
        partial.write_text(json.dumps({**state, "labels": self.labels.tell()}), "utf-8")
        os.replace(partial, self.folder / PROGRESS)
        self.saved = time.monotonic()

    @property
    def files(self) -> list[Growing]:
        return [file for column in (*self.own.values(), *self.columns.values()) for file in column.files]

    def finish(self) -> list[Any]:
        """Writes the headers, removes the progress files -> the labels."""
        for file in self.files:
            file.finish()
        self.labels.seek(0)
        labels = [label for line in self.labels for label in json.loads(line)]
        self.close()
        for name in (PROGRESS, LABELS):
            (self.folder / name).unlink(missing_ok=True)
        return labels

    def close(self) -> None:
        self.labels.close()
        for file in self.files:
            file.file.close()


def _own(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays without target columns: an image with another mask is the same image."""
    return {name: array for name, array in arrays.items() if not name.startswith(TARGET)}


def _plain(label: Any) -> Any:
    if isinstance(label, list | tuple | set | frozenset | np.ndarray):  # several classes
        return [_plain(item) for item in label]
    label = label.item() if isinstance(label, np.generic) else label
    return label if label is None or isinstance(label, bool | int | float | str) else str(label)
