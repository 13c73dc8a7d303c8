"""Every window of the series in a store, as samples: `context` time steps, and the `horizon` steps behind them."""

from __future__ import annotations

import numpy as np

from untaught.core import Options
from untaught.data.store import Store
from untaught.data.target import TARGET

FUTURE = f"{TARGET}future"  # of a batch of windows: (B,horizon,C)


class Windows:
    """The samples of a store with one ragged column (T,C): window i of a series begins at its step i; the next series' follow."""

    def __init__(self, store: Store, context: int, horizon: int) -> None:
        self.store, self.context, self.horizon = store, context, horizon
        ((self.field, self.offsets),) = store.offsets.items()
        self.named: Options = {}  # what is known of its channels: "names"
        self.lengths = np.diff(self.offsets)
        self.ends = np.maximum(self.lengths - context - horizon + 1, 0).cumsum()

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def places(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Window numbers (B,) -> the row of each in the store, and the first step of its future in that series."""
        row = np.searchsorted(self.ends, index, side="right")
        before = np.concatenate([[0], self.ends])[row]
        return row, index - before + self.context

    def gather(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Window numbers (B,) -> the column (B,context,C) with its validity, and FUTURE (B,horizon,C)."""
        row, future = self.places(index)
        first = self.offsets[row] + future - self.context
        values = self.store.columns[self.field][first[:, None] + np.arange(self.context + self.horizon)]
        valid = np.ones((len(index), self.context), bool)
        return {self.field: values[:, : self.context], f"{self.field}_valid": valid, FUTURE: values[:, self.context :]}

    def names(self, index: np.ndarray) -> list[str]:
        row, future = self.places(index)
        return [f"{name} step {step}" for name, step in zip(self.store.names(row), future.tolist(), strict=True)]

    def in_time(self, ends: tuple[float, float, float]) -> dict[str, np.ndarray]:
        """Window numbers (n,) of train, val and test: those whose future lies before the first end, between the first two, and between the
        last two. An end up to 1 is a share of each series. A context may reach back into the part before, a future into no other."""
        row, future = self.places(np.arange(len(self)))
        first, second, third = (np.floor(end * self.lengths + 1e-9) if end <= 1 else np.full(len(self.lengths), end) for end in ends)
        behind = future + self.horizon
        parts = {
            "train": behind <= first[row],
            "val": (future >= first[row]) & (behind <= second[row]),
            "test": (future >= second[row]) & (behind <= third[row]),
        }
        return {part: np.flatnonzero(chosen) for part, chosen in parts.items()}
