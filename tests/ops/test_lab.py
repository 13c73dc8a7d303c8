"""CIELAB against published values of the primaries, and colour differences against the published test pairs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from untaught.ops.colour_difference import ciede2000, colourfulness
from untaught.ops.lab import encoded, linear, to_grey, to_lab, to_srgb

PRIMARIES = {  # by B. Lindbloom's calculator, sRGB, D65
    (1.0, 1.0, 1.0): (100.0, 0.0, 0.0),
    (0.0, 0.0, 0.0): (0.0, 0.0, 0.0),
    (1.0, 0.0, 0.0): (53.2408, 80.0925, 67.2032),
    (0.0, 1.0, 0.0): (87.7347, -86.1827, 83.1793),
    (0.0, 0.0, 1.0): (32.2970, 79.1875, -107.8602),
    (0.0, 1.0, 1.0): (91.1132, -48.0875, -14.1312),
}
PAIRS = """
50.0000 2.6772 -79.7751 50.0000 0.0000 -82.7485 2.0425
50.0000 3.1571 -77.2803 50.0000 0.0000 -82.7485 2.8615
50.0000 2.8361 -74.0200 50.0000 0.0000 -82.7485 3.4412
50.0000 -1.3802 -84.2814 50.0000 0.0000 -82.7485 1.0000
50.0000 -1.1848 -84.8006 50.0000 0.0000 -82.7485 1.0000
50.0000 -0.9009 -85.5211 50.0000 0.0000 -82.7485 1.0000
50.0000 0.0000 0.0000 50.0000 -1.0000 2.0000 2.3669
50.0000 -1.0000 2.0000 50.0000 0.0000 0.0000 2.3669
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0009 7.1792
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0010 7.1792
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0011 7.2195
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0012 7.2195
50.0000 -0.0010 2.4900 50.0000 0.0009 -2.4900 4.8045
50.0000 -0.0010 2.4900 50.0000 0.0010 -2.4900 4.8045
50.0000 -0.0010 2.4900 50.0000 0.0011 -2.4900 4.7461
50.0000 2.5000 0.0000 50.0000 0.0000 -2.5000 4.3065
50.0000 2.5000 0.0000 73.0000 25.0000 -18.0000 27.1492
50.0000 2.5000 0.0000 61.0000 -5.0000 29.0000 22.8977
50.0000 2.5000 0.0000 56.0000 -27.0000 -3.0000 31.9030
50.0000 2.5000 0.0000 58.0000 24.0000 15.0000 19.4535
50.0000 2.5000 0.0000 50.0000 3.1736 0.5854 1.0000
50.0000 2.5000 0.0000 50.0000 3.2972 0.0000 1.0000
50.0000 2.5000 0.0000 50.0000 1.8634 0.5757 1.0000
50.0000 2.5000 0.0000 50.0000 3.2592 0.3350 1.0000
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.2630
61.2901 3.7196 -5.3901 61.4292 2.2480 -4.9620 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.6940 23.0331 14.9730 -42.5619 2.0373
36.4612 47.8580 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.4410 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.1350 0.9033 -0.0636 -0.5514 0.9082
"""  # table 1 of Sharma, Wu, Dalal 2005: two colours in Lab and their difference


def random_colours() -> Tensor:
    return torch.rand(4, 3, 9, 7, generator=torch.Generator().manual_seed(0))


def test_white_black_and_primaries() -> None:
    found = to_lab(torch.tensor(list(PRIMARIES)).view(-1, 3, 1, 1)).flatten(1)
    torch.testing.assert_close(found, torch.tensor(list(PRIMARIES.values())), atol=2e-3, rtol=0)


def test_there_and_back() -> None:
    x = random_colours()
    torch.testing.assert_close(encoded(linear(x)), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(to_srgb(to_lab(x)), x, atol=2e-5, rtol=0)
    levels = (torch.arange(256) / 255).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    assert torch.equal((255 * to_srgb(to_lab(levels))).round(), (255 * levels).round())


def test_grey_has_no_colour_and_the_same_lightness() -> None:
    x = random_colours()
    grey, lab = to_lab(to_grey(x).expand(-1, 3, -1, -1)), to_lab(x)
    torch.testing.assert_close(grey[:, :1], lab[:, :1], atol=1e-4, rtol=0)
    assert grey[:, 1:].abs().max() < 1e-3
    torch.testing.assert_close(to_grey(to_grey(x).expand(-1, 3, -1, -1)), to_grey(x), atol=1e-5, rtol=0)


def test_colours_outside_srgb_are_clamped() -> None:
    x = to_srgb(torch.tensor([50.0, 120.0, -120.0]).view(3, 1, 1))
    assert 0 <= x.min() <= x.max() <= 1


def test_conversions_stay_float32_under_autocast() -> None:
    x = random_colours()
    with torch.autocast("cpu", torch.bfloat16):
        lab = to_lab(x)
        assert torch.equal(lab, to_lab(x.double().float()))
        assert to_srgb(lab).dtype == torch.float32
    assert torch.equal(lab, to_lab(x))


@pytest.mark.parametrize("swapped", [False, True])
def test_ciede2000_of_the_published_pairs(swapped: bool) -> None:
    rows = torch.tensor([[float(value) for value in line.split()] for line in PAIRS.strip().splitlines()], dtype=torch.float64)
    assert len(rows) == 34
    first, second = (rows[:, at : at + 3, None, None] for at in ((3, 0) if swapped else (0, 3)))
    torch.testing.assert_close(ciede2000(first, second).flatten(), rows[:, 6], atol=5e-5, rtol=0)


def test_equal_colours_do_not_differ() -> None:
    lab = to_lab(random_colours())
    assert ciede2000(lab, lab).max() == 0


def test_colourfulness_in_a_loop() -> None:
    x = random_colours()
    for image, found in zip(255 * x.double(), colourfulness(x).tolist(), strict=True):
        pixels = image.flatten(1).t().tolist()
        rg, yb = [r - g for r, g, _ in pixels], [(r + g) / 2 - b for r, g, b in pixels]
        mean = [sum(values) / len(values) for values in (rg, yb)]
        variance = [sum((v - m) ** 2 for v in values) / len(values) for values, m in zip((rg, yb), mean, strict=True)]
        assert found == pytest.approx(sum(variance) ** 0.5 + 0.3 * (mean[0] ** 2 + mean[1] ** 2) ** 0.5)
    assert colourfulness(to_grey(x).expand(-1, 3, -1, -1)).max() < 1e-9
