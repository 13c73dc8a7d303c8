"""A queue of vectors of past batches. He, Fan, Wu, Xie, Girshick 2020, section 3.2, https://arxiv.org/abs/1911.05722"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.ops.gather import world_size


class Queue(nn.Module):
    """`vectors` (size, width); a push replaces the oldest. Initialised with random unit vectors."""

    vectors: Tensor
    oldest: Tensor  # () int64, index of the oldest vector

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("vectors", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """rows (B,width), as returned by `gather`. They are pushed in the order of the joint batch, whose sample i is on process
        i % world, so that the queue is the same for any number of processes."""
        rows = rows.unflatten(0, (world_size(), -1)).transpose(0, 1).flatten(0, 1)[-len(self.vectors) :]
        places = (self.oldest + torch.arange(len(rows), device=rows.device)) % len(self.vectors)
        self.vectors[places] = rows.to(self.vectors.dtype)
        self.oldest.copy_((self.oldest + len(rows)) % len(self.vectors))
