"""A contrastive loss with negatives sampled from the same sequence. Baevski et al. 2020, section 3.2, https://arxiv.org/abs/2006.11477"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.ops.masking import masked_mean


def other_places(unit: Tensor, count: Tensor) -> Tensor:
    """unit (B,M,K) uniform in [0,1), count (B,) <= M -> (B,M,K) int64: for each place K of the first `count`, with repetition, never the
    place itself. Meaningless for m >= count, and if count is 1."""
    own = torch.arange(unit.shape[1], device=unit.device).view(1, -1, 1)
    drawn = (unit * (count.view(-1, 1, 1) - 1)).floor().long()
    return (drawn + (drawn >= own)).clamp(max=unit.shape[1] - 1)


def sampled_info_nce(
    predicted: Tensor, target: Tensor, negatives: Tensor, counted: Tensor, temperature: float, excluded: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """predicted, target (B,M,E), normalised here; negatives (B,M,K), places in the same sequence; counted (B,M) bool -> two scalars: the
    mean of -log softmax of the cosines / temperature at the own target, among it and the negatives (equation 3); and the share of counted
    places where no negative is as near as the own target.

    excluded (B,M,M) bool: places (second axis) that are left out as negatives of a place (first axis).
    """
    with torch.autocast(predicted.device.type, enabled=False):
        predicted, target = F.normalize(predicted.float(), dim=-1), F.normalize(target.float(), dim=-1)
        scores = predicted @ target.mT / temperature  # (B,M,M)
        own = scores.diagonal(dim1=1, dim2=2).unsqueeze(2)
        if excluded is not None:
            scores = scores.masked_fill(excluded, -torch.inf)
        others = scores.gather(2, negatives)
        losses = torch.cat([own, others], 2).logsumexp(2) - own.squeeze(2)
        right = own.detach().squeeze(2) > others.detach().amax(2)
        return masked_mean(torch.where(counted, losses, 0.0), counted), masked_mean(right.float(), counted)
