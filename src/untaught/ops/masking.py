"""Token masks, and gathering the visible tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from untaught.ops.gather import gather


def random_mask(order: Tensor, rate: float) -> Tensor:
    """order (B,N), a permutation per sample -> (B,N) bool, true (masked) at round(rate N) places, at least 1 and at most N - 1."""
    count = order.shape[1]
    masked = min(max(round(rate * count), 1), count - 1)
    return torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :masked], True)


def block_mask(unit: Tensor, count: Tensor, grid: tuple[int, int]) -> Tensor:
    """unit (B,T,4) uniform draws of T tries, count (B,) tokens to mask -> (B,N) bool, true at no more than `count` places per sample.

    BEiT's blocks (Bao et al. 2022, algorithm 1, as in iBOT's code): a rectangle of random size and position is accepted if it masks
    new tokens and not too many; its area lies between the square of a third of the shorter side and the number still to mask.
    """
    high, wide = grid
    rows, columns = torch.arange(high, device=unit.device), torch.arange(wide, device=unit.device)
    mask = torch.zeros(len(unit), high, wide, dtype=torch.bool, device=unit.device)
    least = (min(grid) // 3) ** 2
    log_ratio = (2 * unit[..., 1] - 1) * math.log(1 / 0.3)
    for size, ratio, top, left in zip(unit[..., 0].T, log_ratio.exp().T, unit[..., 2].T, unit[..., 3].T, strict=True):
        left_over = count - mask.sum((1, 2))
        area = (least + size * (left_over - least)).clamp(min=0)
        h, w = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        block = within(rows, (top * (high - h + 1)).floor(), h).unsqueeze(2) & within(
            columns, (left * (wide - w + 1)).floor(), w
        ).unsqueeze(1)
        new = (block & ~mask).sum((1, 2))
        taken = (new > 0) & (new <= left_over) & (h < high) & (w < wide)
        mask |= block & taken.view(-1, 1, 1)
    return mask.flatten(1)


def rectangles(unit: Tensor, scale: tuple[float, float], ratio: tuple[float, float], grid: tuple[int, int]) -> Tensor:
    """unit (B,T,4) uniform draws -> (B,T,N) bool: T rectangles per sample, with area in scale x N and aspect (height / width) in ratio,
    rounded, and never more than scale[1] x N tokens."""
    high, wide = grid
    count = high * wide
    most = max(int(scale[1] * count), 1)
    rows, columns = torch.arange(high, device=unit.device), torch.arange(wide, device=unit.device)
    area = ((scale[0] + unit[..., 0] * (scale[1] - scale[0])) * count).clamp(min=1)
    shape = ratio[0] + unit[..., 1] * (ratio[1] - ratio[0])
    h = (area * shape).sqrt().round().clamp(1, min(high, most))
    w = (area / shape).sqrt().round().clamp(1, wide).minimum((most / h).floor())
    top, left = (unit[..., 2] * (high - h + 1)).floor(), (unit[..., 3] * (wide - w + 1)).floor()
    return (within(rows, top, h).unsqueeze(-1) & within(columns, left, w).unsqueeze(-2)).flatten(-2)


def within(places: Tensor, start: Tensor, length: Tensor) -> Tensor:
    """places (N,), start and length (...) -> (..., N) bool: whether each place is in [start, start + length)."""
    return (places >= start.unsqueeze(-1)) & (places < (start + length).unsqueeze(-1))


def visible(mask: Tensor, count: int) -> Tensor:
    """mask (B,N) bool with N - count true in each row -> (B, count), the places that are not masked, in order."""
    return first(~mask, count)


def visible_places(mask: Tensor, valid: Tensor | None, count: int) -> tuple[Tensor, Tensor | None]:
    """mask (B,N) bool, valid (B,N) bool or None -> places (B,K) of the visible tokens, and their validity (B,K) or None.

    Without padding, K is `count`, the number of tokens that are not masked, and validity is None. With padding, that number differs
    by sample and K is N: masked tokens and padding come last.
    """
    if valid is None:
        return visible(mask, count), None
    free = ~mask & valid
    at = first(free, mask.shape[1])
    return at, free.gather(1, at)


def first(chosen: Tensor, count: int) -> Tensor:
    """chosen (..., N) bool -> (..., count): the chosen places in order, followed by others if there are fewer than `count`."""
    return (~chosen).int().argsort(dim=-1, stable=True)[..., :count]


def take(x: Tensor, index: Tensor) -> Tensor:
    """x (B,N,D) at index (B,K) -> (B,K,D)."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def mask_tokens(tokens: Tensor, mask: Tensor, mask_token: Tensor) -> Tensor:
    """tokens (B,N,D), mask (B,N) bool, mask_token (D,) -> (B,N,D): the mask token at masked places."""
    return torch.where(mask.unsqueeze(-1), mask_token.to(tokens.dtype), tokens)


def masked_mean(x: Tensor, counted: Tensor) -> Tensor:
    """x, counted of one shape -> a scalar: the sum where counted, divided by `joined_count`. Averaging the processes' results gives the
    mean over all of them."""
    return (x * counted).sum() / joined_count(counted)


def joined_count(counted: Tensor) -> Tensor:
    """counted, bool -> a scalar: the count averaged over processes, at least 1."""
    return gather(counted.sum(dtype=torch.float32)[None]).mean().clamp(min=1)
