"""A store that is being packed, and how far: what was cut off goes on behind the last record that is safely on the disk."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from untaught.core import Record
from untaught.data.checksum import digest_of_row
from untaught.data.column import Column, Growing
from untaught.data.target import TARGET

PROGRESS, LABELS = "progress.json", "labels.jsonl"
EVERY = 5.0  # seconds between two saves
NAMED = 1000  # skipped records that are kept by name
OWN = ("part", "name", "hash", "number")


class Unfinished:
    """The files of a store that grows: `columns` of the modality's fields, and of our own each row's part, name, hash of its contents, and
    number among all records, readable or not.

    part, record: where in the source the next record is; done, failed: how many were stored and not; skipped: (name, reason).
    """

    def __init__(self, folder: Path, ragged: Sequence[str]) -> None:
        self.folder, self.ragged = folder, ragged
        try:
            self._begin(json.loads((folder / PROGRESS).read_text("utf-8")))
        except Exception:  # nothing there yet, or not what it was: from the start
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            self._begin({})

    def _begin(self, said: dict[str, Any]) -> None:
        self.part, self.record, self.done, self.failed = (said.get(key, 0) for key in ("part", "record", "done", "failed"))
        self.skipped: list[tuple[str, str]] = [(name, reason) for name, reason in said.get("skipped", [])]
        own, begun = said.get("own", {}), said.get("columns", {})
        self.own = {name: Column(self.folder, f"row.{name}", name == "name", own.get(name)) for name in OWN}
        self.columns = {name: Column(self.folder, name, name in self.ragged, begun[name]) for name in begun}
        self.labels: TextIO = (self.folder / LABELS).open("r+" if said else "w+", encoding="utf-8")
        if self.labels.seek(0, os.SEEK_END) < said.get("labels", 0):
            raise ValueError(f"{LABELS} is shorter than it was")
        self.labels.seek(self.labels.truncate(said.get("labels", 0)))
        self.saved = time.monotonic()

    def fits(self, arrays: dict[str, np.ndarray]) -> str | None:
        """Why a record's arrays are no row of the store; the first ones decide."""
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
        if good:
            self.labels.write(json.dumps([_plain(record.get("label")) for record, _ in good]) + "\n")
        self.done += len(good)

    def skip(self, name: str, reason: str) -> None:
        self.failed += 1
        self.skipped += [(name, reason)][: NAMED - len(self.skipped)]

    def save(self) -> None:
        """Makes what was packed so far last, unless that was done less than EVERY seconds ago."""
        if time.monotonic() - self.saved < EVERY or not self.done:
            return
        for file in self.files:
            file.save()
        self.labels.flush()
        os.fsync(self.labels.fileno())
        said = {key: getattr(self, key) for key in ("part", "record", "done", "failed", "skipped")}
        said |= {key: {name: column.said for name, column in getattr(self, key).items()} for key in ("own", "columns")}
        partial = self.folder / f"{PROGRESS}.partial"
        partial.write_text(json.dumps({**said, "labels": self.labels.tell()}), "utf-8")
        os.replace(partial, self.folder / PROGRESS)
        self.saved = time.monotonic()

    @property
    def files(self) -> list[Growing]:
        return [file for column in (*self.own.values(), *self.columns.values()) for file in column.files]

    def finish(self) -> list[Any]:
        """The headers last -> the labels, and only the store's own files are left."""
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
    """Without the columns of a target: an image is the same with another mask."""
    return {name: array for name, array in arrays.items() if not name.startswith(TARGET)}


def _plain(label: Any) -> Any:
    label = label.item() if isinstance(label, np.generic) else label
    return label if label is None or isinstance(label, bool | int | float | str) else str(label)
