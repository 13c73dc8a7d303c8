"""A ragged column read as one stream: documents behind each other, cut into samples of equal length."""

from __future__ import annotations

import numpy as np

from untaught.data.store import Store


class Runs:
    """Samples of `length` values of the field, of the chosen rows (n,) of a store in their order; each begins with the last value of
    the one before, so that every value but the first is once behind another. `gather` and `names` are as a store's."""

    def __init__(self, store: Store, field: str, rows: np.ndarray, length: int) -> None:
        self.store, self.field, self.length = store, field, length
        offsets = store.offsets[field]
        self.rows = np.asarray(rows, np.int64)
        self.starts = offsets[self.rows]
        self.ends = np.cumsum(offsets[self.rows + 1] - self.starts)  # of each row in the stream

    def __len__(self) -> int:
        return max((int(self.ends[-1]) - 1) // (self.length - 1), 0) if len(self.ends) else 0

    def gather(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Samples by number (B,) -> the field (B, length)."""
        places = index[:, None] * (self.length - 1) + np.arange(self.length)
        row = np.searchsorted(self.ends, places, side="right")
        before = self.ends[row] - (self.store.offsets[self.field][self.rows[row] + 1] - self.starts[row])
        return {self.field: self.store.columns[self.field][self.starts[row] + places - before]}

    def names(self, index: np.ndarray) -> list[str]:
        """The names of the documents that they begin in."""
        return self.store.names(self.rows[np.searchsorted(self.ends, index * (self.length - 1), side="right")])
