"""k-means by distance (Lloyd 1982, https://doi.org/10.1109/TIT.1982.1056489) and by cosine, of L2-normalised vectors (Dhillon, Modha 2001,
https://doi.org/10.1023/A:1007612920971)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PART = 1 << 24  # similarities stored at once
NOWHERE = -100  # the cluster number of samples without a cluster, which the loss ignores


@torch.no_grad()
def spherical_kmeans(x: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """x (N,D) and initial centroids (K,D), all L2-normalised -> the centroids after `iterations`, and each row's nearest (N,) int64.

    x may be on another device or memory-mapped: it is read in parts. A centroid without rows stays unchanged.
    """
    nearest = [x.new_zeros(0, dtype=torch.long)]
    for i in range(iterations + 1):
        nearest, sums = [], torch.zeros_like(centroids)
        for part in x.split(max(1, PART // len(centroids))):
            part = part.to(centroids)
            nearest.append((part @ centroids.T).argmax(1))
            if i < iterations:  # a matrix product, deterministic across processes; index_add is not on a GPU
                sums += F.one_hot(nearest[-1], len(centroids)).to(part).T @ part
        if i < iterations:
            centroids = torch.where(sums.any(1, keepdim=True), F.normalize(sums), centroids)
    return centroids, torch.cat(nearest)


@torch.no_grad()
def kmeans(x: Tensor, centroids: Tensor, iterations: int) -> Tensor:
    """x (N,D) and initial centroids (K,D) -> the centroids after `iterations`; one that is nearest to no row stays unchanged."""
    for _ in range(iterations):
        sums, counts = torch.zeros_like(centroids), centroids.new_zeros(len(centroids), 1)
        for part in x.split(max(1, PART // len(centroids))):
            chosen = F.one_hot(nearest(part, centroids), len(centroids)).to(part)
            sums += chosen.T @ part
            counts += chosen.sum(0).unsqueeze(1)
        centroids = torch.where(counts > 0, sums / counts.clamp(min=1), centroids)
    return centroids


def nearest(x: Tensor, centroids: Tensor) -> Tensor:
    """x (...,D), centroids (K,D) -> the number of the nearest centroid (...), by Euclidean distance."""
    with torch.autocast(x.device.type, enabled=False):
        return (x @ centroids.T - centroids.square().sum(1) / 2).argmax(-1)


def centroid_cross_entropy(z: Tensor, centroids: Tensor, clusters: Tensor, temperature: float = 0.1) -> Tensor:
    """DeepCluster-v2's loss. Caron, Misra, Mairal, Goyal, Bojanowski, Joulin 2020, appendix, https://arxiv.org/abs/2006.09882

    z (B,D), centroids (H,K,D) of H clusterings, all L2-normalised; clusters (H,B) int64, of each sample in each clustering (-100:
    ignored) -> a scalar: the cross-entropy of the cluster given the cosines divided by the temperature, averaged over samples and
    clusterings.
    """
    with torch.autocast(z.device.type, enabled=False):
        scores = (z @ centroids.flatten(0, 1).T / temperature).unflatten(1, centroids.shape[:2])
    return F.cross_entropy(scores.flatten(0, 1), clusters.T.flatten(), ignore_index=NOWHERE)
