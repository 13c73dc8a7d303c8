"""Shapes of the decoders, and that padding of series has no effect."""

from __future__ import annotations

import pytest
import torch

from untaught.blocks.pixel_decoder import PixelDecoder, start_of
from untaught.blocks.series_decoder import SeriesDecoder


@pytest.mark.parametrize(("size", "start"), [((28, 28), (7, 7)), ((32, 20), (4, 3)), ((5, 7), (5, 7)), ((224, 224), (7, 7))])
def test_a_vector_becomes_an_image_of_any_size(size: tuple[int, int], start: tuple[int, int]) -> None:
    assert start_of(list(size)) == start
    decoder = PixelDecoder(6, (3, *size), width=2)
    assert decoder(torch.randn(2, 6)).shape == (2, 3, *size)


@pytest.mark.parametrize(
    ("grid", "size"), [((4, 4), (32, 32)), ((4, 4), (28, 28)), ((8, 8), (32, 32)), ((6, 6), (6, 6)), ((8, 8), (6, 6)), ((1, 1), (9, 5))]
)
def test_a_map_becomes_an_image_of_any_size(grid: tuple[int, int], size: tuple[int, int]) -> None:
    decoder = PixelDecoder(6, (3, *size), grid=grid, width=2)
    assert decoder(torch.randn(2, 6, *grid)).shape == (2, 3, *size)


def test_a_place_of_the_map_is_decoded_to_its_place_in_the_image() -> None:
    """In eval mode, so that BatchNorm does not join places."""
    torch.manual_seed(0)
    decoder = PixelDecoder(6, (1, 32, 32), grid=(4, 4), width=4).eval()
    code = torch.zeros(1, 6, 4, 4)
    other = code.clone()
    other[:, :, 0, 3] = 3.0
    moved = (decoder(other) - decoder(code)).abs()[0, 0]
    assert moved[:8, 24:].mean() > 20 * moved[16:, :16].mean()


def test_padding_of_series_has_no_effect() -> None:
    torch.manual_seed(0)
    decoder, code = SeriesDecoder(5, 2, width=8), torch.randn(2, 5)
    short = torch.arange(9) < torch.tensor([[9], [4]])
    long = torch.arange(15) < torch.tensor([[9], [4]])
    a, b = decoder(code, short), decoder(code, long)
    assert a.shape == (2, 9, 2)
    torch.testing.assert_close(a[short], b[long])
    assert decoder(code, torch.ones(2, 1, dtype=torch.bool)).isfinite().all()
