"""From what the user points at to rows that a loop can read: source, layout, store or stream, parts."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from untaught.core import Batch, Modality, Options, Record, UserError
from untaught.data.decoding import decode
from untaught.data.loader import Loader, hold
from untaught.data.sources import Source, open_source
from untaught.data.store import Store, bytes_needed, cache_folder, pack, peek
from untaught.data.stream import Stream
from untaught.engine.log import progress_bar, say, warn

DISK_SHARE = 0.5  # of the free disk that a store may take before the data is streamed instead


@dataclass
class Material:
    """Opened data: a store (or, over the disk budget, a stream), and which rows are for what."""

    name: str  # the data as it was asked for; "in memory: ..." where that was no path
    modality: Modality
    source: Source
    layout: Options
    peeked: list[Record]
    statistics: Options = field(default_factory=dict)
    store: Store | None = None
    parts: dict[str, np.ndarray] = field(default_factory=dict)  # rows of the store by part
    how_split: str = ""

    def open(self, stream: bool | None, seed: int) -> bool:
        """Packs (or reuses) the store; or streams, where that is asked for or a store would be too large -> whether it streams."""
        source, modality, layout = self.source, self.modality, self.layout
        samples, _ = _decoded(self.peeked, modality, layout)
        rows = source.rows
        needed = bytes_needed(rows, samples) if rows is not None else None
        free = shutil.disk_usage(_existing(cache_folder())).free
        if stream is None:
            stream = needed is None or needed > DISK_SHARE * free
            if stream and needed:
                say(f"store     would take {size_text(needed)} of {size_text(free)} free: streaming from the source instead")
        if stream:
            self.statistics = modality.fit(_stacked(samples), layout)
            return True
        with progress_bar("packing") as bar:
            task = bar.add_task("", total=rows, note="")
            self.store = pack(source, modality, layout, progress=lambda done, total: bar.update(task, completed=done, total=total))
        tell_skipped([s for s in self.store.skipped if s not in source.skipped], modality.noun)
        self.statistics = self.store.statistics
        self.parts, self.how_split = self.store.parts(seed)
        return False

    @property
    def train_rows(self) -> int:
        return len(self.parts["train"]) if self.store else _train(self.source).rows or 0

    def training(self, batch_size: int, seed: int, rank: int = 0, world: int = 1, device: torch.device | None = None) -> Loader | Stream:
        """batch_size counts all processes; this one's share of every batch comes, on the device if that has room for all of the store."""
        if self.store:
            held = hold(self.store, device) if device else None
            return Loader(self.store, self.parts["train"], batch_size, seed, rank, world, pin=torch.cuda.is_available(), held=held)
        return Stream(_train(self.source), self.modality, self.layout, batch_size, seed, rank=rank, world=world, tell=warn)

    def in_order(self, rows: np.ndarray, batch_size: int) -> Loader:
        assert self.store is not None
        return Loader(self.store, rows, batch_size, seed=0, drop_last=False, shuffle=False)

    def names(self, index: np.ndarray) -> list[str]:
        return self.store.names(index) if self.store else [f"record {i}" for i in index]


def look(
    data: Any,
    modality: Modality,
    *,
    columns: dict[str, str] | None,
    label: str | None,
    split: str | None,
    wishes: Options,
) -> Material:
    """Opens the source and decides the layout from a first look. `wishes` holds what the user wants of the layout, or a whole one."""
    with progress_bar("opening") as bar:
        task = bar.add_task("", total=None, note="")
        progress = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
        source = open_source(data, modality, columns=columns, label=label, split=split, progress=progress)
    say(f"data      {source.what}")
    tell_skipped(source.skipped, modality.noun)
    records = peek(source)
    layout = wishes if "side" in wishes and "channels" in wishes else modality.plan(records, wishes)
    modality.presets(layout)  # of a run file it may be anything
    name = os.fspath(data) if isinstance(data, str | os.PathLike) else f"in memory: {source.what}"
    return Material(name, modality, source, layout, records)


def _train(source: Source) -> Any:
    return source.parts.get("train") or next(iter(source.parts.values()))


def batch_of(records: list[Record], modality: Modality, layout: Options) -> tuple[Batch, list[str]]:
    """What can be decoded as one batch with "index" (B,), and its names; a UserError where nothing can."""
    samples, names = _decoded(records, modality, layout)
    return {**_stacked(samples), "index": torch.arange(len(samples))}, names


def _decoded(records: list[Record], modality: Modality, layout: Options) -> tuple[list[dict[str, np.ndarray]], list[str]]:
    samples, names, reasons = [], [], []
    for record, arrays in decode(records, modality, layout):
        if isinstance(arrays, str):
            reasons.append(f"{record.get('name', '?')} ({arrays})")
        else:
            samples.append(arrays)
            names.append(str(record.get("name", "?")))
    if not samples:
        raise UserError(f"none of the first {len(records)} {modality.noun} can be read: {', '.join(reasons[:3])}")
    return samples, names


def _stacked(samples: list[dict[str, np.ndarray]]) -> Batch:
    return {key: torch.from_numpy(np.stack([sample[key] for sample in samples])) for key in samples[0]}


def tell_skipped(skipped: list[tuple[str, str]], noun: str) -> None:
    if skipped:
        shown = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        warn(f"{len(skipped)} left out that are no readable {noun}: {shown}{'; ...' if len(skipped) > 3 else ''}")


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def size_text(count: float) -> str:
    """123 MB."""
    from rich.filesize import decimal

    return decimal(int(count))
