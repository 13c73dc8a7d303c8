"""Sinkhorn-Knopp: soft assignments of samples to prototypes with equal shares. Cuturi 2013, https://arxiv.org/abs/1306.0895"""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.ops.gather import gather

TINY = 1e-30  # lower bound of a prototype's total, against division by zero


@torch.no_grad()
def sinkhorn(scores: Tensor, temperature: float, iterations: int = 3, valid: Tensor | None = None) -> Tensor:
    """scores (B,K) of this process's samples, valid (B,) bool: the samples that count -> (B,K), each row a distribution.

    exp(scores / temperature) is normalised alternately, `iterations` times: equal sums per prototype over the valid samples of all
    processes, then a sum of 1 per sample. Caron et al. 2020, equations 3 to 5.
    """
    with torch.autocast(scores.device.type, enabled=False):
        scores = scores.float() / temperature
        q, total = scores.softmax(1), scores.logsumexp(1)
        counts = torch.ones_like(total) if valid is None else valid.float()
        top = gather(total.where(counts > 0, float("-inf")).max()[None]).max()
        row, column = (total - top).clamp(max=0).exp(), torch.ones_like(q[0])  # exp(scores) = row * q * column, up to a constant
        for _ in range(iterations):
            column = 1 / gather(((row * counts) @ q)[None]).sum(0).clamp(min=TINY)
            row = 1 / (q @ column).clamp(min=TINY)
        q = q * column
        return q / q.sum(1, keepdim=True)
