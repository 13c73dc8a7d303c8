"""TS2Vec's hierarchical contrast of two views of the same time steps. Yue et al., AAAI 2022, section 3.3 and algorithm 1.

https://arxiv.org/abs/2106.10466
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def hierarchical_contrast(a: Tensor, b: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """a, b (B,T,D), the vectors of the same time steps in two views, of which the first `count` (B,) of each sample exist, at least 1
    -> the instance-wise contrast (equation 2) and the temporal one (equation 1), each averaged over the levels of the hierarchy.

    From level to level, time is halved by a maximum over two steps; an odd last step is dropped, and a sample that has come down to one
    step keeps it. The last level is the one at which every sample has one step. Steps that do not exist have no part in anything, and
    every existing step of a level counts alike. Similarities are dot products. Float32 whatever the autocast; memory B x 2T x 2T.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.float(), b.float()
        instance, temporal, levels = a.new_zeros(()), a.new_zeros(()), a.new_zeros(())
        counted = torch.ones_like(levels)  # 1 up to the last level, 0 at those that padding adds
        while True:
            there = torch.arange(a.shape[1], device=a.device) < count.unsqueeze(1)
            instance = instance + counted * _contrast(a.transpose(0, 1), b.transpose(0, 1), there.T)
            temporal = temporal + counted * _contrast(a, b, there)
            levels = levels + counted
            if a.shape[1] == 1:
                return instance / levels, temporal / levels
            counted = counted * (count.max() > 1)
            count = (count // 2).clamp(min=1)
            a, b = _halved(a, there), _halved(b, there)


def _contrast(a: Tensor, b: Tensor, there: Tensor) -> Tensor:
    """a, b (G,N,D), there (G,N) bool -> a scalar: the mean, over what exists, of -log softmax of the similarity with the same place in the
    other view among those with all other places of both views in its group."""
    z, exists = torch.cat([a, b], 1), torch.cat([there, there], 1)
    others = exists.unsqueeze(1) & ~torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
    others = others | ~exists.unsqueeze(2)  # rows that do not count must not be empty either: their gradient would be nan
    total = (z @ z.mT).masked_fill(~others, -torch.inf).logsumexp(2)
    loss = torch.where(exists, total - (a * b).sum(2).repeat(1, 2), 0.0)
    return loss.sum() / exists.sum()


def _halved(x: Tensor, there: Tensor) -> Tensor:
    """x (B,T,D), there (B,T) -> (B, T // 2, D), the maximum over two steps that exist; 0 where neither does."""
    pooled = F.max_pool1d(x.masked_fill(~there.unsqueeze(2), -torch.inf).mT, 2).mT
    return pooled.masked_fill(pooled == -torch.inf, 0.0)
