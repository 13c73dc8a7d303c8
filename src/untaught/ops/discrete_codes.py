"""Discrete codes in groups: relaxed choice, and how evenly codes are used. Baevski et al. 2020, https://arxiv.org/abs/2006.11477"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.ops.gather import gather


def gumbel(unit: Tensor) -> Tensor:
    """unit, uniform in [0,1) -> standard Gumbel noise of the same shape."""
    return -(-unit.clamp(min=2.0**-25).log()).log()


def straight_through(scores: Tensor, temperature: float) -> Tensor:
    """scores (...,V) -> 1 for the largest, else 0, with the gradient of softmax(scores / temperature). Jang et al. 2017,
    https://arxiv.org/abs/1611.01144"""
    with torch.autocast(scores.device.type, enabled=False):
        soft = (scores.float() / temperature).softmax(-1)
        hard = F.one_hot(scores.argmax(-1), scores.shape[-1]).to(soft.dtype)
        return hard + (soft - soft.detach())  # this order: exactly 0 and 1


def perplexity(chance: Tensor, counted: Tensor) -> Tensor:
    """chance (B,M,G,V) of each code, counted (B,M) bool -> (G,): the exponential of the entropy of the mean chance over counted places of
    all processes."""
    weight = counted.float()[:, :, None, None]
    total = gather((chance * weight).sum((0, 1))[None]).sum(0)
    mean = total / gather(counted.sum(dtype=torch.float32)[None]).sum().clamp(min=1)
    return torch.special.entr(mean).sum(-1).exp()


def diversity(scores: Tensor, counted: Tensor) -> Tensor:
    """scores (B,M,G,V), counted (B,M) bool -> a scalar from 0, all codes equally likely, to nearly 1, one code in every group: the share of
    codes that the perplexity of the mean softmax falls short of (equation 4, in the form of the authors' code)."""
    with torch.autocast(scores.device.type, enabled=False):
        found = perplexity(scores.float().softmax(-1), counted)
    return 1 - found.mean() / scores.shape[-1]


def code_perplexity(scores: Tensor, counted: Tensor) -> Tensor:
    """scores (B,M,G,V), counted (B,M) bool -> a scalar: the number of codes in use, by the entropy of the frequencies of the most probable
    ones, summed over groups; from G to G * V."""
    return perplexity(F.one_hot(scores.argmax(-1), scores.shape[-1]).float(), counted).sum()


def standardised(x: Tensor, counted: Tensor) -> Tensor:
    """x (B,M,C), counted (B,M) bool -> the same with mean 0 and variance 1 in every channel, over the counted places of all processes."""
    with torch.autocast(x.device.type, enabled=False):
        x, weight = x.float(), counted.float().unsqueeze(2)
        count = gather(weight.sum()[None]).sum().clamp(min=1)
        mean = gather((x * weight).sum((0, 1))[None]).sum(0) / count
        variance = gather(((x - mean).square() * weight).sum((0, 1))[None]).sum(0) / count
        return (x - mean) * torch.rsqrt(variance + 1e-5)
