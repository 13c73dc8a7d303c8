"""Splitting a batch into groups, for statistics or comparisons within fewer samples."""

from __future__ import annotations

from torch import Tensor


def groups(x: Tensor, size: int) -> Tensor:
    """x (B,...) -> (G, B/G, ...): as many equal groups as possible with at least `size` samples each.

    A group takes every G-th sample. With sample i of the joint batch on process i % world, the groups are therefore the same for any
    number of processes that divides G, without gathering.
    """
    rows = len(x)
    count = next((count for count in range(rows // size, 1, -1) if rows % count == 0), 1)
    return x.unflatten(0, (-1, count)).transpose(0, 1)
