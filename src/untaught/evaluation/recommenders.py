"""Classical recommenders, as baselines: popularity, recent popularity, item-kNN and EASE. Each scores all items from a user's history.

All are fitted on a sparse matrix X (U,V) of training events, 1 where a user has an item. A score of an item that is in the history
itself is meaningless: those are filtered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

History = Any  # a scipy csr_matrix (B,V), 1 where a user has an item
Score = Callable[[History], np.ndarray]  # -> (B,V)
NEIGHBOURS = (20, 50, 100, 200)
PENALTIES = (30.0, 100.0, 300.0, 1000.0)
RECENT = (0.02, 0.05, 0.1, 0.25)
CHUNK = 1 << 24  # similarities in memory at once
COMPARED = 1 << 15  # items up to which item-kNN compares each with all
NUMBERS = 1 << 28  # EASE's eigenvectors, 2 GB
LARGEST = 6000  # users or items, whichever are fewer, of which EASE's eigenvectors are computed


def popularity(counts: np.ndarray) -> Score:
    """The number of training events of each item, counts (V,), for every user."""
    return lambda history: np.broadcast_to(counts.astype(np.float32), (history.shape[0], len(counts)))


def recent_popularity(items: np.ndarray, times: np.ndarray, share: float, size: int) -> Score:
    """Popularity among the latest `share` of all training events; items, times (n,)."""
    latest = np.argsort(times, kind="stable")[len(items) - max(1, round(share * len(items))) :]
    return popularity(np.bincount(items[latest], minlength=size))


class ItemNeighbours:
    """Item-kNN: the sum of the cosines between an item and those of the history that are among its k nearest.

    Sarwar et al. 2001, section 3.1 and 3.2, https://doi.org/10.1145/371920.372071, on columns of 0 and 1.
    """

    def __init__(self, x: History, most: int = max(NEIGHBOURS)) -> None:
        size = x.shape[1]
        norms = np.sqrt(np.asarray(x.multiply(x).sum(0)).ravel())
        self.size, most = size, min(most, size)
        self.near, self.cosine = np.zeros((size, most), np.int32), np.zeros((size, most), np.float32)
        wide = max(1, CHUNK // size)
        for start in range(0, size, wide):
            places = np.arange(start, min(start + wide, size))
            found = np.asarray((x.T @ x[:, places]).todense(), np.float32).T  # (chunk, V)
            found /= np.maximum(norms[places, None] * norms, 1e-12)
            found[np.arange(len(places)), places] = 0
            order = np.argsort(-found, axis=1, kind="stable")[:, :most]
            self.near[places], self.cosine[places] = order, np.take_along_axis(found, order, 1)

    def scores(self, neighbours: int) -> Score:
        near, cosine = self.near[:, :neighbours], self.cosine[:, :neighbours]
        rows = np.repeat(np.arange(self.size), near.shape[1])
        weights = sparse.csr_matrix((cosine.ravel(), (near.ravel(), rows)), (self.size, self.size))  # (history item, scored item)
        return lambda history: np.asarray((history @ weights).todense(), np.float32)


class EASE:
    """A linear autoencoder of histories without its diagonal, in closed form. Steck, WWW 2019, https://arxiv.org/abs/1905.03375

    P = (X^T X + penalty I)^-1; the weights are B = I - P / diag(P) by columns (equation 8), the scores of a history h (1,V) are h B.
    With the singular vectors R (V,R) and values s of X, P = (I - R w R^T) / penalty where w = s^2 / (s^2 + penalty); so for an item that
    is not in the history, its score is (h R w R^T) / (1 - diag(R w R^T)), for any penalty without another inverse.
    """

    def __init__(self, x: History) -> None:
        users, items = x.shape
        dense = np.asarray((x @ x.T if users < items else x.T @ x).todense(), np.float64)
        values, vectors = np.linalg.eigh(dense)
        kept = values > 1e-9 * max(values[-1], 1.0)
        self.squares, vectors = values[kept], vectors[:, kept]
        right = (x.T @ vectors) / np.sqrt(self.squares) if users < items else vectors
        self.right = np.asarray(right, np.float64)

    def scores(self, penalty: float) -> Score:
        weights = self.squares / (self.squares + penalty)
        rest = 1 - (self.right**2 @ weights)
        return lambda history: (((history @ self.right) * weights) @ self.right.T / rest).astype(np.float32)
