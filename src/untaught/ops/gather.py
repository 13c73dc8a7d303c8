"""Differentiable all-gather.

All losses follow one convention: the mean over processes of their return values is the loss of the joint batch. This holds for a mean
over a process's own share, and for a loss of gathered rows that is the same on all processes. The backward of `gather` sums the
gradients of a row over processes, and the training loop averages parameter gradients over processes; together they give exactly the
gradient of the joint batch.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.rows = x.shape[0]
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # autograd may share the tensor
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def gather(x: Tensor) -> Tensor:
    """x (B, ...), of equal length on every process -> (world x B, ...) in rank order; x itself with one process."""
    return _Gather.apply(x) if world_size() > 1 else x  # type: ignore[return-value]
