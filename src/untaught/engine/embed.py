"""Vectors of new data by a trained encoder, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from untaught.core import Batch, Options, UserError
from untaught.data.loader import Loader
from untaught.data.sources import open_source, peek
from untaught.data.store import packed
from untaught.data.stream import Stream
from untaught.engine.build import modality_named
from untaught.engine.log import progress_bar, say, warn
from untaught.engine.material import tell_skipped
from untaught.engine.views import convolves, used_view
from untaught.engine.writing import make_room, whole
from untaught.evaluate.features import encode
from untaught.ops.precision import has_bfloat16
from untaught.ranges import Samples, in_range

LOOKED = 8  # records that tell of what kind new data are


class Embedder:
    """Reads new data as the encoder's own was read, and gives its vectors, part by part and batch by batch."""

    @in_range
    def __init__(
        self,
        encoder: nn.Module,
        config: Options,
        data: Any,
        columns: dict[str, str] | None = None,
        batch_size: Samples = 256,
        verb: str = "embed",
    ) -> None:
        self.modality = modality_named(config["modality"])
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder, self.layout, self.batch_size = encoder.to(self.device), config["layout"], batch_size
        self.source = open_source(data, self.modality, columns=columns)
        self.view = used_view(self.modality, self.layout, config["view"], config["statistics"])
        self.view.channels_last = convolves(encoder)
        self.verb = verb
        self.skipped: list[tuple[str, str]] = list(self.source.skipped)
        say(f"data      {self.source.what}")
        self._tell_differences()

    def _tell_differences(self) -> None:
        """What of the data is of another kind than what the encoder was trained on, and is converted."""
        if self.modality.learn is not None:  # its files say how anything is read
            return
        with suppress(UserError):  # nothing of it can be read: whoever reads it all says so
            found, takes = (self.modality.input(x) for x in (self.modality.plan(peek(self.source, LOOKED), {}), self.layout))
            for key in takes:
                if takes[key] != found[key]:
                    say(f"layout    {self.modality.noun} of {key} {found[key]} are read with {key} {takes[key]}, as in training")

    def __iter__(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """(names, vectors (B, width) float32) a batch, in the source's order."""
        total = sum(part.rows or 0 for part in self.source.parts.values()) or None
        given = 0
        with progress_bar(self.verb) as bar:
            task = bar.add_task("", total=total, note="")
            for batches, names in self._read():
                bf16 = has_bfloat16(self.device.type)
                for index, vectors in encode(self.encoder, batches, lambda batch: self.view(batch, 0)[0], self.device, bf16):
                    given += len(vectors)
                    bar.update(task, completed=given)
                    yield [name.encode("utf-8", "backslashreplace").decode() for name in names(index)], vectors
        tell_skipped(self.skipped, self.modality.noun)
        if not given:
            raise UserError(f"nothing to {self.verb}: none of the {self.modality.noun} can be read")

    def _read(self) -> Iterator[tuple[Iterator[Batch], Callable[[np.ndarray], list[str]]]]:
        """(batches in order, what names their samples) of the store that a run has packed of this data, else of every part, decoded now."""
        if store := packed(self.source, self.modality, self.layout):
            loader = Loader(store, np.arange(len(store)), self.batch_size, seed=0, drop_last=False, shuffle=False)
            yield loader.batches(0), store.names
            self.skipped += [skipped for skipped in store.skipped if skipped not in self.skipped]
            return
        for part in self.source.parts.values():
            stream = Stream(part, self.modality, self.layout, self.batch_size, seed=0, drop_last=False, shuffle=False, tell=warn)
            yield stream.batches(0), stream.names
            self.skipped += list(stream.skipped.items())


def write_vectors(embedder: Embedder, out: Path) -> int:
    """The vectors to .parquet (columns name, vector) or .npy (N, width); written whole or not at all. Returns N."""
    writers = {".parquet": _to_parquet, ".npy": _to_npy}
    check_ending(out, tuple(writers))
    return write_file(out, lambda partial: writers[out.suffix](embedder, partial))


def check_ending(out: Path, endings: tuple[str, ...]) -> None:
    if out.suffix not in endings:
        raise UserError(f"{out}: the ending says the format; {' and '.join(endings)} are known")


def write_file(out: Path, write: Callable[[Path], int]) -> int:
    """What `write` writes into the path that it is given, and says the rows of: at `out`, whole or not at all."""
    make_room(out)
    with whole(out) as partial:
        return write(partial)


def _to_parquet(embedder: Embedder, path: Path) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    width: Any = embedder.encoder.width
    schema = pa.schema([("name", pa.string()), ("vector", pa.list_(pa.float32(), width))])
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for names, vectors in embedder:
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)
            writer.write_table(pa.table([pa.array(names), column], schema=schema))
            count += len(vectors)
    return count


def _to_npy(embedder: Embedder, path: Path) -> int:
    """The header is written first with room for the count, which is known at the end."""
    count, width = 0, embedder.encoder.width
    with open(path, "wb") as file:
        file.write(b"\0" * 128)
        for _, vectors in embedder:
            file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
            count += len(vectors)
        said = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, {width}), }}".encode()
        file.seek(0)
        file.write(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + said.ljust(117) + b"\n")
    return count
