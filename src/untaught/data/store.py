"""Decode once: records become rows of memory-mapped `.npy` columns, in a folder that is written atomically."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from untaught.core import Modality, Options, Preprocessor, Record, UserError
from untaught.data import decoding
from untaught.data.checksum import checksum, digest_of_text, remember, verify
from untaught.data.column import pad
from untaught.data.identity import fingerprint
from untaught.data.label_sets import is_list, number_label_sets
from untaught.data.labels import hold_out, number_labels
from untaught.data.parts import TEST, TRAIN, VAL, Source, peek
from untaught.data.unfinished import NAMED, PROGRESS, Unfinished
from untaught.surroundings import cache_folder

SCHEMA = 2  # increase when the format changes, so that older stores are repacked
SAMPLE, SAMPLE_BYTES = 4096, 128 << 20  # maximum rows and bytes that statistics are fitted on
KEPT = 7 * 86400  # seconds before an unfinished store is deleted
PARTS = ("all", TRAIN, VAL, TEST)  # names of the codes in the part column


class Store:
    """Packed data: memory-mapped `columns`; row i of each belongs to record i."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
        if self.manifest.pop("checksum") != digest_of_text(json.dumps(self.manifest)):
            raise ValueError("manifest.json is damaged")
        self.columns = {name: self._open(name) for name in self.manifest["fields"]}
        self.offsets = {name: self._open(f"{name}.offsets") for name, kind in self.manifest["fields"].items() if kind["ragged"]}
        self.classes: tuple[str, ...] = tuple(self.manifest["classes"])
        self.skipped: list[tuple[str, str]] = [(name, reason) for name, reason in self.manifest["skipped"]]
        self.statistics: Options = self.manifest["statistics"]
        self.labels: np.ndarray | None = self._open("row.label") if self.manifest["labelled"] else None
        self.own = self._open("row.part")  # index into PARTS
        self.hashes, self.numbers = self._open("row.hash"), self._open("row.number")  # content hash; number among all records
        grouped = (folder / "row.group.npy").exists()  # not in stores of earlier versions
        self.groups = self._open("row.group") if grouped else np.arange(len(self))  # equal for rows that belong together
        self._names, self._name_offsets = self._open("row.name"), self._open("row.name.offsets")
        self._check()

    def __len__(self) -> int:
        return self.manifest["rows"]

    def gather(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Row numbers (B,) -> fields (B, ...); ragged ones padded to (B, longest, ...), with "<field>_valid" (B, longest)."""
        batch: dict[str, np.ndarray] = {}
        for name, column in self.columns.items():
            if name in self.offsets:
                starts, ends = self.offsets[name][index], self.offsets[name][index + 1]
                batch[name], batch[f"{name}_valid"] = pad(column, starts, ends - starts)
            else:
                batch[name] = column[index]
        return batch

    @property
    def contents(self) -> str:
        """Hash of samples, labels, splits and order, independent of the source."""
        return self.manifest["contents"]

    @property
    def left_out(self) -> int:
        """Number of unreadable records."""
        return self.manifest["skipped_count"]["unreadable"]

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    @property
    def group_names(self) -> dict[int, str]:
        """Group -> name, of up to 1,000 groups; rows without a group are not in it."""
        return {int(group): name for group, name in self.manifest.get("groups", {}).items()}

    def names(self, index: np.ndarray) -> list[str]:
        starts, ends = self._name_offsets[index], self._name_offsets[index + 1]
        return [self._names[start:end].tobytes().decode("utf-8", "surrogateescape") for start, end in zip(starts, ends, strict=True)]

    def parts(self, seed: int) -> tuple[dict[str, np.ndarray], str]:
        """Row numbers (n,) of "train" and, if any, "val" and "test", and a description of the split."""
        if rows := self.local_shards:
            return rows, f"the data's own split: {sizes(rows)}"
        if self.labels is None:
            return {TRAIN: np.arange(len(self))}, f"all {len(self):,} rows are training rows: no labels, no split"
        held_out = hold_out(self.labels, seed, groups=self.groups)
        grouped = len(np.unique(self.groups)) < len(self)
        if not held_out.any():
            lack = "labels or groups" if grouped else "labels"
            return {TRAIN: np.arange(len(self))}, f"all {len(self):,} rows are training rows: too few {lack} to hold some out"
        rows = {TRAIN: np.flatnonzero(~held_out), VAL: np.flatnonzero(held_out)}
        how = "by group, " if grouped else "stratified by label, " if self.classes else ""
        return rows, f"80/20 {how}seed {seed}: {sizes(rows)}"

    @property
    def local_shards(self) -> dict[str, np.ndarray]:
        """Row numbers (n,) by split, if the data have a training split and another one; else empty."""
        rows = {part: np.flatnonzero(self.own == PARTS.index(part)) for part in (TRAIN, VAL, TEST)}
        rows = {part: numbers for part, numbers in rows.items() if len(numbers)}
        return rows if len(rows) > 1 and TRAIN in rows else {}

    def repeated(self, rows: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows (n,) whose contents also occur in `among` (m,), and the first row of `among` that each duplicates."""
        found, first = np.unique(self.hashes[among], return_index=True)
        places = np.searchsorted(found, self.hashes[rows]).clip(max=max(len(found) - 1, 0))
        same = found[places] == self.hashes[rows] if len(found) else np.zeros(len(rows), bool)
        return rows[same], among[first[places[same]]]

    def _check(self) -> None:
        """Raises ValueError if the files do not match the manifest."""
        ragged = [(self._names, self._name_offsets), *((self.columns[name], own) for name, own in self.offsets.items())]
        fixed = [
            self.own,
            self.hashes,
            self.numbers,
            self.groups,
            *(column for name, column in self.columns.items() if name not in self.offsets),
        ]
        lengths = {len(column) for column in (*fixed, *([] if self.labels is None else [self.labels]))} | {len(o) - 1 for _, o in ragged}
        if lengths != {len(self)} or any(offsets[-1] != len(values) for values, offsets in ragged):
            raise ValueError("columns of different lengths")

    def _open(self, name: str) -> np.ndarray:
        if Path(name).name != name:
            raise ValueError("a column outside the folder")
        path = self.folder / f"{name}.npy"
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return array.view(np.ndarray) if array.size else np.load(path, allow_pickle=False)  # a plain view: np.memmap indexing is slower


def pack(
    source: Source,
    prep: Preprocessor,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    limit_skipped: float = 0.5,
    warn: Callable[[str], None] = lambda text: None,
) -> Store:
    """Decodes a source into a store in the cache, or opens the store made by an earlier run or another process.

    Interrupted packing resumes from its last save. Fields in `prep.ragged` may differ in length, (T, ...); all others have a fixed shape.
    Unreadable records are skipped, counted and listed. A damaged store is repacked, with a warning. Raises UserError if no record is
    readable or more than `limit_skipped` of them are not, if the disk is full, and if the cache is not writable.
    """
    target = _place(source, prep, cache)
    folder, key = target.parent, target.name
    unfinished = folder / f"{key}.unfinished"
    if (store := _reopen(target)) is not None:
        return store
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        with FileLock(folder / f"{key}.lock"):
            if (store := _reopen(target, lambda fault: warn(f"the store {target} is damaged ({fault}): repacking it"))) is not None:
                return store
            shutil.rmtree(target, ignore_errors=True)
            try:
                _write(source, prep, unfinished, progress, limit_skipped)
                os.replace(unfinished, target)
                sync(folder)
            except Exception:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
            except BaseException:  # interrupted by the user: keep it only if it can be resumed
                if not (unfinished / PROGRESS).exists():
                    shutil.rmtree(unfinished, ignore_errors=True)
                raise
            return Store(target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"no space left in {folder} while packing; free some space, or set UNTAUGHT_CACHE to a larger disk") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"the cache {folder} is not writable ({error.strerror}); set UNTAUGHT_CACHE to a writable folder") from error
        raise


def packed(source: Source, prep: Preprocessor, warn: Callable[[str], None] = lambda text: None) -> Store | None:
    """The existing store of an unchanged source, or None, with a warning if it is damaged."""
    target = _place(source, prep, None)
    return _reopen(target, lambda fault: warn(f"the store {target} is damaged ({fault}): reading the original data"))


def sizes(rows: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{part} {len(numbers):,}" for part, numbers in rows.items())


def _place(source: Source, prep: Preprocessor, cache: Path | None) -> Path:
    key = fingerprint([SCHEMA, source.version, prep.modality.name, sorted(prep.settings.items())])
    return (cache or cache_folder()) / "stores" / key


def bytes_needed(rows: int, sample: Sequence[dict[str, np.ndarray]]) -> int:
    """Estimated size on disk of a store with this many rows, from some decoded records."""
    each = sum(array.nbytes for arrays in sample for array in arrays.values()) / max(1, len(sample))
    return round(rows * (each + 64))  # 64: label, part, name and their offsets


def _write(
    source: Source,
    prep: Preprocessor,
    folder: Path,
    progress: Callable[[int, int | None], None] | None,
    limit_skipped: float,
) -> None:
    begun = Unfinished(folder, prep.ragged)
    try:
        parts = list(source.parts.items())
        while begun.part < len(parts):
            name, part = parts[begun.part]
            for chunk in decoding.chunks(decoding.decode(islice(part, begun.record, None), prep), 64):
                good: list[tuple[Record, dict[str, np.ndarray]]] = []
                numbers: list[int] = []
                for number, (record, arrays) in enumerate(chunk, begun.done + begun.failed):
                    reason = arrays if isinstance(arrays, str) else begun.fits(arrays)
                    if reason is None:
                        good.append((record, arrays))  # type: ignore[arg-type]
                        numbers.append(number)
                    else:
                        begun.skip(record["name"], reason)
                if good and begun.done == 0:
                    _check_space(folder, source.rows, [arrays for _, arrays in good])
                begun.append(PARTS.index(name), numbers, good)
                begun.record += len(chunk)
                begun.save()
                if progress is not None:
                    progress(begun.done + begun.failed, source.rows)
            begun.part, begun.record = begun.part + 1, 0
        _judge(begun.done, begun.failed, begun.skipped, limit_skipped, prep.modality)
        labels = begun.finish()
    finally:
        begun.close()

    values, classes = number_label_sets(labels, source.classes) if any(map(is_list, labels)) else number_labels(labels, source.classes)
    if values is not None:
        np.save(folder / "row.label.npy", values)
    checksums = {file.path.name: file.checksum for file in begun.files}
    if values is not None:
        checksums["row.label.npy"] = checksum(folder / "row.label.npy")
    hashes, own = (np.load(folder / f"row.{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("hash", "part"))
    state = {name: column.state for name, column in begun.columns.items()}
    fields = {name: {"dtype": found["dtype"], "shape": found["shape"], "ragged": name in begun.ragged} for name, found in state.items()}
    manifest = {
        "schema": SCHEMA,
        "fingerprint": source.fingerprint,
        "what": source.what,
        "modality": prep.modality.name,
        "layout": prep.settings,
        "rows": begun.done,
        "fields": fields,
        "classes": classes,
        "labelled": values is not None,
        "skipped": (begun.skipped + source.skipped)[:NAMED],
        "skipped_count": {"unreadable": begun.failed, "passed over": len(source.skipped)},
        "groups": begun.groups,
        "statistics": {},
        "contents": fingerprint([hashes, own, values, classes]),
        "checksums": checksums,
    }
    _seal(folder, manifest)
    _seal(folder, {**manifest, "statistics": _fit(Store(folder), prep)})
    for path in folder.iterdir():
        sync(path)
    remember(folder, checksums)
    sync(folder)


def _seal(folder: Path, manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest)
    (folder / "manifest.json").write_text(json.dumps({"checksum": digest_of_text(text), **manifest}), "utf-8")


def _fit(store: Store, prep: Preprocessor) -> Options:
    """The modality's statistics over training rows; they must not depend on a run's seed."""
    rows = np.flatnonzero(np.isin(store.own, [PARTS.index(TRAIN), PARTS.index("all")]))
    rows = rows if len(rows) else np.arange(len(store))
    each = sum(column.nbytes for column in store.columns.values()) / len(store)
    sample = np.sort(np.random.default_rng(0).permutation(rows)[: max(1, min(SAMPLE, int(SAMPLE_BYTES / max(each, 1))))])
    return prep.fitted({name: torch.from_numpy(array) for name, array in store.gather(sample).items()}).statistics


def _reopen(folder: Path, warn: Callable[[str], None] = lambda fault: None) -> Store | None:
    if not folder.is_dir():
        return None
    try:
        store = Store(folder)
        verify(folder, store.manifest["checksums"])
        return store
    except Exception as error:  # a deleted, truncated or changed file can fail in many ways
        warn((str(error) or type(error).__name__).splitlines()[0])
        return None


def _sweep(folder: Path) -> None:
    """Removes unlocked unfinished stores of dead processes that were not continued for a week."""
    for unfinished in folder.glob("*.unfinished"):
        with suppress(OSError):
            if time.time() - (unfinished / PROGRESS).stat().st_mtime < KEPT:
                continue
        with suppress(Timeout), FileLock(unfinished.with_suffix(".lock"), timeout=0):
            shutil.rmtree(unfinished, ignore_errors=True)


def _check_space(folder: Path, rows: int | None, sample: list[dict[str, np.ndarray]]) -> None:
    needed, free = bytes_needed(rows or 0, sample), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"packing needs about {needed / 1e9:.1f} GB in {folder.parent}, which has {free / 1e9:.1f} GB left; "
            "free some space, or set UNTAUGHT_CACHE to a larger disk"
        )


def _judge(done: int, failed: int, skipped: list[tuple[str, str]], limit: float, modality: Modality) -> None:
    if done and failed <= limit * (done + failed):
        return
    shown = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
    if failed == 0:
        raise UserError(f"the source has no {modality.noun}; give at least one")
    raise UserError(f"{failed:,} of {done + failed:,} {modality.noun} cannot be read, more than {limit:.0%} ({shown}); fix or remove them")


def sync(path: Path) -> None:
    """Flushes to disk (fsync), so that a power loss after the rename leaves no empty files."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


__all__ = ["Store", "bytes_needed", "cache_folder", "pack", "peek"]
