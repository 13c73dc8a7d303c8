"""Sets of permutations that are far apart."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

MOST = 9  # elements, at most: all permutations are enumerated, 362,880 for 9


@cache
def distant_permutations(n: int, count: int) -> Tensor:
    """`count` permutations of n elements, greedily chosen for the largest Hamming distance -> (count, n) int64.

    Noroozi, Favaro 2016, algorithm 1, https://arxiv.org/abs/1603.09246: the next permutation is the one with the largest sum of Hamming
    distances to all chosen ones. The first one, and the order in which ties are resolved, are drawn with a fixed seed: the set depends on
    n and count only, and a larger set begins with the smaller one. Raises ValueError unless 2 <= n <= 9 and 1 <= count <= n!.
    """
    if not 2 <= n <= MOST or not 1 <= count <= math.factorial(n):
        raise ValueError(f"n={n} must be from 2 to {MOST}, count={count} from 1 to n!")
    every = np.random.default_rng(0).permutation(all_permutations(n)).T.copy()  # (n, n!), an element's place in all of them in a row
    agreements = np.zeros(every.shape[1], np.int32)  # of each with the chosen ones: the fewer, the farther
    equal = np.empty(every.shape[1], np.int8)
    chosen = np.empty((count, n), np.int64)
    best = 0
    for row in range(count):
        chosen[row] = every[:, best]
        equal[:] = 0  # summed in bytes, which is several times as fast
        for place, element in zip(every, chosen[row], strict=True):
            equal += (place == element).view(np.int8)
        agreements += equal
        agreements[best] = np.iinfo(np.int32).max // 2  # not again
        best = int(agreements.argmin())
    return torch.from_numpy(chosen)


def all_permutations(n: int) -> np.ndarray:
    """-> (n!, n) int8, every permutation of 0 .. n - 1 once."""
    rows = np.zeros((1, 1), np.int8)
    for k in range(1, n):
        rows = np.concatenate([np.insert(rows, place, k, axis=1) for place in range(k + 1)])
    return rows
