"""Embeds new data token by token: the vectors of an encoder's tokens, or of its last feature map, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from untaught.console import say
from untaught.core import Encoder, UserError, View
from untaught.data.column import Growing
from untaught.evaluation.features import encode
from untaught.inference.embed import Embedder, Reading, Vectors, grid_beside, joined, rows_beside, write_file
from untaught.inference.endings import check_ending
from untaught.ops.precision import has_bfloat16
from untaught.pipeline.pretrained import Pretrained
from untaught.storage.atomic import make_room, replacing_all
from untaught.storage.ownership import check_replaceable


class AtPlaces(nn.Module):
    """view -> the vectors of the encoder's tokens, or else of its last map, (B,N,D) in row-major order. In a view with padding, a last
    column is 1 for tokens and 0 for padding.

    `grid`, `width` and `padded` are known after the first batch. Raises UserError for an encoder with neither.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.kind = next((kind for kind in ("tokens", "maps") if kind in encoder.offers), "")
        if not self.kind:
            raise UserError(
                f"{type(encoder).__name__} offers neither tokens nor maps, only pooled vectors; omit --tokens, or choose a run of another "
                "encoder"
            )
        self.grid: tuple[int, ...] = ()
        self.width, self.padded = 0, False

    def forward(self, view: View) -> Tensor:
        features = self.encoder.features(view, want=(self.kind,))
        if self.kind == "maps":
            assert features.maps is not None
            self.grid = tuple(features.maps[-1].shape[2:])
            found, valid = features.maps[-1].flatten(2).transpose(1, 2), None
        else:
            assert features.tokens is not None
            self.grid, found, valid = self.encoder.grid(view), features.tokens, features.valid
        self.width, self.padded = found.shape[2], valid is not None
        return found if valid is None else torch.cat([torch.where(valid.unsqueeze(2), found, 0.0), valid.unsqueeze(2).to(found)], 2)


class TokenEmbedder(Embedder):
    """Yields, batch by batch, an array (n,D) for each sample: one vector per token, without padding."""

    def __init__(self, model: Pretrained, data: Any, columns: dict[str, str] | None = None, batch_size: int = 256) -> None:
        super().__init__(model, data, columns, batch_size)
        self.places = AtPlaces(self.encoder)

    def _encoded(self, reading: Reading) -> Iterator[tuple[np.ndarray, Any]]:
        view = lambda batch: self.view(batch, 0)[0]  # noqa: E731
        bf16 = has_bfloat16(self.device.type)
        for index, found in encode(self.places, reading.batches, view, self.device, bf16, reading.names):
            yield index, [one[one[:, -1] > 0, :-1] for one in found] if self.places.padded else found

    @property
    def shape(self) -> str:
        """Of a sample's vectors, for messages; after the first batch."""
        places = "tokens of each sample" if self.places.padded else " x ".join(map(str, self.places.grid))
        return f"{places}, vectors of {self.places.width}"


def tokens_of(embedder: TokenEmbedder) -> Vectors:
    """All vectors in memory (N, h*w, D), with their grid (h,w). Raises UserError for samples of different lengths."""
    parts = []
    for batch in embedder:
        _check_even(embedder)
        parts.append(batch)
    return joined(parts, embedder.places.grid)


def write_tokens(embedder: TokenEmbedder, out: Path) -> int:
    """Writes .parquet (row, name, tokens: a list of vectors; the grid in the schema's metadata) or .npy (N, h*w, D) plus `rows_beside` and
    `grid_beside`, atomically. Returns N. Raises UserError for .npy of samples of different lengths."""
    check_ending(out, (".parquet", ".npy"))
    beside = ""
    if out.suffix == ".parquet":
        count = write_file(out, partial(_to_parquet, embedder))
    else:
        make_room(out)
        files = out, rows_beside(out), grid_beside(out)
        for path in files:
            check_replaceable(path, "choose another --out")
        with replacing_all(*files) as paths:
            count = _to_npy(embedder, *paths)
        beside = f", their row indices to {rows_beside(out)}, the grid to {grid_beside(out)}"
    say(f"wrote     {count:,} samples ({embedder.shape}) to {out}{beside}")
    return count


def _to_parquet(embedder: TokenEmbedder, path: Path) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    count, writer = 0, None
    try:
        for rows, names, batch in embedder:
            places, lengths = embedder.places, [len(one) for one in batch]
            if writer is None:
                about = {} if places.padded else {"grid": json.dumps(places.grid)}
                kind = pa.list_(pa.list_(pa.float32(), places.width))
                schema = pa.schema([("row", pa.int64()), ("name", pa.string()), ("tokens", kind)], metadata=about)
                writer = parquet.ParquetWriter(path, schema)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(batch).ravel()), places.width)
            column = pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths]), pa.int32()), vectors)
            writer.write_table(pa.table([pa.array(rows), pa.array(names), column], schema=writer.schema))
            count += len(rows)
    finally:
        if writer is not None:
            writer.close()
    return count


def _to_npy(embedder: TokenEmbedder, path: Path, beside: Path, grid: Path) -> int:
    vectors: Growing | None = None
    numbers = Growing(beside, np.dtype("<i8"), ())
    with closing(numbers.file):
        try:
            for rows, _, batch in embedder:
                _check_even(embedder)
                if vectors is None:
                    vectors = Growing(path, np.dtype("<f4"), batch.shape[1:])
                vectors.append(batch)
                numbers.append(rows)
            assert vectors is not None  # an embedder of nothing raises
            vectors.finish()
            numbers.finish()
        finally:
            if vectors is not None:
                vectors.file.close()
    grid.write_text(json.dumps({"grid": embedder.places.grid, "width": embedder.places.width}), "utf-8")
    return numbers.rows


def _check_even(embedder: TokenEmbedder) -> None:
    if embedder.places.padded:
        raise UserError(f"{embedder.modality.noun} may differ in their number of tokens, which .npy can't hold; give out=FILE.parquet")
