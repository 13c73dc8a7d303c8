"""MiniRocket against the paper's section 3 in plain loops."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from untaught.ops.minirocket import MiniRocket, _dilations


def series(lengths: list[int], channels: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    valid = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return torch.randn(len(lengths), max(lengths), channels, generator=generator).cumsum(1) * valid.unsqueeze(2), valid


def outputs(x: np.ndarray, kernel: int, dilation: int, seen: np.ndarray) -> list[float]:
    """x (T,C) of one series -> its convolution, padded with zeros."""
    places, found = list(combinations(range(9), 3))[kernel], []
    for t in range(len(x)):
        total = 0.0
        for tap in range(9):
            at = t + (tap - 4) * dilation
            if 0 <= at < len(x):
                total += (2 if tap in places else -1) * sum(x[at, c] for c in range(x.shape[1]) if seen[c])
        found.append(total)
    return found


@pytest.mark.parametrize(("lengths", "channels"), [([40, 40, 40], 1), ([40, 5, 17], 3), ([6, 4], 1)])
def test_features_are_the_shares_of_steps_above_biases(lengths: list[int], channels: int) -> None:
    x, valid = series(lengths, channels)
    rocket = MiniRocket.fit(x, valid, seed=1, features=84 * 40)
    found = rocket(x, valid)
    assert found.shape == (len(x), 84 * 40)
    place = 0
    for number, (dilation, weight, biases) in enumerate(zip(rocket.dilations, rocket.weights, rocket.biases, strict=True)):
        for kernel in range(84):
            if kernel % 11 == 0:
                for row, length in enumerate(lengths):
                    own = outputs(x[row, :length].double().numpy(), kernel, dilation, weight[kernel].any(1).numpy())
                    inside = [o for t, o in enumerate(own) if 4 * dilation <= t < length - 4 * dilation]
                    counted = own if (kernel + number) % 2 == 0 or not inside else inside
                    for share, bias in zip(found[row, place : place + biases.shape[1]].tolist(), biases[kernel].tolist(), strict=True):
                        low, high = (np.mean([o > bias + by for o in counted]) for by in (1e-4, -1e-4))
                        assert low - 1e-6 <= share <= high + 1e-6, "a value at the bias itself may be rounded to either side"
            place += biases.shape[1]


def test_there_are_84_kernels_whose_weights_sum_to_0() -> None:
    x, valid = series([30, 30], 1)
    (weight, *_) = MiniRocket.fit(x, valid).weights
    assert len({tuple(row) for row in weight[:, 0].tolist()}) == 84
    assert all(sorted(row) == [-1] * 6 + [2] * 3 for row in weight[:, 0].tolist())


def test_dilations_are_those_of_the_authors_code() -> None:
    """For 150 steps and 10,000 features; from their fit function."""
    dilations, counts = _dilations(150, 10_000 // 84)
    want, times = np.unique(np.logspace(0, np.log2(149 / 8), 32, base=2).astype(np.int32), return_counts=True)
    assert dilations == want.tolist()
    assert sum(counts) == 119
    assert all(abs(count - time * 119 / 32) <= 1 for count, time in zip(counts, times, strict=True))


def test_nothing_depends_on_padding() -> None:
    x, valid = series([40, 12], 2)
    rocket = MiniRocket.fit(x, valid)
    wide, more = torch.cat([x, torch.full((2, 9, 2), 7.0)], 1), torch.cat([valid, torch.zeros(2, 9, dtype=torch.bool)], 1)
    want = rocket(x, valid)
    for found, own in ((rocket(wide, more), want), (rocket(x[1:, :12], valid[1:, :12]), want[1:])):
        assert ((found - own).abs() > 1e-6).float().mean() < 0.005  # sums of another order may fall on the other side of a bias


def test_the_subsets_of_channels_have_one_to_nine() -> None:
    x, valid = series([30], 20)
    sizes = torch.cat([weight.any(2).sum(1) for weight in MiniRocket.fit(x, valid).weights])
    assert sizes.min() == 1
    assert sizes.max() == 9
