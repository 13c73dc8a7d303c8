"""A ragged column as one stream of concatenated documents, split into samples of equal length."""

from __future__ import annotations

import numpy as np

from untaught.data.store import Store


class Runs:
    """Samples of `length` values of a field, from the given rows (n,) of a store, in order. Consecutive samples overlap by one value, so
    that every value except the first is a next-token target once. `gather` and `names` are as in `Store`."""

    def __init__(self, store: Store, field: str, rows: np.ndarray, length: int) -> None:
        self.store, self.field, self.length = store, field, length
        offsets = store.offsets[field]
        self.rows = np.asarray(rows, np.int64)
        self.starts = offsets[self.rows]
        self.ends = np.cumsum(offsets[self.rows + 1] - self.starts)  # position in the stream at which each row ends

    def __len__(self) -> int:
        return max((int(self.ends[-1]) - 1) // (self.length - 1), 0) if len(self.ends) else 0

    def gather(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Sample numbers (B,) -> the field (B, length)."""
        places = index[:, None] * (self.length - 1) + np.arange(self.length)
        row = np.searchsorted(self.ends, places, side="right")
        before = self.ends[row] - (self.store.offsets[self.field][self.rows[row] + 1] - self.starts[row])
        return {self.field: self.store.columns[self.field][self.starts[row] + places - before]}

    def names(self, index: np.ndarray) -> list[str]:
        """The names of the documents in which the samples begin."""
        return self.store.names(self.rows[np.searchsorted(self.ends, index * (self.length - 1), side="right")])
