"""From what the user points at to rows that a loop can read: source, layout, store or stream, parts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from untaught.console import progress_bar, say, size_text, warn
from untaught.core import Batch, Modality, Options, Record, UserError
from untaught.data.addresses import data_names
from untaught.data.column import pad
from untaught.data.decoding import decode
from untaught.data.loader import Loader, hold
from untaught.data.runs import Runs
from untaught.data.sources import Source, open_source
from untaught.data.store import Store, bytes_needed, cache_folder, pack, peek
from untaught.data.stream import Stream
from untaught.pipeline.preprocessor import learn

Parts = tuple[dict[str, np.ndarray], str]  # row numbers by part, and a sentence on how they came about
DISK_SHARE = 0.5  # of the free disk that a store may take before the data is streamed instead


@dataclass
class Dataset:
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
    runs: tuple[str, int] | None = None  # the field and the length of samples, where they are runs of a stream

    def open(self, stream: bool | None, seed: int, divide: Callable[[Store], Parts] | None = None) -> bool:
        """Packs (or reuses) the store; or streams, where that is asked for or a store would be too large -> whether it streams.

        divide: which rows of the store are for what, if not as the store's own parts or the seed have it.
        """
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
            self.statistics = modality.fit(_stacked(samples, layout.get("ragged", ())), layout)
            return True
        with progress_bar("packing") as bar:
            task = bar.add_task("", total=rows, note="")
            progress = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
            self.store = pack(source, modality, layout, progress=progress, warn=warn)
        print_skipped([s for s in self.store.skipped if s not in source.skipped], modality.noun, self.store.left_out)
        self.statistics = self.store.statistics
        self.parts, self.how_split = divide(self.store) if divide else self.store.parts(seed)
        self._warn_repeated()
        return False

    def _warn_repeated(self) -> None:
        """Held-out samples that are also among the training samples, under another name."""
        assert self.store is not None
        for part, numbers in self.parts.items():
            repeated, first = self.store.repeated(numbers, self.parts["train"]) if part != "train" else (numbers[:0], numbers[:0])
            if len(repeated):
                one, other = self.store.names(np.array([repeated[0], first[0]]))
                said = f"{len(repeated):,} of {len(numbers):,} {self.modality.noun} of {part} are also in the training part"
                warn(f"{said}, as {one} = {other}: scores on them say too much; remove them from one of the two")

    def samples(self, part: str) -> Store | Runs:
        """What a part's samples are numbered in: rows of the store, or runs of the part's stream."""
        assert self.store is not None
        return self.store if self.runs is None else Runs(self.store, self.runs[0], self.parts[part], self.runs[1])

    def numbers(self, part: str) -> np.ndarray:
        """The numbers of a part's samples (n,)."""
        return self.parts[part] if self.runs is None else np.arange(len(self.samples(part)))

    @property
    def train_rows(self) -> int:
        return len(self.numbers("train")) if self.store else _train(self.source).rows or 0

    @property
    def rows(self) -> int:
        """Every sample's "index" is below it."""
        return self.train_rows if self.runs or not self.store else len(self.store)

    def training(self, batch_size: int, seed: int, rank: int = 0, world: int = 1, device: torch.device | None = None) -> Loader | Stream:
        """batch_size counts all processes; this one's share of every batch comes, on the device if that has room for all of the store."""
        if self.store:
            held = hold(self.store, device) if device else None  # nothing ragged is
            samples, rows = self.samples("train"), self.numbers("train")
            return Loader(samples, rows, batch_size, seed, rank, world, pin=torch.cuda.is_available(), held=held)
        return Stream(_train(self.source), self.modality, self.layout, batch_size, seed, rank=rank, world=world, warn=warn)

    def in_order(self, rows: np.ndarray, batch_size: int) -> Loader:
        assert self.store is not None
        return Loader(self.store, rows, batch_size, seed=0, drop_last=False, shuffle=False)

    def names(self, index: np.ndarray) -> list[str]:
        return self.samples("train").names(index) if self.store else [f"record {i}" for i in index]


def look(
    data: Any,
    modality: Modality,
    *,
    columns: dict[str, str] | None,
    label: str | None,
    split: str | None,
    overrides: Options | None = None,
    layout: Options | None = None,
) -> Dataset:
    """Opens the source and decides the layout from a first look, by what the user wishes of it; one that is there already is adapted."""
    with progress_bar("opening") as bar:
        task = bar.add_task("", total=None, note="")
        progress = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
        encoding = (layout or overrides or {}).get("encoding")
        source = open_source(data, modality, columns=columns, label=label, split=split, progress=progress, encoding=encoding)
    say(f"data      {source.what}")
    print_skipped(source.skipped, modality.noun)
    for warning in source.warnings:
        warn(warning)
    records = peek(source)
    if layout is None:
        layout = modality.plan(records, overrides or {})
        layout = learn(source, modality, layout) if modality.learn else layout
    else:
        layout = adapted(records, modality, layout)
    modality.presets(layout)  # of a run file it may be anything
    names = data_names(data)
    name = f"in memory: {source.what}" if names is None else names if isinstance(names, str) else ", ".join(names)
    return Dataset(name, modality, source, layout, records)


def adapted(records: list[Record], modality: Modality, layout: Options) -> Options:
    """The layout of an encoder with what it does not tell of new data, which is said."""
    whole = modality.adapt(records, layout)
    if new := {key: value for key, value in whole.items() if key not in layout}:
        say("layout    the data are read with " + ", ".join(f"{key} {value}" for key, value in new.items()))
    return whole


def differing(records: list[Record], modality: Modality, layout: Options) -> dict[str, tuple[Any, Any]]:
    """What of new data is of another kind than what an encoder was trained on, and is converted: (found, trained on) by name."""
    if modality.learn is not None:  # its files say how anything is read
        return {}
    try:
        planned = modality.plan(records, {})
        if planned.get("ragged"):  # of any length, read as in training
            return {}
        found, trained = modality.input(planned), modality.input(layout)
    except UserError:  # it can't be told alone: whoever reads it all says what can't be read
        return {}
    return {key: (found[key], trained[key]) for key in trained if found[key] != trained[key]}


def _train(source: Source) -> Any:
    return source.parts.get("train") or next(iter(source.parts.values()))


def batch_of(records: list[Record], modality: Modality, layout: Options) -> tuple[Batch, list[str]]:
    """What can be decoded as one batch with "index" (B,), and its names; a UserError where nothing can."""
    samples, names = _decoded(records, modality, layout)
    return {**_stacked(samples, layout.get("ragged", ())), "index": torch.arange(len(samples))}, names


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


def _stacked(samples: list[dict[str, np.ndarray]], ragged: Sequence[str]) -> Batch:
    batch: dict[str, np.ndarray] = {}
    for key in samples[0]:
        arrays = [sample[key] for sample in samples]
        if key in ragged:
            lengths = np.array([len(array) for array in arrays])
            batch[key], batch[f"{key}_valid"] = pad(np.concatenate(arrays), np.cumsum(lengths) - lengths, lengths)
        else:
            batch[key] = np.stack(arrays)
    return {key: torch.from_numpy(array) for key, array in batch.items()}


def print_skipped(skipped: list[tuple[str, str]], noun: str, count: int | None = None) -> None:
    """count: how many they are, if not all of them are known by name."""
    if skipped:
        shown = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        warn(f"{max(count or 0, len(skipped)):,} left out that are no readable {noun}: {shown}{'; ...' if len(skipped) > 3 else ''}")


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
