"""Embeds new data with a trained encoder, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from untaught.console import progress_bar, say, warn
from untaught.core import Batch, Modality, UserError
from untaught.data.column import Growing
from untaught.data.loader import Loader
from untaught.data.pieces import records_of
from untaught.data.sources import open_source, peek
from untaught.data.store import packed
from untaught.data.stream import Stream
from untaught.data.whole_rows import takes_whole_rows
from untaught.evaluation.features import encode
from untaught.inference.endings import check_ending
from untaught.ops.precision import has_bfloat16
from untaught.pipeline.dataset import adapted, differing, in_pieces, print_skipped
from untaught.pipeline.pretrained import Pretrained
from untaught.pipeline.view_pipeline import convolves, used_view
from untaught.ranges import Samples, in_range
from untaught.storage.atomic import make_room, replacing, replacing_all
from untaught.storage.ownership import check_replaceable, is_ours

CHECKED = 8  # records whose format is compared with the training data


class Embedder:
    """Reads new data with the encoder's preprocessing and yields its vectors, part by part and batch by batch."""

    @in_range
    def __init__(
        self,
        model: Pretrained,
        data: Any,
        columns: dict[str, str] | None = None,
        batch_size: Samples = 256,
        verb: str = "embed",
    ) -> None:
        prep, self.batch_size = model.prep, batch_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = model.network.to(self.device)
        self.source = open_source(data, prep.modality, columns=columns, encoding=prep.settings.get("encoding"))
        self.view = used_view(prep, model.config["view"])
        self.view.channels_last = convolves(self.encoder)
        self.verb = verb
        self.skipped: list[tuple[str, str]] = list(self.source.skipped)
        say(f"data      {self.source.what}")
        any_data = prep.modality.learn is not None and not takes_whole_rows(prep.modality)  # a tokenizer reads all texts
        records = [] if any_data else peek(self.source)
        for key, (found, takes) in differing(records[:: -(-len(records) // CHECKED) or 1], prep).items():
            say(f"input     {prep.modality.noun} converted from {key} {found} to {takes}, as in training")
        self.prep = adapted(records, prep)
        given, self.source = self.source, in_pieces(self.source, self.prep)
        if self.source.rows is not None and self.source.rows != given.rows:
            say(f"pieces    {self.source.rows:,} of {given.rows:,} {prep.modality.noun}, cut as in training")

    @property
    def modality(self) -> Modality:
        return self.prep.modality

    def __iter__(self) -> Iterator[Embedded]:
        """Yields batches in the source's order: part by part (train, val, test) if it has parts, in the given order within a part.

        Unreadable records are skipped with a warning; `rows` are the indices of the others. Long records are cut as in training: several
        rows then have the index of one record (in a stream of unknown length, every piece has its own), and names say which part each is.
        Raises UserError if none can be read or vectors are not finite.
        """
        total = sum(part.rows or 0 for part in self.source.parts.values()) or None
        given = left_out = 0
        with progress_bar(self.verb) as bar:
            task = bar.add_task("", total=total, note="")
            for reading in self._read():
                for index, vectors in self._encoded(reading):
                    given += len(index)
                    bar.update(task, completed=given)
                    names = [name.encode("utf-8", "backslashreplace").decode() for name in reading.names(index)]
                    yield Embedded(records_of(self.source, reading.rows(index)), names, vectors)
                left_out += reading.left_out()
        print_skipped(self.skipped, self.modality.noun, left_out)
        if not given:
            why = "".join(f" ({name}: {reason})" for name, reason in self.skipped[len(self.source.skipped) :][:1])
            raise UserError(f"nothing to {self.verb}: none of the {self.modality.noun} can be read{why}")

    def _encoded(self, reading: Reading) -> Iterator[tuple[np.ndarray, Any]]:
        """Yields (index (B,), output) per batch."""
        view = lambda batch: self.view(batch, 0)[0]  # noqa: E731
        return encode(self.encoder, reading.batches, view, self.device, has_bfloat16(self.device.type), reading.names)

    def _read(self) -> Iterator[Reading]:
        """Reads the store if a run has packed this data, else decodes every part."""
        if store := packed(self.source, self.prep, warn):
            loader = Loader(store, np.arange(len(store)), self.batch_size, seed=0, drop_last=False, shuffle=False)
            yield Reading(loader.batches(0), store.names, lambda index: store.numbers[index], lambda: store.left_out)
            self.skipped += [skipped for skipped in store.skipped if skipped not in self.skipped]
            return
        first = 0
        for part in self.source.parts.values():
            stream = Stream(part, self.prep, self.batch_size, seed=0, drop_last=False, shuffle=False, warn=warn)
            yield Reading(stream.batches(0), stream.names, partial(np.add, first), lambda stream=stream: stream.left_out)
            self.skipped += list(stream.skipped.items())
            first += stream.passed if part.rows is None else part.rows


class Embedded(NamedTuple):
    """A batch: record indices (B,) int64 in the source, their names, and vectors (B, width) float32 (or another output)."""

    rows: np.ndarray
    names: list[str]
    vectors: Any


class Reading(NamedTuple):
    """Batches in order, functions from their "index" to names and record indices, and, after the last batch, the number skipped."""

    batches: Iterator[Batch]
    names: Callable[[np.ndarray], list[str]]
    rows: Callable[[np.ndarray], np.ndarray]
    left_out: Callable[[], int]


class Vectors(np.ndarray):
    """(N, width) float32, with `rows` (N,), their record indices in the data (pieces of a long record have the same), and `names`; of
    tokens (N, h*w, width), with their `grid`.

    Derived arrays (a slice, a sum) lose all of them.
    """

    rows: np.ndarray | None = None
    names: list[str] | None = None
    grid: tuple[int, ...] | None = None


def vectors_of(embedder: Embedder) -> Vectors:
    """All vectors, in memory."""
    return joined(list(embedder))


def joined(batches: list[Embedded], grid: tuple[int, ...] | None = None) -> Vectors:
    result = np.concatenate([batch.vectors for batch in batches]).view(Vectors)
    result.rows, result.names = np.concatenate([batch.rows for batch in batches]), [name for batch in batches for name in batch.names]
    result.grid = grid
    return result


class Encoded(Protocol):
    """Vectors in batches, and the encoder that they are of."""

    encoder: Any

    def __iter__(self) -> Iterator[Embedded]: ...


def write_vectors(embedder: Encoded, out: Path) -> int:
    """Writes .parquet (columns row, name, vector) or .npy (N, width) plus `rows_beside`, atomically. Returns N."""
    check_ending(out, (".parquet", ".npy"))
    beside = ""
    if out.suffix == ".parquet":
        count = write_file(out, partial(_to_parquet, embedder))
    else:
        make_room(out)
        for path in (out, rows_beside(out)):
            check_replaceable(path, "choose another --out")
        with replacing_all(out, rows_beside(out)) as (vectors, rows):
            count = _to_npy(embedder, vectors, rows)
        if is_ours(grid_beside(out)):  # of tokens that were there before
            grid_beside(out).unlink()
        beside = f", and their row indices to {rows_beside(out)}"
    say(f"wrote     {count:,} vectors of {embedder.encoder.width} to {out}{beside}")
    return count


def rows_beside(out: Path) -> Path:
    """vectors.rows.npy (N,) int64 next to vectors.npy: the record index of each vector."""
    return out.with_suffix(".rows.npy")


def grid_beside(out: Path) -> Path:
    """vectors.grid.json {"grid": [h, w], "width": D} next to vectors.npy of tokens."""
    return out.with_suffix(".grid.json")


def write_file(out: Path, write: Callable[[Path], int]) -> int:
    """Calls `write` with a temporary path and moves the result to `out`, atomically -> its number of rows."""
    make_room(out)
    check_replaceable(out, "choose another --out")
    with replacing(out) as path:
        return write(path)


def _to_parquet(embedder: Encoded, path: Path) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    width: Any = embedder.encoder.width
    schema = pa.schema([("row", pa.int64()), ("name", pa.string()), ("vector", pa.list_(pa.float32(), width))])
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for rows, names, vectors in embedder:
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)
            writer.write_table(pa.table([pa.array(rows), pa.array(names), column], schema=schema))
            count += len(vectors)
    return count


def _to_npy(embedder: Encoded, path: Path, beside: Path) -> int:
    width: Any = embedder.encoder.width
    vectors, numbers = Growing(path, np.dtype("<f4"), (width,)), Growing(beside, np.dtype("<i8"), ())
    with closing(vectors.file), closing(numbers.file):
        for rows, _, batch in embedder:
            vectors.append(batch)
            numbers.append(rows)
        vectors.finish()
        numbers.finish()
    return vectors.rows
