"""Colour jitter as a matrix, against torchvision where no clamping happens (images of middle grey)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as V

from untaught.ops import colour
from untaught.ops.colour import LUMA, apply


def jitter(x: torch.Tensor, grey: bool = False, **factors: Any) -> torch.Tensor:
    batch = len(x)
    each: dict[str, Any] = {name: torch.full((batch,), factors.get(name, 1.0)) for name in ("brightness", "contrast", "saturation")}
    each["hue"] = torch.full((batch,), factors.get("hue", 0.0))
    return apply(x, *colour.jitter(x.shape[1], **each, grey=torch.full((batch,), grey)))


@pytest.fixture
def x() -> torch.Tensor:
    return 0.4 + 0.2 * torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-3) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)  # torchvision's luma has four digits: 0.2989


def test_nothing_asked_is_the_identity(x: torch.Tensor) -> None:
    close(jitter(x), x, 1e-6)


@pytest.mark.parametrize("factor", [0.6, 1.4])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_each_alone_is_torchvisions(x: torch.Tensor, name: str, factor: float) -> None:
    asked: dict[str, Any] = {name: factor}
    close(jitter(x, **asked), getattr(V, f"adjust_{name}")(x, factor))


def test_grey_is_torchvisions_and_comes_last(x: torch.Tensor) -> None:
    close(jitter(x, grey=True, contrast=1.3, hue=0.1), V.rgb_to_grayscale(jitter(x, contrast=1.3, hue=0.1), 3))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 1, 0, 3], [1, 0, 3, 2], [3, 2, 1, 0]])
def test_where_nothing_is_clamped_any_order_is_torchvisions(x: torch.Tensor, order: list[int]) -> None:
    factors: dict[str, Any] = {"brightness": 0.8, "contrast": 0.6, "saturation": 1.5}
    want = x
    for k in order:
        name = ("brightness", "contrast", "saturation", "hue")[k]
        want = getattr(V, f"adjust_{name}")(want, factors[name]) if name in factors else want
    close(jitter(x, **factors), want)


@pytest.mark.parametrize("turn", [1 / 3, 1 / 2, -0.1])
def test_hue_keeps_the_luma(x: torch.Tensor, turn: float) -> None:
    luma = torch.tensor(LUMA).view(3, 1, 1)
    turned = jitter(x, hue=turn)
    close((turned * luma).sum(1), (x * luma).sum(1), 1e-5)
    assert (turned - x).abs().max() > 0.02


def test_half_a_turn_twice_is_a_whole_one(x: torch.Tensor) -> None:
    close(jitter(jitter(x, hue=0.5), hue=0.5), x, 1e-5)


def test_a_third_of_a_turn_takes_red_to_green() -> None:
    red = torch.tensor([0.6, 0.4, 0.4]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert jitter(red, hue=1 / 3)[0, :, 0, 0].argmax() == V.adjust_hue(red, 1 / 3)[0, :, 0, 0].argmax() == 1


def test_samples_have_factors_of_their_own(x: torch.Tensor) -> None:
    one, half = torch.ones(2), torch.tensor([1.0, 0.5])
    turned = apply(x, *colour.jitter(3, half, one, one, one * 0, torch.tensor([False, False])))
    close(turned, x * half.view(2, 1, 1, 1), 1e-6)


@pytest.mark.parametrize("channels", [1, 5])
def test_other_channels_know_brightness_and_contrast_only(channels: int) -> None:
    x = 0.4 + 0.2 * torch.rand(2, channels, 8, 8)
    close(jitter(x, saturation=0.2, hue=0.4, grey=True), x, 1e-6)
    close(jitter(x, brightness=0.5, contrast=0.5), 0.25 * x + 0.25 * x.mean((1, 2, 3), keepdim=True), 1e-6)
