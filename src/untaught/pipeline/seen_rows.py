"""Which samples a run was trained on and held out, by content hash, wherever they are read from later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from untaught.console import warn
from untaught.core import UserError
from untaught.data.labels import hold_out
from untaught.data.parts import TRAIN, VAL
from untaught.data.store import Store, sizes
from untaught.pipeline.dataset import Dataset, Parts
from untaught.storage.atomic import write_bytes
from untaught.storage.run_dir import name_of, read_run, seed_of

ROWS = "rows.safetensors"
STREAMED = "streamed"  # recorded instead of a store's content hash


@dataclass(frozen=True)
class SeenRows:
    """trained, held_out: content hashes (n,) uint64 of the samples in the run's splits; None if the run recorded none."""

    folder: Path
    data: str
    fingerprint: str | None
    contents: str | None
    seed: int
    trained: np.ndarray | None
    held_out: np.ndarray | None

    @classmethod
    def of(cls, folder: Path) -> SeenRows:
        """Of a run folder. Raises UserError."""
        run = read_run(folder / "run.yaml")
        found = _read(folder / ROWS) if run.get("contents") else {}
        recorded: dict[str, Any] = {key: run.get(key) for key in ("fingerprint", "contents")}
        return cls(folder, name_of(run), **recorded, seed=seed_of(run), trained=found.get("trained"), held_out=found.get("held_out"))

    @property
    def streamed(self) -> bool:
        """Whether the run streamed its data: it was trained on the full training split (or all data), and no rows were recorded."""
        return self.trained is None and self.contents == STREAMED

    def same(self, store: Store | None, fingerprint: str) -> bool:
        """Whether the data are the run's, under any name. Files that look the same may hold something else, but another version may also
        decode all of them differently."""
        if store is None or self.trained is None or self.held_out is None or store.contents == self.contents:
            return fingerprint == self.fingerprint or (store is not None and store.contents == self.contents)
        before = np.concatenate([self.trained, self.held_out])
        return fingerprint == self.fingerprint and not np.isin(store.hashes, before).any()

    def changes(self, store: Store | None, noun: str) -> str:
        """How the run's data have changed, in words."""
        if store is None or self.trained is None or self.held_out is None:
            return "other files, sizes or times"
        before = np.concatenate([self.trained, self.held_out])
        added, gone = (len(np.setdiff1d(one, other)) for one, other in ((store.hashes, before), (before, store.hashes)))
        changes = [f"{count:,} {noun} {what}" for count, what in ((added, "are new"), (gone, "are gone or changed")) if count]
        return " and ".join(changes) or "the same contents, but other labels, splits or order"

    def own(self, store: Store, fingerprint: str, noun: str) -> Parts:
        """Splits of the run's own data as they are now: only samples that it was trained on or held out. Raises UserError."""
        advice = f"to evaluate on {self.data} as it is now, name it with --data"
        if store.contents == self.contents or (self.trained is None and fingerprint == self.fingerprint):
            return self._streamed(store, *store.parts(self.seed))
        if self.trained is None or self.held_out is None:
            why = "streamed runs" if self.streamed else "runs of older versions"
            raise UserError(
                f"{self.data} is not what {self.folder} was trained on (other files, sizes or times), and {why} do not record their "
                f"training samples; {advice}"
            )
        trained = np.isin(store.hashes, self.trained)
        held_out = np.isin(store.hashes, self.held_out) & ~trained
        if not trained.any():
            if fingerprint == self.fingerprint:  # decoded differently by another version
                return store.parts(self.seed)
            raise UserError(f"{self.data} holds other data now: {self.folder} was trained on none of its {len(store):,} {noun}; {advice}")
        own = store.local_shards or {TRAIN: np.arange(len(store)), VAL: np.arange(len(store))}
        rows = {part: numbers[(trained if part == TRAIN else held_out)[numbers]] for part, numbers in own.items()}
        rows = {part: numbers for part, numbers in rows.items() if len(numbers)}
        warn(f"{self.data} has changed since the run: {self.changes(store, noun)}; evaluating only the run's own samples; {advice}")
        return rows, f"the run's own split: {sizes(rows)}"

    def other(self, store: Store, fingerprint: str, noun: str) -> Parts:
        """Splits of data named by the user: the run's training samples are never queries; its held-out samples still are."""
        rows, how = store.parts(self.seed)
        held_out = [store.hashes[numbers] for part, numbers in rows.items() if part != TRAIN]
        split = np.unique(np.concatenate(held_out)) if held_out else np.arange(0)
        if store.contents == self.contents and (self.held_out is None or np.array_equal(split, self.held_out)):  # else by other groups
            return rows, how
        if self.trained is None or self.held_out is None:
            return self._streamed(store, rows, how)
        trained = np.isin(store.hashes, self.trained)
        if not (trained.any() or np.isin(store.hashes, self.held_out).any()):
            return rows, how
        if not store.local_shards and store.labels is not None:
            queries = self.queries(store, store.labels)
            if queries.any():
                rows = {TRAIN: np.flatnonzero(~queries), VAL: np.flatnonzero(queries)}
                return rows, f"{int(trained.sum()):,} that {self.folder} was trained on in train, the new ones split 80/20: {sizes(rows)}"
        for part, numbers in rows.items():
            seen = 0 if part == TRAIN else int(trained[numbers].sum())
            if seen and seen < len(numbers):
                rows = {**rows, part: numbers[~trained[numbers]]}
                warn(f"skipping {seen:,} of {len(numbers):,} {noun} of {part}: {self.folder} was trained on them")
            elif seen:
                warn(f"{self.folder} was trained on all {seen:,} {noun} of {part}: its scores are on training samples")
        return rows, how

    def queries(self, store: Store, labels: np.ndarray) -> np.ndarray:
        """(N,) bool: whole groups that the run held out, and 20% of those that it doesn't know, or all if that is none, by labels (N,)
        or (N,K). It was trained on no sample of them."""
        assert self.trained is not None
        assert self.held_out is not None
        trained, held_out = (np.isin(store.groups, store.groups[np.isin(store.hashes, rows)]) for rows in (self.trained, self.held_out))
        known = trained | held_out
        missing = -1 if labels.dtype.kind == "i" else np.nan
        new = hold_out(np.where(known[(..., *[None] * (labels.ndim - 1))], missing, labels), self.seed, groups=store.groups)
        queries = (held_out | new) & ~trained
        return queries if queries.any() else ~known

    def divider(self, dataset: Dataset, own: bool) -> Callable[[Store], Parts]:
        """The function store -> splits, for the run's own data or for other data."""
        if own:
            dataset.name = self.data
        how = self.own if own else self.other
        return lambda store: how(store, dataset.source.fingerprint, dataset.modality.noun)

    def seen(self, store: Store, rows: np.ndarray) -> int:
        """How many of these rows the run was trained on; 0 if it recorded none."""
        return 0 if self.trained is None else int(np.isin(store.hashes[rows], self.trained).sum())

    def _streamed(self, store: Store, rows: dict[str, np.ndarray], how: str) -> Parts:
        if self.streamed and len(rows) > 1 and not store.local_shards:
            warn(f"{self.folder} was streamed and trained on all data, including samples held out here: its scores are on training samples")
        return rows, how


def keep_rows(folder: Path, store: Store, parts: dict[str, np.ndarray]) -> None:
    """Writes the content hashes of the splits into a run's folder, for `SeenRows.of`."""
    held_out = [numbers for part, numbers in parts.items() if part != TRAIN]
    rows = {"trained": parts[TRAIN], "held_out": np.concatenate(held_out) if held_out else np.arange(0)}
    write_bytes(folder / ROWS, save({name: np.unique(store.hashes[numbers]) for name, numbers in rows.items()}))


def _read(path: Path) -> dict[str, np.ndarray]:
    """Empty if there is no file. Raises UserError if it is damaged."""
    if not path.exists():
        return {}
    try:
        found = load_file(path)
        if found.keys() != {"trained", "held_out"} or any(rows.dtype != np.uint64 or rows.ndim != 1 for rows in found.values()):
            raise ValueError("unexpected arrays")
        return found
    except Exception as error:  # damaged in any way
        raise UserError(f"{path} can't be read ({str(error).splitlines()[0]}); copy the whole run folder, or remove the file") from error
