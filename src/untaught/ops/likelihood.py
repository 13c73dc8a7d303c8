"""Log-likelihoods of numbers under a decoder's output, in nats, and divergences from a prior."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 256  # of a channel with 8 bits
LEAST_LOG_SCALE = -7.0  # of the discretised logistic, as in PixelCNN++'s code: a thousandth of the range
MARGIN = 0.1  # logit-Laplace maps 0..1 to MARGIN..1 - MARGIN; Ramesh et al. 2021, appendix A.3


def discretised_logistic(levels: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of whole levels 0..255. Kingma et al. 2016, https://arxiv.org/abs/1606.04934; PixelCNN++, Salimans et al. 2017,
    equation 2, https://arxiv.org/abs/1701.05517.

    levels: any shape; mean, log_scale: of that shape, in units in which the levels lie evenly from -1 to 1 -> nats, that shape. A level
    has the logistic's mass of half a step to either side; the outermost have the tails, so that the probabilities of all 256 sum to 1.
    """
    half = 1 / (LEVELS - 1)
    x = levels.float() * (2 * half) - 1
    narrow = (-log_scale.float().clamp(min=LEAST_LOG_SCALE)).exp()
    away = x - mean.float()
    above, below = narrow * (away + half), narrow * (away - half)
    at_most, more = F.logsigmoid(above), F.logsigmoid(-below)
    within = at_most + more + (-torch.expm1(below - above)).log()  # of sigmoid(above) - sigmoid(below), exact at any distance
    return torch.where(levels == 0, at_most, torch.where(levels == LEVELS - 1, more, within))


def gaussian(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-density of a Gaussian with standard deviation exp(log_scale): any shape -> nats, that shape."""
    log_scale = log_scale.float()
    return -0.5 * ((x - mean.float()) * (-log_scale).exp()).square() - log_scale - 0.5 * math.log(2 * math.pi)


def bernoulli(x: Tensor, logit: Tensor) -> Tensor:
    """x log p + (1 - x) log(1 - p) for x in 0..1 and p = sigmoid(logit): any shape -> nats. A log-probability only where x is 0 or 1."""
    return -F.binary_cross_entropy_with_logits(logit.float(), x.float(), reduction="none")


def logit_laplace(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-density of the logit-Laplace distribution. Ramesh et al. 2021, appendix A.3, equation 2, https://arxiv.org/abs/2102.12092

    x in 0..1, mapped to 0.1..0.9 first; mean, log_scale: of the Laplace distribution of the mapped x's logit -> nats, of the mapped x.
    """
    inner = (1 - 2 * MARGIN) * x.float() + MARGIN
    log_scale = log_scale.float()
    spread = (inner.logit() - mean.float()).abs() * (-log_scale).exp()
    return -spread - log_scale - math.log(2) - (inner * (1 - inner)).log()


def discretised_logit_laplace(levels: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of whole levels 0..255 under `logit_laplace`: the mass of half a step to either side, and of the tails at the
    ends."""
    half = 0.5 / (LEVELS - 1)
    share = levels.float() / (LEVELS - 1)
    logit = lambda place: ((1 - 2 * MARGIN) * place + MARGIN).logit()  # noqa: E731
    narrow, mean = (-log_scale.float()).exp(), mean.float()
    above, below = (logit(share + half) - mean) * narrow, (logit(share - half) - mean) * narrow
    at_most, more = _log_laplace(above), _log_laplace(-below)
    away = torch.maximum(below, -above)  # from the mean to the nearer end, above 0 if both are on one side
    beside = -math.log(2) - away.clamp(min=0) + (-torch.expm1(below - above)).log()
    across = (-0.5 * (torch.expm1(below.clamp(max=0)) + torch.expm1(-above.clamp(min=0)))).clamp(min=1e-30).log()
    within = torch.where(away > 0, beside, across)
    return torch.where(levels == 0, at_most, torch.where(levels == LEVELS - 1, more, within))


def _log_laplace(x: Tensor) -> Tensor:
    """The log of the cumulative distribution of the standard Laplace distribution."""
    return torch.where(x < 0, x.clamp(max=0) - math.log(2), torch.log1p(-0.5 * (-x.clamp(min=0)).exp()))


def kl_to_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Divergence of Gaussians from the standard normal. Kingma, Welling 2014, appendix B: any shape -> nats, that shape."""
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def kl_to_uniform(log_probability: Tensor, dim: int) -> Tensor:
    """Divergence of categorical distributions from the uniform one; classes along `dim` -> nats, without that axis."""
    log_probability = log_probability.float()
    return (log_probability.exp() * log_probability).sum(dim) + math.log(log_probability.shape[dim])
