"""Reconstruction and prediction losses at masked tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.ops.masking import masked_mean


def masked_reconstruction(restored: Tensor, target: Tensor, mask: Tensor, normalise: bool = True, valid: Tensor | None = None) -> Tensor:
    """MAE's loss. He, Chen, Xie, Li, Dollar, Girshick 2022, section 3, https://arxiv.org/abs/2111.06377

    restored, target (B,N,P), the values (pixels) of every token; mask (B,N) bool, the masked tokens -> a scalar: the mean squared
    error at the masked tokens of all processes. normalise: each target token is first standardised to mean 0 and variance 1.
    valid (B,N,P) bool: values that are neither padding nor missing; only these are used for normalisation and error.
    """
    if valid is not None:
        return masked_mean(_error_where(restored.float(), target, valid, normalise), mask & valid.any(-1))
    if normalise:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    return masked_mean((restored.float() - target).square().mean(-1), mask)


def next_tokens_error(predicted: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """The loss of patch-wise autoregression. Das, Kong, Sen, Zhou 2024, section 4, https://arxiv.org/abs/2310.10688

    predicted (B,N,K,P): for each of N tokens, the values of the K tokens behind it; target (B,N,P), the values of every token; valid
    (B,N,P) bool, values that count -> a scalar: the mean squared error over all values of all processes that are forecast and count.
    """
    valid = torch.ones_like(target, dtype=torch.bool) if valid is None else valid
    ahead = predicted.shape[2]
    behind = lambda part: F.pad(part, (0, 0, 0, ahead))[:, 1:].unfold(1, ahead, 1)[:, : target.shape[1]].mT  # noqa: E731
    return masked_mean((predicted.float() - behind(target.float())).square(), behind(valid))


def interpolated_moments(target: Tensor, known: Tensor, grid: tuple[int, ...], valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every token, of unknown ones estimated from the known ones.

    target (B,N,P); known (B,N) bool, in a grid of N places; valid (B,N,P) bool, values that count -> (B,N,1) each, as
    `masked_reconstruction` normalises with. Of an unknown token, mean and log standard deviation are averages over the known ones,
    weighted by the inverse squared distance on the grid; its own values have no effect. If none is known, mean 0 and standard deviation 1.
    """
    valid = torch.ones_like(target, dtype=torch.bool) if valid is None else valid
    target = torch.where(valid & known.unsqueeze(2), target, 0.0)
    count = valid.sum(-1, keepdim=True)
    mean = target.sum(-1, keepdim=True) / count.clamp(min=1)
    away = torch.where(valid, target - mean, 0.0)
    log_std = 0.5 * (away.square().sum(-1, keepdim=True) / (count - 1).clamp(min=1) + 1e-6).log()
    axes = [torch.arange(size, device=target.device, dtype=torch.float32) for size in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)  # (N, axes)
    squared = (places.unsqueeze(1) - places).square().sum(2)
    usable = known & valid.any(2)
    weights = usable.unsqueeze(1) / squared.clamp(min=1)  # no token is both known and unknown, so that distance 0 does not count
    weights = weights / weights.sum(2, keepdim=True).clamp(min=1e-12)
    own = usable.unsqueeze(2)
    return torch.where(own, mean, weights @ mean), torch.where(own, log_std, weights @ log_std).exp()


def masked_l1(restored: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """SimMIM's loss. Xie et al. 2022, section 3.4, https://arxiv.org/abs/2111.09886

    restored, target (B,N,P), the pixels of every patch; mask (B,N) bool, the masked patches -> a scalar: the mean absolute error of the
    masked pixels of all processes.
    """
    return masked_mean((restored.float() - target).abs().mean(-1), mask)


def _error_where(restored: Tensor, target: Tensor, valid: Tensor, normalise: bool) -> Tensor:
    """(B,N,P) each -> (B,N): the mean squared error over each token's valid values."""
    count = valid.sum(-1, keepdim=True)
    target = torch.where(valid, target, 0.0)
    if normalise:
        away = torch.where(valid, target - target.sum(-1, keepdim=True) / count.clamp(min=1), 0.0)
        target = away / (away.square().sum(-1, keepdim=True) / (count - 1).clamp(min=1) + 1e-6).sqrt()
    return torch.where(valid, restored - target, 0.0).square().sum(-1) / count.squeeze(-1).clamp(min=1)


def masked_smooth_l1(predicted: Tensor, target: Tensor, mask: Tensor, beta: float = 1.0) -> Tensor:
    """The loss of data2vec (Baevski et al. 2022, section 3.4, https://arxiv.org/abs/2202.03555, beta 2) and of I-JEPA's authors' code.

    predicted, target (...,D), mask (...) bool, the counted tokens -> a scalar: smooth L1, averaged over dimensions and the counted
    tokens of all processes. beta: error above which it is linear. Pass the target without gradient, from a teacher.
    """
    return masked_mean(F.smooth_l1_loss(predicted.float(), target, reduction="none", beta=beta).mean(-1), mask)


def replaced_token_detection(score: Tensor, replaced: Tensor, valid: Tensor) -> Tensor:
    """ELECTRA's discriminator loss. Clark, Luong, Le, Manning 2020, section 2, https://arxiv.org/abs/2003.10555

    score (B,T), the logit that a token was replaced; replaced (B,T), 1 where it was, 0 elsewhere; valid (B,T) bool -> a scalar: binary
    cross-entropy averaged over the valid tokens of all processes.
    """
    return masked_mean(F.binary_cross_entropy_with_logits(score.float(), replaced.float(), reduction="none"), valid)
