"""Segmentation without labels: k-means on the vectors of all places of a data set, its clusters matched to the classes of the masks.

The protocol of IIC (Ji, Henriques, Vedaldi, ICCV 2019, https://arxiv.org/abs/1807.06653) and PiCIE (Cho, Mall, Bala, Hariharan, CVPR 2021,
https://arxiv.org/abs/2103.17070): as many clusters as classes, matched one to one so that pixel accuracy is highest (Kuhn 1955).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from untaught.ops.kmeans import spherical_kmeans

SEEDS = 5
ITERATIONS = 30
FITTED = 50_000  # vectors that the centroids are fitted on, at most


def kmeans_segmentation(vectors: np.ndarray, grid: tuple[int, int], truth: np.ndarray, classes: int, ignored: int) -> list[np.ndarray]:
    """vectors (N, h*w, D) of the places of N images in row-major order, truth (N,H,W) class numbers, `ignored` where not scored -> for
    each seed the confusion matrices (N, classes, classes), pixels by true class and matched cluster.

    k-means is spherical, on vectors from which the mean over the data set is subtracted. Its result is upsampled to the masks (nearest).
    """
    images, places = vectors.shape[:2]
    points = torch.from_numpy(vectors.reshape(images * places, -1)).float()
    points = F.normalize(points - points.mean(0))
    outcomes = []
    for seed in range(SEEDS):
        draws = torch.Generator().manual_seed(seed)
        few = points[torch.randperm(len(points), generator=draws)[:FITTED]]
        centroids, _ = spherical_kmeans(few, _spread(few, classes, draws), ITERATIONS)
        clusters = (points @ centroids.T).argmax(1).view(images, 1, *grid)
        at_pixels = F.interpolate(clusters.float(), truth.shape[1:], mode="nearest-exact").long()[:, 0].numpy()
        counts = confusion(truth, at_pixels, classes, ignored)
        order = np.empty(classes, np.int64)  # class -> its cluster
        rows, columns = linear_sum_assignment(counts.sum(0), maximize=True)
        order[rows] = columns
        outcomes.append(counts[:, :, order])
    return outcomes


def confusion(truth: np.ndarray, found: np.ndarray, classes: int, ignored: int) -> np.ndarray:
    """truth, found (N,H,W) -> (N, classes, classes): pixels by true class and found number, without ignored ones."""
    pairs = truth.astype(np.int64) * classes + found
    return np.stack(
        [
            np.bincount(pair[mask != ignored], minlength=classes**2).reshape(classes, classes)
            for pair, mask in zip(pairs, truth, strict=True)
        ]
    )


def _spread(points: torch.Tensor, count: int, draws: torch.Generator) -> torch.Tensor:
    """Initial centroids (count,D), each drawn in proportion to its squared distance from those before it: k-means++."""
    chosen = [points[int(torch.randint(len(points), (), generator=draws))]]
    for _ in range(count - 1):
        nearest = (points @ torch.stack(chosen).T).amax(1)
        chosen.append(points[int(torch.multinomial((1 - nearest).clamp(min=1e-9), 1, generator=draws))])
    return torch.stack(chosen)
