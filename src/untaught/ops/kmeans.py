"""Spherical k-means: vectors of length 1, nearest by cosine. Dhillon, Modha 2001, https://doi.org/10.1023/A:1007612920971"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PART = 1 << 24  # similarities that are held at once
NOWHERE = -100  # the cluster of a sample that none was found for, which the loss leaves out


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


def centroid_cross_entropy(z: Tensor, centroids: Tensor, clusters: Tensor, temperature: float = 0.1) -> Tensor:
    """DeepCluster-v2's loss. Caron, Misra, Mairal, Goyal, Bojanowski, Joulin 2020, appendix, https://arxiv.org/abs/2006.09882

    z (B,D), centroids (H,K,D) of H clusterings, all of length 1; clusters (H,B) int64, of each sample in each clustering (-100: none,
    left out) -> a scalar: the cross-entropy of the cluster given the cosines over the temperature, averaged over both.
    """
    with torch.autocast(z.device.type, enabled=False):
        scores = (z @ centroids.flatten(0, 1).T / temperature).unflatten(1, centroids.shape[:2])
    return F.cross_entropy(scores.flatten(0, 1), clusters.T.flatten(), ignore_index=NOWHERE)
