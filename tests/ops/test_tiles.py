"""Tiles: cutting, and the removal of cues, against plain loops and torch's own resize."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.ops.tiles import FLAT, cut, keep_one_channel, pixelate, project_green_magenta, standardise


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_tile_is_a_slice_of_each_channel_at_its_corner() -> None:
    x, generator = random(3, 2, 9, 11), torch.Generator().manual_seed(1)
    top, left = (torch.randint(high, (3, 4, 2), generator=generator) for high in (9 - 3, 11 - 3))
    tiles = cut(x, top, left, 3)
    assert tiles.shape == (3, 4, 2, 3, 3)
    for b in range(3):
        for t in range(4):
            for c in range(2):
                row, column = int(top[b, t, c]), int(left[b, t, c])
                assert torch.equal(tiles[b, t, c], x[b, c, row : row + 3, column : column + 3])


def test_a_standardised_tile_has_mean_0_in_each_channel_and_variance_1_in_all() -> None:
    tiles = 3 * random(2, 4, 3, 5, 5) + random(2, 4, 3, 1, 1)
    found = standardise(tiles)
    torch.testing.assert_close(found.mean((3, 4)), torch.zeros(2, 4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.square().mean((2, 3, 4)), torch.ones(2, 4), atol=1e-4, rtol=0)
    assert standardise(torch.full((1, 1, 3, 4, 4), 0.7)).abs().max() < 1e-4  # a flat tile stays flat
    torch.testing.assert_close(standardise(2 * tiles + 5), found, atol=2 * FLAT, rtol=0)  # neither brightness nor contrast is left


def test_of_dropped_channels_nothing_is_left_but_noise_of_the_kept_ones_size() -> None:
    tiles, noise, kept = random(2, 3, 3, 8, 8), torch.randn(2, 3, 3, 8, 8), torch.tensor([[0, 1, 2], [2, 2, 0]])
    found = keep_one_channel(tiles, kept, noise, 0.01)
    for b in range(2):
        for t in range(3):
            for c in range(3):
                own = tiles[b, t, int(kept[b, t])]
                want = own - own.mean() if c == kept[b, t] else 0.01 * own.std(correction=0) * noise[b, t, c]
                torch.testing.assert_close(found[b, t, c], want)


def test_projected_colours_have_nothing_along_green_and_magenta_and_grey_stays() -> None:
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    colours = torch.rand(4, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    shape = mean.view(3, 1, 1), std.view(3, 1, 1)
    found = project_green_magenta((colours - shape[0]) / shape[1], mean, std) * shape[1] + shape[0]
    for red, green, blue, r, g, b in zip(*(part.flatten().tolist() for part in (*colours.unbind(1), *found.unbind(1))), strict=True):
        along = (-red + 2 * green - blue) / 6
        assert (r, g, b) == pytest.approx((red + along, green - 2 * along, blue + along), abs=1e-5)
        assert -r + 2 * g - b == pytest.approx(0, abs=1e-5)
    grey = ((torch.full((1, 3, 2, 2), 0.6)) - shape[0]) / shape[1]
    torch.testing.assert_close(project_green_magenta(grey, mean, std), grey)


@pytest.mark.parametrize("side", [1, 3, 5, 8])
def test_pixelating_is_a_resize_to_so_many_pixels_and_back(side: int) -> None:
    tiles = random(2, 3, 8, 8)
    found = pixelate(tiles, torch.tensor([side, 8]))
    small = F.interpolate(tiles[:1], (side, side), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(
        found[:1], F.interpolate(small, (8, 8), mode="bilinear", antialias=True, align_corners=False), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(found[1:], tiles[1:], atol=1e-5, rtol=0)
