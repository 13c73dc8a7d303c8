"""Cosine losses between predictions and targets, without negatives."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
