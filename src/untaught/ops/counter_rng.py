"""Random numbers that depend only on (seed, epoch, sample index, view position, draw): a counter-based hash, vectorised.

The same sample gets the same draws at any world size, micro-batch or device, and there is no generator state to save.
The hash is splitmix64 (Steele, Lea, Flood, OOPSLA 2014) on wrapping int64 arithmetic.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_CACHED = 1 << 16  # values drawn at once on a CPU: more leave its caches


def _signed(x: int) -> int:
    x &= _MASK
    return x - (1 << 64) if x >> 63 else x


def mix(x: int) -> int:
    """splitmix64's finalizer: each of the 64 output bits depends on all input bits; 0 maps to 0."""
    x &= _MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


def _mix(x: Tensor) -> Tensor:
    """`mix` on int64 tensors of any shape; right shifts are made logical by masking."""
    x = (x >> 30).bitwise_and_((1 << 34) - 1).bitwise_xor_(x).mul_(_signed(0xBF58476D1CE4E5B9))
    x = (x >> 27).bitwise_and_((1 << 37) - 1).bitwise_xor_(x).mul_(_signed(0x94D049BB133111EB))
    return (x >> 31).bitwise_and_((1 << 33) - 1).bitwise_xor_(x)


class CounterRNG:
    """Random numbers of one view for a batch of samples, index (B,) int64 on any device.

    Each call is one draw; the order of the calls is part of the key.
    """

    def __init__(self, seed: int, epoch: int, index: Tensor, position: int) -> None:
        key = 0
        for part in (seed, epoch, position):
            key = mix(key + _GAMMA + part)
        self.keys = _mix(index.long() * _signed(_GAMMA) + _signed(key))
        self.count = 0

    def bits(self, *shape: int) -> Tensor:
        """-> (B, *shape) int64, all 64 bits random."""
        self.count += 1
        key = self.keys + _signed(mix(self.count))
        if not shape:
            return _mix(key)
        counter = torch.arange(1, math.prod(shape) + 1, device=key.device) * _signed(_GAMMA)
        return _mix(key.view(-1, *[1] * len(shape)) + counter.view(shape))

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """-> (B, *shape) float32 in [low, high)."""
        top = (self.bits(*shape) >> 40).to(torch.int32).bitwise_and_((1 << 24) - 1)  # CPUs convert int32 to float faster than int64
        unit = top.float() * 2.0**-24
        return unit if (low, high) == (0.0, 1.0) else unit * (high - low) + low

    def integers(self, low: Tensor | int, high: Tensor) -> Tensor:
        """low and high (B,) int64 -> (B,) int64, from low to high inclusive, all equally likely."""
        return low + (self.uniform() * (high - low + 1)).floor().long().minimum(high - low)

    def normal(self, *shape: int) -> Tensor:
        """-> (B, *shape) float32, standard normal (Box and Muller)."""
        each = max(1, _CACHED // max(math.prod(shape), 1)) if self.keys.device.type == "cpu" else len(self.keys)
        if each < len(self.keys):
            return self.by_rows(each, lambda part: part.normal(*shape))
        radius = (-2 * (1 - self.uniform(*shape)).log()).sqrt()
        return radius * (2 * math.pi * self.uniform(*shape)).cos()

    def by_rows(self, each: int, make: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """make(rng, *rows) for `each` samples at a time, with the draws of the whole batch, concatenated; rows (B, ...)."""
        parts = []
        for keys in self.keys.split(each):
            part = copy.copy(self)
            part.keys = keys
            parts.append(part)
        made = torch.cat([make(part, *some) for part, *some in zip(parts, *(one.split(each) for one in rows), strict=True)])
        self.count = parts[0].count
        return made

    def on_rows(self, chosen: Tensor, each: int, make: Callable[..., Tensor], x: Tensor, *rows: Tensor) -> Tensor:
        """x (B, ...), and make(rng, x, *rows) of the samples chosen (B,), with the draws of the whole batch. Only these are computed on a
        CPU, `each` at a time, and all at once on other devices, which would have to wait for their number."""
        if self.keys.device.type != "cpu":
            return torch.where(chosen.view(-1, *[1] * (x.dim() - 1)), make(self, x, *rows), x)
        some = bool(chosen.any())
        at, part = chosen.nonzero().squeeze(1) if some else torch.zeros(1, dtype=torch.long), copy.copy(self)
        part.keys = self.keys[at]
        # If none is chosen, one is computed and dropped: later draws must not depend on the choice.
        made = part.by_rows(each, make, x[at], *(one[at] for one in rows))
        self.count = part.count
        return x.index_copy(0, at, made) if some else x

    def chance(self, probability: float) -> Tensor:
        """-> (B,) bool, true with the given probability."""
        return self.uniform() < probability

    def order(self, n: int) -> Tensor:
        """-> (B, n) int64, a random permutation per sample."""
        return self.bits(n).argsort(dim=1, stable=True)
