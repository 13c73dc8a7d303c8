"""Full ranking: the place of a user's next item among all items that the user has not had.

HR@10 is the share of users whose item is among the first ten, NDCG@10 the mean of 1 / log2(1 + place) of those (0 for others), for one
relevant item (Krichene and Rendle 2020, https://doi.org/10.1145/3394486.3403226, on why no negatives are sampled).
"""

from __future__ import annotations

import numpy as np

from untaught.evaluation.interval import Measured, Row, measure, row, wilson

K = 10


def places(scores: np.ndarray, target: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """scores (B,V), target (B,) the next item's number, excluded (B,V) bool: items that are not ranked -> its place from 0 (B,).

    Ties count against it. A target that is excluded itself is missed, however few items there are.
    """
    rows = np.arange(len(scores))
    own = scores[rows, target][:, None]
    before = ((scores >= own) & ~excluded).sum(1) - 1
    return np.where(excluded[rows, target], max(scores.shape[1], K), before)


def gains(place: np.ndarray) -> np.ndarray:
    """place (N,) from 0 -> (N,2): whether it is among the first ten, and its discounted gain."""
    hit = place < K
    return np.stack([hit, np.where(hit, 1 / np.log2(place + 2.0), 0.0)], 1)


def measured(gain: np.ndarray) -> dict[str, Measured]:
    """gain (N,2) -> the means, with intervals over users; those of two rankings of the same users can be subtracted."""
    means = lambda drawn: {f"ndcg@{K}": float(drawn[:, 1].mean()), f"hr@{K}": float(drawn[:, 0].mean())}  # noqa: E731
    return measure(means, [gain], (0.0, 1.0))


def ranking_rows(found: dict[str, Measured], users: int) -> list[Row]:
    """Rows of evaluation.json, without "features". If no user differs, the bootstrap has no variance: Wilson's interval is used."""
    rows = []
    for metric, one in found.items():
        low, high = one.interval if one.resampled.std() > 0 else wilson(one.mean, users)
        rows.append(row("next_item", "none", metric, one.mean, min(low, one.mean), max(high, one.mean), 1))
    return rows
