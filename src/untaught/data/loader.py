"""Shuffled batches of a store: one gather per field, prefetched in a thread, or done on the device if the whole store fits there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from untaught.core import UserError
from untaught.data.decoding import prefetch
from untaught.data.runs import Runs
from untaught.data.store import Store

HELD = 0.25  # share of a device's free memory that a store's columns may occupy


class Loader:
    """Batches of the given rows (n,). `batch_size` is global; each rank yields its share of every batch.

    The order depends only on (seed, epoch), so (epoch, step) is the complete state. held: the store's columns on a device (see `hold`),
    from which the same batches are then gathered.
    """

    def __init__(
        self,
        store: Store | Runs,
        rows: np.ndarray,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        pin: bool = False,
        drop_last: bool = True,
        shuffle: bool = True,
        held: dict[str, Tensor] | None = None,
    ) -> None:
        check_batch(batch_size, len(rows), world, drop_last)
        self.store, self.rows, self.batch_size, self.seed = store, np.asarray(rows, np.int64), batch_size, seed
        self.rank, self.world, self.pin, self.shuffle, self.held = rank, world, pin, shuffle, held
        self.steps_per_epoch = len(rows) // batch_size if drop_last else -(-len(rows) // batch_size)

    def batches(self, epoch: int, step: int = 0) -> Iterator[dict[str, Tensor]]:
        """The epoch's batches from `step` on: each field (B, ...) and "index" (B,), the row numbers in the store."""
        return prefetch(self._make(epoch, step))

    def first_batch(self) -> dict[str, Tensor]:
        """The global first batch of epoch 0, on the CPU."""
        index = self._order(0)[: self.batch_size]
        return to_tensors({**self.store.gather(index), "index": index}, pin=False)

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.rows) if self.shuffle else self.rows

    def _make(self, epoch: int, step: int) -> Iterator[dict[str, Tensor]]:
        order = self._order(epoch)
        for start in range(step * self.batch_size, self.steps_per_epoch * self.batch_size, self.batch_size):
            index = order[start : start + self.batch_size][self.rank :: self.world]
            if self.held is None:
                yield to_tensors({**self.store.gather(index), "index": index}, self.pin)
            else:
                at = torch.from_numpy(index).to(next(iter(self.held.values())).device)
                yield {**{name: column[at] for name, column in self.held.items()}, "index": at}


def hold(store: Store, device: torch.device) -> dict[str, Tensor] | None:
    """A store's columns, copied to a device; None if they are too large or can't be gathered there."""
    gatherable = not store.offsets and all(c.dtype.kind in "ifb" or c.dtype == np.uint8 for c in store.columns.values())
    if not gatherable or sum(column.nbytes for column in store.columns.values()) > room(device):
        return None
    return {name: torch.from_numpy(np.array(column)).to(device) for name, column in store.columns.items()}


def room(device: torch.device) -> float:
    """Bytes that may be held on a device; 0 on the CPU, where the store is already memory-mapped."""
    return HELD * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def to_tensors(arrays: dict[str, np.ndarray], pin: bool) -> dict[str, Tensor]:
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {name: tensor.pin_memory() for name, tensor in batch.items()} if pin else batch


def check_batch(batch_size: int, rows: int | None, world: int, drop_last: bool) -> None:
    if batch_size < 1 or batch_size % world:
        raise UserError(f"batch_size {batch_size}: must be a positive multiple of the {world} processes")
    if rows is not None and drop_last and batch_size > rows:
        raise UserError(f"batch_size {batch_size:,} is larger than the data: {rows:,} rows; choose at most {rows:,}, or give more data")
