"""From the user's data to rows for a training loop: source, preprocessor, store or stream, splits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from untaught.console import progress_bar, say, size_text, warn
from untaught.core import Batch, Modality, Options, Preprocessor, Record, UserError, View
from untaught.data.addresses import data_names
from untaught.data.column import pad
from untaught.data.decoding import decode
from untaught.data.loader import Loader, hold
from untaught.data.parts import GROUP, TRAIN
from untaught.data.pieces import cut_source
from untaught.data.runs import Runs
from untaught.data.sources import Source, open_source
from untaught.data.store import Store, bytes_needed, cache_folder, pack, peek
from untaught.data.stream import Stream
from untaught.pipeline.preprocessor import plan
from untaught.pipeline.view_pipeline import used_view

Parts = tuple[dict[str, np.ndarray], str]  # row numbers by split, and a description of how the data were split
DISK_SHARE = 0.5  # share of the free disk that a store may use; above it, data are streamed instead


@dataclass
class Dataset:
    """Opened data: a store (or, above the disk budget, a stream), and the rows of each split."""

    name: str  # the data as given by the user; "in memory: ..." if not a path
    prep: Preprocessor
    source: Source
    peeked: list[Record]
    store: Store | None = None
    parts: dict[str, np.ndarray] = field(default_factory=dict)  # rows of the store by split
    how_split: str = ""
    group: str | None = None  # the column of groups, if one was named
    runs: tuple[str, int] | None = None  # field and sample length, if samples are fixed-length chunks of a token stream

    @property
    def modality(self) -> Modality:
        return self.prep.modality

    def open(self, stream: bool | None, seed: int, divide: Callable[[Store], Parts] | None = None) -> bool:
        """Packs (or reuses) the store, or streams if requested or if a store would be too large -> whether it streams.

        divide: store -> splits; by default the store's own splits, or a random split by seed.
        """
        source, modality = self.source, self.modality
        samples, _ = _decoded(self.peeked, self.prep)
        rows = source.rows
        needed = bytes_needed(rows, samples) if rows is not None else None
        free = shutil.disk_usage(_existing(cache_folder())).free
        if stream is None:
            stream = needed is None or needed > DISK_SHARE * free
            if stream and needed:
                say(f"store     would take {size_text(needed)} of {size_text(free)} free: streaming from the source instead")
        if stream:
            self.prep = self.prep.fitted(_stacked(samples, self.prep.ragged))
            return True
        with progress_bar("packing") as bar:
            task = bar.add_task("", total=rows, note="")
            progress = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
            self.store = pack(source, self.prep, progress=progress, warn=warn)
        print_skipped([s for s in self.store.skipped if s not in source.skipped], modality.noun, self.store.left_out)
        self.prep = replace(self.prep, statistics=self.store.statistics)
        self.parts, self.how_split = divide(self.store) if divide else self.store.parts(seed)
        if self.group and self.store.local_shards and len(self.parts) > 1:
            self._refuse_shared_groups()
        self._warn_repeated()
        return False

    def _refuse_shared_groups(self) -> None:
        """Raises UserError if the data's own splits share a group."""
        assert self.store is not None
        for part in self.parts.keys() - {TRAIN}:
            shared = np.intersect1d(self.store.groups[self.parts[part]], self.store.groups[self.parts[TRAIN]])
            if len(shared):
                name = self.store.group_names.get(int(shared[0]), "one without a name")
                raise UserError(
                    f"{len(shared):,} groups of column {self.group}, e.g. {name}, are in both train and {part} of the data's own split; "
                    "leave out --group, or give a split by group"
                )

    def _warn_repeated(self) -> None:
        """Warns of held-out samples that also occur in the training split under another name."""
        assert self.store is not None
        for part, numbers in self.parts.items():
            repeated, first = self.store.repeated(numbers, self.parts["train"]) if part != "train" else (numbers[:0], numbers[:0])
            if len(repeated):
                one, other = self.store.names(np.array([repeated[0], first[0]]))
                message = f"{len(repeated):,} of {len(numbers):,} {self.modality.noun} in {part} are also in the training split"
                warn(f"{message}, e.g. {one} = {other}: scores on them are too optimistic; remove them from one of the two")

    def example(self, view: str) -> View:
        """A view of up to 2 samples, before packing: for its shape."""
        batch, _ = batch_of(self.peeked[:2], self.prep)
        return used_view(self.prep.fitted(batch), view)(batch, 0)[0]

    def samples(self, part: str) -> Store | Runs:
        """What `numbers` indexes: rows of the store, or chunks of the split's token stream."""
        assert self.store is not None
        return self.store if self.runs is None else Runs(self.store, self.runs[0], self.parts[part], self.runs[1])

    def numbers(self, part: str) -> np.ndarray:
        """Indices of a split's samples (n,)."""
        return self.parts[part] if self.runs is None else np.arange(len(self.samples(part)))

    @property
    def train_rows(self) -> int:
        return len(self.numbers("train")) if self.store else _train(self.source).rows or 0

    @property
    def rows(self) -> int:
        """Upper bound (exclusive) of every sample's "index"."""
        return self.train_rows if self.runs or not self.store else len(self.store)

    def training(self, batch_size: int, seed: int, rank: int = 0, world: int = 1, device: torch.device | None = None) -> Loader | Stream:
        """batch_size is global; yields this rank's share of every batch, on the device if the whole store fits there."""
        if self.store:
            held = hold(self.store, device) if device else None  # None for ragged data
            samples, rows = self.samples("train"), self.numbers("train")
            return Loader(samples, rows, batch_size, seed, rank, world, pin=torch.cuda.is_available(), held=held)
        return Stream(_train(self.source), self.prep, batch_size, seed, rank=rank, world=world, warn=warn)

    def in_order(self, rows: np.ndarray, batch_size: int) -> Loader:
        assert self.store is not None
        return Loader(self.store, rows, batch_size, seed=0, drop_last=False, shuffle=False)

    def names(self, index: np.ndarray) -> list[str]:
        return self.samples("train").names(index) if self.store else [f"record {i}" for i in index]


def open_dataset(
    data: Any,
    reading: Modality | Preprocessor,
    *,
    columns: dict[str, str] | None,
    label: str | None,
    split: str | None,
    overrides: Options | None = None,
) -> Dataset:
    """Opens the source. reading: a modality, whose preprocessor is planned from the first records and the user's overrides; or a
    preprocessor, which is adapted to the data."""
    modality = reading.modality if isinstance(reading, Preprocessor) else reading
    with progress_bar("opening") as bar:
        task = bar.add_task("", total=None, note="")
        progress = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
        encoding = (reading.settings if isinstance(reading, Preprocessor) else overrides or {}).get("encoding")
        source = open_source(data, modality, columns=columns, label=label, split=split, progress=progress, encoding=encoding)
    say(f"data      {source.what}")
    print_skipped(source.skipped, modality.noun)
    for warning in source.warnings:
        warn(warning)
    records = peek(source)
    prep = adapted(records, reading) if isinstance(reading, Preprocessor) else plan(source, records, modality, overrides or {})
    if (pieces := in_pieces(source, prep)) is not source:
        source, records = pieces, peek(pieces)
    prep.presets()  # raises UserError for impossible settings of a run file
    names = data_names(data)
    name = f"in memory: {source.what}" if names is None else names if isinstance(names, str) else ", ".join(names)
    return Dataset(name, prep, source, records, group=(columns or {}).get(GROUP))


def in_pieces(source: Source, prep: Preprocessor) -> Source:
    """The source with its long records cut as the settings say; itself if nothing is cut."""
    cut = prep.modality.cut(prep.settings) if prep.modality.cut is not None else None
    return source if cut is None else cut_source(source, cut, sorted(prep.settings.items()))


def adapted(records: list[Record], prep: Preprocessor) -> Preprocessor:
    """An encoder's preprocessor, with settings it leaves open inferred from new data and printed, and what it can't use of them."""
    settings = prep.modality.adapt(records, prep.settings)
    if new := {key: value for key, value in settings.items() if key not in prep.settings}:
        say("input     inferred from the data: " + ", ".join(f"{key} {value}" for key, value in new.items()))
    for doubt in prep.modality.unlike(records, prep):
        warn(doubt)
    return replace(prep, settings=settings)


def differing(records: list[Record], prep: Preprocessor) -> dict[str, tuple[Any, Any]]:
    """Properties in which new data differ from an encoder's training data, and which are converted: (found, trained on) by name."""
    modality = prep.modality
    if modality.learn is not None:  # its files define how all data are read
        return {}
    try:
        planned = Preprocessor(modality, modality.plan(records, {}))
        if planned.ragged:  # variable length, read as in training
            return {}
        found, trained = planned.encoder_arguments, prep.encoder_arguments
    except UserError:  # unreadable records are reported when all data are read
        return {}
    return {key: (found[key], trained[key]) for key in trained if found[key] != trained[key]}


def _train(source: Source) -> Any:
    return source.parts.get("train") or next(iter(source.parts.values()))


def batch_of(records: list[Record], prep: Preprocessor) -> tuple[Batch, list[str]]:
    """The decodable records as one batch with "index" (B,), and their names. Raises UserError if none can be decoded."""
    samples, names = _decoded(records, prep)
    return {**_stacked(samples, prep.ragged), "index": torch.arange(len(samples))}, names


def _decoded(records: list[Record], prep: Preprocessor) -> tuple[list[dict[str, np.ndarray]], list[str]]:
    samples, names, reasons = [], [], []
    for record, arrays in decode(records, prep):
        if isinstance(arrays, str):
            reasons.append(f"{record.get('name', '?')} ({arrays})")
        else:
            samples.append(arrays)
            names.append(str(record.get("name", "?")))
    if not samples:
        raise UserError(f"none of the first {len(records)} {prep.modality.noun} can be read: {', '.join(reasons[:3])}")
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
    """count: the total, if not all are listed by name."""
    if skipped:
        shown = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        warn(f"skipped {max(count or 0, len(skipped)):,} that are not readable {noun}: {shown}{'; ...' if len(skipped) > 3 else ''}")


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
