"""One column of a store: an appendable `.npy` file, fixed-shape or ragged, and padding of ragged rows."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from untaught.data.checksum import digest_of_npy, feed


class Growing:
    """An appendable `.npy` file. The header is written last, when the number of rows is known.

    rows: number of rows already in the file, with the given `digest`; anything after them is truncated. Raises ValueError if they are
    missing or different.
    """

    def __init__(self, path: Path, dtype: np.dtype, shape: tuple[int, ...], rows: int = 0, digest: str | None = None) -> None:
        self.path, self.dtype, self.shape, self.rows = path, dtype, shape, rows
        self.file = path.open("r+b" if rows else "w+b")
        self._header()
        size = rows * dtype.itemsize * math.prod(shape)
        self.values = feed(xxhash.xxh3_64(), self.file, size)
        if self.file.tell() < len(self.header) + size or digest not in (None, self.digest):
            self.file.close()
            raise ValueError(f"{path.name} has fewer than {rows} rows, or different ones")
        self.file.truncate()

    def append(self, values: np.ndarray) -> None:
        """values (n, *shape)."""
        self.rows += len(values)
        if values.size:
            written = np.ascontiguousarray(values).data.cast("B")
            self.file.write(written)
            self.values.update(written)

    @property
    def digest(self) -> str:
        """Digest of the values so far."""
        return self.values.hexdigest()

    @property
    def checksum(self) -> str:
        """Digest of the finished file."""
        return digest_of_npy(self.header, self.values)

    def save(self) -> None:
        """Flushes to disk (fsync)."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def finish(self) -> None:
        self.file.seek(0)
        self._header()

    def _header(self) -> None:
        # numpy reserves space for the first axis to grow, so the final header has the same length.
        described = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.rows, *self.shape)}
        described_in = io.BytesIO()
        np.lib.format.write_array_header_1_0(described_in, described)
        self.header = described_in.getvalue()
        self.file.write(self.header)
        self.file.flush()


class Column:
    """Rows of one dtype and shape, (T, ...) each if `ragged`: their values, and the offset at which each row ends.

    begun: `state` when the folder was last saved; rows appended since are discarded.
    """

    def __init__(self, folder: Path, name: str, ragged: bool, begun: dict[str, Any] | None = None) -> None:
        self.folder, self.name, self.ragged = folder, name, ragged
        self.values: Growing | None = None
        self.offsets: Growing | None = None
        if begun:
            self._open(np.dtype(begun["dtype"]), tuple(begun["shape"]), begun["values"], begun["rows"], begun["digests"])

    @property
    def files(self) -> list[Growing]:
        return [file for file in (self.values, self.offsets) if file is not None]

    @property
    def state(self) -> dict[str, Any]:
        assert self.values is not None
        rows = self.values.rows if self.offsets is None else self.offsets.rows - 1
        digests = [file.digest for file in self.files]
        return {"dtype": str(self.values.dtype), "shape": self.values.shape, "values": self.values.rows, "rows": rows, "digests": digests}

    def misfit(self, array: np.ndarray) -> str | None:
        """Why an array does not fit this column, or None."""
        shape = array.shape[1:] if self.ragged else array.shape
        if self.values is None:
            self._open(array.dtype, shape)
        assert self.values is not None
        if (array.dtype, shape) == (self.values.dtype, self.values.shape):
            return None
        expected = self.values.dtype, (*("T" * self.ragged), *self.values.shape)
        return f"its {self.name} is {array.dtype} {array.shape}, the others are {expected[0]} {expected[1]}"

    def append(self, arrays: Sequence[np.ndarray] | np.ndarray) -> None:
        """Appends rows, given as a list or as one array."""
        if not len(arrays):
            return
        self.misfit(arrays[0])
        assert self.values is not None
        if self.offsets is not None:
            self.offsets.append(self.values.rows + np.cumsum([len(array) for array in arrays], dtype=np.int64))
        self.values.append(np.concatenate(arrays) if self.ragged else arrays if isinstance(arrays, np.ndarray) else np.stack(arrays))

    def _open(self, dtype: np.dtype, shape: tuple[int, ...], values: int = 0, rows: int = 0, digests: Sequence[str] = ()) -> None:
        self.values = Growing(self.folder / f"{self.name}.npy", dtype, shape, values, *digests[:1])
        if self.ragged:
            offsets = self.folder / f"{self.name}.offsets.npy"
            self.offsets = Growing(offsets, np.dtype(np.int64), (), rows + 1 if rows else 0, *digests[1:])
            if not rows:
                self.offsets.append(np.zeros(1, np.int64))


def pad(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """values (total, ...), starts (B,), lengths (B,) -> rows (B, longest, ...) padded with zeros, valid (B, longest) bool."""
    places = np.arange(max(1, int(lengths.max(initial=1))))
    valid = places < lengths[:, None]
    rows = np.zeros((*valid.shape, *values.shape[1:]), values.dtype)
    for row, start, length in zip(rows, starts.tolist(), lengths.tolist(), strict=True):  # an index of every value would be larger
        row[:length] = values[start : start + length]
    return rows, valid
