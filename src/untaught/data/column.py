"""One column of a store: a `.npy` file that grows, of one shape or ragged, and ragged rows as a padded rectangle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np


class Column:
    """A `.npy` file that grows: values are appended behind a header that is written last, when their number is known."""

    def __init__(self, folder: Path, name: str, ragged: bool) -> None:
        self.path, self.name, self.ragged = folder / f"{name}.npy", name, ragged
        self.file: BinaryIO = self.path.open("wb")
        self.dtype: np.dtype | None = None
        self.shape: tuple[int, ...] = ()  # of a row; of a ragged one without its length
        self.lengths: list[int] = []
        self.rows = 0

    def misfit(self, array: np.ndarray) -> str | None:
        """Why an array is no row of this column."""
        shape = array.shape[1:] if self.ragged else array.shape
        if self.dtype is None:
            self.dtype, self.shape = array.dtype, shape
            self._header()
        if (array.dtype, shape) == (self.dtype, self.shape):
            return None
        return f"its {self.name} is {array.dtype} {array.shape}, others are {self.dtype} {(*('T' * self.ragged), *self.shape)}"

    def append(self, arrays: Sequence[np.ndarray]) -> None:
        if not arrays:
            return
        self.misfit(arrays[0])
        joined = np.concatenate(arrays) if self.ragged else np.stack(arrays)
        if self.ragged:
            self.lengths += map(len, arrays)
        self.rows += len(joined)
        self.file.write(np.ascontiguousarray(joined).data.cast("B") if joined.size else b"")

    def finish(self) -> None:
        self.file.seek(0)
        self._header()
        if self.ragged:
            np.save(self.path.with_name(f"{self.name}.offsets.npy"), np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)]))

    def _header(self) -> None:
        assert self.dtype is not None
        # numpy leaves room for the first axis to grow, so that the final header is as long as the first.
        described = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.rows, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, described)


def pad(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """values (total, ...), starts (B,), lengths (B,) -> rows (B, longest, ...) with zeros behind, valid (B, longest) bool."""
    places = np.arange(max(1, int(lengths.max(initial=1))))
    valid = places < lengths[:, None]
    rows = np.zeros((*valid.shape, *values.shape[1:]), values.dtype)
    rows[valid] = values[(starts[:, None] + places)[valid]]
    return rows, valid
