"""MiniRocket: about 10,000 features of a time series from fixed kernels. Dempster, Schmidt, Webb, KDD 2021, https://arxiv.org/abs/2012.08791

Every kernel has nine weights, three of 2 and six of -1 (84 in all), and is applied at up to 32 dilations. A feature is the share of time
steps at which the output exceeds a bias (PPV); the biases are quantiles of the output for a random training series. For every other pair
of kernel and dilation the series is padded with zeros, for the others only steps that the whole kernel covers count. With several
channels each pair sees a random subset of at most nine, summed, as in the authors' multivariate code.
Differs from the authors' code: series may differ in length (dilations are those for the longest; a series shorter than a kernel is padded),
and may have fewer than nine steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TAPS, DILATIONS, MOST_CHANNELS = 9, 32, 9
PLACES = torch.tensor(list(combinations(range(TAPS), 3)))  # of the weights of 2
CHUNK = 1 << 24  # outputs computed at once


@dataclass(frozen=True)
class MiniRocket:
    """Fitted features of series with C channels. weights: for each dilation (84,C,9); biases: for each (84,K)."""

    dilations: list[int]
    weights: list[Tensor]
    biases: list[Tensor]

    @classmethod
    def fit(cls, x: Tensor, valid: Tensor, seed: int = 0, features: int = 10_000) -> MiniRocket:
        """x (B,T,C) without missing values, in comparable units; valid (B,T) -> about `features` features, a multiple of 84."""
        random = np.random.default_rng(seed)
        length, channels, kernels = valid.sum(1), x.shape[2], len(PLACES)
        dilations, counts = _dilations(int(length.max()), max(features // kernels, 1))
        golden = (np.sqrt(5) + 1) / 2
        share = torch.from_numpy(np.arange(1, 1 + kernels * sum(counts)) * golden % 1).float()  # quantiles, spread evenly
        weights, biases, start = [], [], 0
        for dilation, count in zip(dilations, counts, strict=True):
            weight = F.one_hot(PLACES, TAPS).sum(1).float() * 3 - 1  # (84,9)
            seen = torch.from_numpy(_subsets(random, kernels, channels)).float()
            weight = weight.unsqueeze(1) * seen.unsqueeze(2)
            row = torch.from_numpy(random.integers(len(x), size=kernels))
            shown = (x[row] * valid[row].unsqueeze(2)).mT.reshape(1, kernels * channels, -1)
            output = F.conv1d(shown, weight, padding=TAPS // 2 * dilation, dilation=dilation, groups=kernels)[0]
            own = share[start : start + kernels * count].view(kernels, count)
            biases.append(torch.stack([o[:n].quantile(q) for o, n, q in zip(output, length[row].tolist(), own, strict=True)]))
            weights.append(weight)
            start += kernels * count
        return cls(dilations, weights, biases)

    def __call__(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B,T,C), valid (B,T) -> (B,F), shares of time steps."""
        each = max(1, CHUNK // (len(PLACES) * x.shape[1]))
        return torch.cat([self._features(a, b) for a, b in zip(x.split(each), valid.split(each), strict=True)])

    def _features(self, x: Tensor, valid: Tensor) -> Tensor:
        shown, length = (x * valid.unsqueeze(2)).mT, valid.sum(1, keepdim=True)
        place, found = torch.arange(x.shape[1]), []
        for number, (dilation, weight, biases) in enumerate(zip(self.dilations, self.weights, self.biases, strict=True)):
            reach = TAPS // 2 * dilation
            covered = (place >= reach) & (place < length - reach)  # (B,T), steps that the whole kernel covers
            covered = torch.where(covered.any(1, keepdim=True), covered, valid)
            padded = (torch.arange(len(weight)) + number) % 2 == 0
            counted = torch.where(padded.view(1, -1, 1), valid.unsqueeze(1), covered.unsqueeze(1))  # (B,84,T)
            output = F.conv1d(shown, weight, padding=reach, dilation=dilation).masked_fill(~counted, -torch.inf)
            steps = counted.sum(2)
            above = torch.stack([(output > bias.view(1, -1, 1)).sum(2) / steps for bias in biases.T], 2)  # (B,84,K)
            found.append(above.flatten(1))
        return torch.cat(found, 1)


def _dilations(length: int, count: int) -> tuple[list[int], list[int]]:
    """Dilations from 1 to the largest at which a kernel is no longer than the series, exponentially spaced, and the features of each."""
    most = min(count, DILATIONS)
    largest = max(np.log2(max(length - 1, 1) / (TAPS - 1)), 0.0)
    dilations, times = np.unique(np.logspace(0, largest, most, base=2).astype(np.int64), return_counts=True)
    counts = (times * (count / most)).astype(np.int64)
    for i in range(count - counts.sum()):
        counts[i % len(counts)] += 1
    return dilations.tolist(), counts.tolist()


def _subsets(random: np.random.Generator, count: int, channels: int) -> np.ndarray:
    """(count, channels) of 0 and 1: random subsets, whose sizes are spaced exponentially."""
    size = (2 ** random.uniform(0, np.log2(min(channels, MOST_CHANNELS) + 1), count)).astype(np.int64)
    return (random.random((count, channels)).argsort(1).argsort(1) < size[:, None]).astype(np.float32)
