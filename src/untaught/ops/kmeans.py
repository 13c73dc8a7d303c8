"""Spherical k-means: vectors of length 1, nearest by cosine. Dhillon, Modha 2001, https://doi.org/10.1023/A:1007612920971"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PART = 1 << 24  # similarities that are held at once


@torch.no_grad()
def spherical_kmeans(x: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """x (N,D) and first centroids (K,D), all of length 1 -> the centroids after `iterations`, and each row's nearest (N,) int64.

    x may lie on another device, or in a file: it is read in parts. A centroid that no row is nearest to stays where it is.
    """
    nearest = [x.new_zeros(0, dtype=torch.long)]
    for i in range(iterations + 1):
        nearest, sums = [], torch.zeros_like(centroids)
        for part in x.split(max(1, PART // len(centroids))):
            part = part.to(centroids)
            nearest.append((part @ centroids.T).argmax(1))
            if i < iterations:  # a product, which gives the same on every process; index_add does not on a GPU
                sums += F.one_hot(nearest[-1], len(centroids)).to(part).T @ part
        if i < iterations:
            centroids = torch.where(sums.any(1, keepdim=True), F.normalize(sums), centroids)
    return centroids, torch.cat(nearest)
