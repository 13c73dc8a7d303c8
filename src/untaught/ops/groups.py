"""A batch in groups, for statistics or comparisons of fewer samples than the batch has."""

from __future__ import annotations

from torch import Tensor


def groups(x: Tensor, size: int) -> Tensor:
    """x (B,...) -> (G, B/G, ...): as many equal groups as have `size` samples or more each.

    A group takes every G-th sample. So with sample i of the joined batch on process i % world, the groups are the same for any
    number of processes that divides G, and nothing needs to be gathered.
    """
    rows = len(x)
    count = next((count for count in range(rows // size, 1, -1) if rows % count == 0), 1)
    return x.unflatten(0, (-1, count)).transpose(0, 1)
