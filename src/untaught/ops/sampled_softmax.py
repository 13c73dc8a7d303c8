"""Cross-entropy over a vocabulary too large for all logits, with sampled negatives and their logQ correction.

Bengio and Senecal 2008, https://doi.org/10.1109/TNN.2007.912312; Yi et al., RecSys 2019, section 3, https://doi.org/10.1145/3298689.3346996
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from untaught.ops.masking import joined_count


def log_uniform(unit: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """unit (K,) uniform in [0,1) -> numbers (K,) int64 below `size`, drawn with P(k) = log((k + 2) / (k + 1)) / log(size + 1), and `size`'s
    log P (size,). For vocabularies in order of falling frequency, this is near Zipf's law."""
    drawn = (unit.double() * math.log(size + 1)).exp().long().sub(1).clamp(0, size - 1)
    number = torch.arange(size, device=unit.device, dtype=torch.float64)
    return drawn, ((number + 2) / (number + 1)).log().div(math.log(size + 1)).log().float()


def sampled_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, counted: Tensor, negatives: Tensor, log_q: Tensor
) -> Tensor:
    """The mean over counted tokens (of all processes) of -log of the target's share among it and the negatives -> a scalar, float32.

    x (N,D), weight (V,D), bias (V,) or None, target, counted (N,), negatives (K,) numbers drawn with replacement, with log-probabilities
    log_q (V,). A negative's logit is lowered by log(K q), so that the sum over negatives estimates that over all other words; negatives
    equal to a token's target are left out for it, and the others' weight grows by 1 / (1 - q(target)) accordingly.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, few = x.float(), weight[negatives].float()
        own = (x * weight[target].float()).sum(1)
        others = x @ few.T
        if bias is not None:
            own, others = own + bias[target].float(), others + bias[negatives].float()
        taken = negatives == target.unsqueeze(1)
        left = (~taken).sum(1, keepdim=True).clamp(min=1).log()  # the number of draws that are not the target
        rest = torch.log1p(-log_q[target].exp()).unsqueeze(1)  # of which each is distributed as q / (1 - q(target))
        others = (others - log_q[negatives] + rest - left).masked_fill(taken, -torch.inf)
        losses = torch.logaddexp(own, others.logsumexp(1)) - own
        return torch.where(counted, losses, 0.0).sum() / joined_count(counted)
