"""Discrete units of continuous features, by k-means."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from untaught.core import UserError
from untaught.ops.kmeans import kmeans, nearest


class Units(nn.Module):
    """`count` clusters of features (..., inside), which are standardised first."""

    mean: Tensor  # (inside,)
    deviation: Tensor
    centroids: Tensor  # (count, inside)

    def __init__(self, inside: int, count: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inside))
        self.register_buffer("deviation", torch.ones(inside))
        self.register_buffer("centroids", torch.zeros(count, inside))

    def fit(self, rows: Tensor, iterations: int, seed: int) -> None:
        """Clusters rows (N, inside), beginning with some of them. Raises UserError if there are fewer rows than clusters."""
        count = len(self.centroids)
        if len(rows) < count:
            raise UserError(f"{count} units: the recordings have only {len(rows)} frames to cluster; give fewer units")
        self.mean.copy_(rows.mean(0))
        self.deviation.copy_(rows.std(0, correction=0).clamp(min=1e-5))
        rows = (rows.to(self.mean) - self.mean) / self.deviation
        start = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:count]
        self.centroids.copy_(kmeans(rows, rows[start.to(rows.device)], iterations))

    def nearest(self, x: Tensor) -> Tensor:
        """x (..., inside) -> the number of the nearest centroid (...)."""
        return nearest((x.float() - self.mean) / self.deviation, self.centroids)
