"""Cosine losses between predictions and targets, without negatives."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from untaught.ops.masking import masked_mean


def cosine_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """BYOL's loss. Grill et al. 2020, equation 2, https://arxiv.org/abs/2006.07733

    predicted, target (B,D) -> a scalar: the mean squared distance of the normalised vectors, from 0 to 4. Pass the target without
    gradient, from a teacher.
    """
    return (2 - 2 * F.cosine_similarity(predicted.float(), target.float())).mean()


def negative_cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """SimSiam's loss. Chen, He 2021, equations 1 and 3, https://arxiv.org/abs/2011.10566

    predicted, target (B,D) -> a scalar from -1 to 1; no gradient flows through the target.
    """
    return -F.cosine_similarity(predicted.float(), target.detach().float()).mean()


def next_cosine(predicted: Tensor, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
    """NEPA's loss. Xu et al. 2025, https://arxiv.org/abs/2512.16922

    predicted, tokens (B,N,D), valid (B,N) bool -> a scalar from -1 to 1: minus the mean cosine of each prediction and the next token, over
    pairs of valid tokens; no gradient flows through the tokens.
    """
    similar = F.cosine_similarity(predicted[:, :-1].float(), tokens[:, 1:].detach().float(), dim=2)
    if valid is None:
        return -similar.mean()
    return -masked_mean(similar, valid[:, :-1] & valid[:, 1:])
