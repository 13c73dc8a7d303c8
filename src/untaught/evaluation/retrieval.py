"""Cross-modal retrieval: how often the match of a query is among its k nearest candidates, in both directions.

Recall@k as on Flickr30k and COCO (Karpathy, Fei-Fei 2015, section 4.1, https://arxiv.org/abs/1412.2306): for an
image with several captions, one of them is enough.
"""

from __future__ import annotations

from math import comb

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.evaluation.interval import Measured, Row, measure, row, wilson

KS = (1, 5, 10)
CHUNK = 1 << 24  # similarities in memory at once: 64 MiB in float32


def ranks(queries: Tensor, candidates: Tensor, query_of: Tensor, candidate_of: Tensor) -> Tensor:
    """Rank of each query's nearest correct candidate: the number of wrong candidates at least as near, by cosine -> (Q,) int.

    queries (Q,D), candidates (C,D); query_of (Q,), candidate_of (C,): the pair index of each. A query without a correct candidate
    has rank C. Ties count against the query, so identical vectors give recall 0.
    """
    queries, candidates = F.normalize(queries.float(), dim=1), F.normalize(candidates.float(), dim=1)
    found = []
    height = max(1, CHUNK // max(len(candidates), 1))
    for start in range(0, len(queries), height):
        cosine = queries[start : start + height] @ candidates.T
        right = query_of[start : start + height, None] == candidate_of
        best = cosine.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        found.append(((cosine >= best) & ~right).sum(1) + (~right.any(1)) * right.sum(1))
    return torch.cat(found)


def outcomes(a: Tensor, b: Tensor, a_of: Tensor, b_of: Tensor, ks: tuple[int, ...] = KS) -> np.ndarray:
    """Hits per pair in both directions, the input of `recalls`: (P, 2, 1 + len(ks)), number of queries of a pair and their hits at each k.

    a (A,D), b (B,D): vectors in the shared space; a_of (A,), b_of (B,): the pair index of each, any integers.
    """
    pairs, places = torch.cat([a_of, b_of]).unique(return_inverse=True)
    ways = ((a, b, places[: len(a)], places[len(a) :]), (b, a, places[len(a) :], places[: len(a)]))
    result = np.zeros((len(pairs), 2, 1 + len(ks)))
    for way, (queries, candidates, of, candidate_of) in enumerate(ways):
        rank = ranks(queries, candidates, of, candidate_of)
        hits = torch.stack([torch.ones_like(rank), *(rank < k for k in ks)], 1).double()
        result[:, way] = torch.zeros(len(pairs), 1 + len(ks), dtype=torch.double).index_add_(0, of, hits).numpy()
    return result


def recalls(outcome: np.ndarray, names: tuple[str, str], ks: tuple[int, ...] = KS) -> dict[str, float]:
    """Recall by metric name, e.g. "image_to_text_recall@5", from `outcomes`."""
    ways = {f"{a}_to_{b}": outcome[:, way].sum(0) for way, (a, b) in enumerate((names, names[::-1]))}
    return {f"{way}_recall@{k}": float(total[1 + i] / max(total[0], 1)) for way, total in ways.items() for i, k in enumerate(ks)}


def measured(outcome: np.ndarray, names: tuple[str, str]) -> dict[str, Measured]:
    """`recalls` with intervals over pairs; results of two encoders on the same pairs can be subtracted."""
    return measure(lambda drawn: recalls(drawn, names), [outcome], (0.0, 1.0))


def chance(a_of: Tensor, b_of: Tensor, names: tuple[str, str], ks: tuple[int, ...] = KS) -> dict[str, float]:
    """Expected recall of a random order, in closed form."""
    result = {}
    for (query, candidate), queries, candidates in ((names, a_of, b_of), (names[::-1], b_of, a_of)):
        total = len(candidates)
        right = (queries[:, None] == candidates).sum(1).tolist()
        for k in ks:
            missed = [comb(total - count, min(k, total)) / comb(total, min(k, total)) for count in right]
            result[f"{query}_to_{candidate}_recall@{k}"] = 1 - sum(missed) / max(len(missed), 1)
    return result


def recall_rows(found: dict[str, Measured], pairs: int) -> list[Row]:
    """Rows of evaluation.json, without "features". If all or none are found, the bootstrap has no variance: Wilson's interval is used."""
    rows = []
    for metric, one in found.items():
        low, high = one.interval if one.resampled.std() > 0 else wilson(one.mean, pairs)
        rows.append(row("retrieval", "none", metric, one.mean, min(low, one.mean), max(high, one.mean), 1))
    return rows
