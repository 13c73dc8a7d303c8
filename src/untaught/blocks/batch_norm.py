"""Synchronised BatchNorm on any backend: statistics over the joint batch of all processes.

Ioffe, Szegedy, ICML 2015, https://arxiv.org/abs/1502.03167. PyTorch's SyncBatchNorm does not run on CPUs and replaces modules. Here a
module keeps its weights, buffers and names, and becomes a plain BatchNorm again after training. Forward and backward use PyTorch's
kernels with an all-reduce in between, which is the only overhead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from untaught.core import UserError
from untaught.ops.gather import gather, world_size

FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)  # of classes that only normalise


class JoinedBatchNorm(_BatchNorm):
    """A BatchNorm during training with several processes; in eval mode, and with one process, it behaves as before."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B,C) or (B,C,...) -> the same shape."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        channels = x.shape[1]
        ones, zeros = torch.ones(channels, device=x.device), torch.zeros(channels, device=x.device)
        scale, shift = (ones, zeros) if self.weight is None else (self.weight, self.bias)
        y, mean, variance, count = _Normalise.apply(x, scale, shift, self.eps)  # type: ignore[misc]
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), momentum)
        for also in ("drop", "act"):  # timm's BatchNormAct2d
            y = getattr(self, also)(y) if hasattr(self, also) else y
        return y


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, epsilon: float) -> Any:
        own, unused = torch.zeros_like(scale), torch.ones_like(scale)  # float32, so that sums are in float32
        own_mean, own_variance = torch.ops.aten.batch_norm_update_stats(x, own, unused, 0.0)
        count = own_mean.new_full((1,), x.numel() / x.shape[1])
        counts, means, variances = gather(torch.cat([count, own_mean, own_variance]).unsqueeze(0)).split([1, *[len(own_mean)] * 2], 1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean).square())).sum(0) / total
        ctx.save_for_backward(x, scale, mean, variance, total)
        ctx.epsilon = epsilon
        ctx.mark_non_differentiable(mean, variance, total)
        return F.batch_norm(x, mean, variance, scale, shift, False, 0.0, epsilon), mean, variance, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:
        x, scale, mean, variance, total = ctx.saved_tensors
        _, to_scale, to_shift = torch.ops.aten.native_batch_norm_backward(
            gradient, x, scale, mean, variance, None, None, False, ctx.epsilon, [False, True, True]
        )
        to_input = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([to_scale, to_shift])
            dist.all_reduce(sums)
            slope = scale * (variance + ctx.epsilon).rsqrt()
            by_place, constant = -slope * sums / total  # dx = slope (dy - mean(dy) - xhat mean(dy xhat))
            to_input = F.batch_norm(x, mean, variance, by_place, constant, False, 0.0, ctx.epsilon)
            to_input += F.batch_norm(gradient, torch.zeros_like(mean), torch.ones_like(mean), slope, None, False, 0.0, 0.0)
        return to_input, to_scale, to_shift, None


@cache
def _joined(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    return type(f"Joined{kind.__name__}", (JoinedBatchNorm, kind), {})


@contextmanager
def joined_statistics(module: nn.Module) -> Iterator[None]:
    """Within it, every BatchNorm of the module normalises by the joint batch. Raises UserError for unsupported subclasses."""
    norms = [(part, type(part)) for part in module.modules() if isinstance(part, _BatchNorm)]
    for part, kind in norms:
        if kind.forward not in FORWARDS and not (hasattr(part, "drop") and hasattr(part, "act")):
            raise UserError(f"the BatchNorm subclass {kind.__name__} can't be synchronised over processes; train with devices=1")
    for part, kind in norms:
        part.__class__ = _joined(kind)
    try:
        yield
    finally:
        for part, kind in norms:
            part.__class__ = kind
