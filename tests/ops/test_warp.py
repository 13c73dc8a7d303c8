"""Affine maps: what they say is what the pixels do."""

from __future__ import annotations

import math

import torch
import torchvision.transforms.v2.functional as V

from untaught.ops.resample import resample, resize_matrix
from untaught.ops.warp import compose, crop_affine, turn_affine, warp

NO = torch.tensor([False])


def at(affine: torch.Tensor, x: float, y: float) -> list[float]:
    return (affine[0] @ torch.tensor([x, y, 1.0])).tolist()


def test_a_crop_maps_its_corners_to_the_box() -> None:
    affine = crop_affine(torch.tensor([[0.25, 0.5, 0.5, 0.25]]), NO)
    assert at(affine, -1, -1) == [-0.5, 0.0]
    assert at(affine, 1, 1) == [0.5, 0.5]


def test_a_flip_exchanges_left_and_right() -> None:
    affine = crop_affine(torch.tensor([[0.25, 0.5, 0.5, 0.25]]), torch.tensor([True]))
    assert at(affine, -1, -1) == [0.5, 0.0]


def test_compose_is_one_after_the_other() -> None:
    outer, inner = torch.randn(2, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    x, y = at(inner, 0.3, -0.7)
    torch.testing.assert_close(at(compose(outer, inner), 0.3, -0.7), at(outer, x, y), rtol=1e-5, atol=1e-6)


def test_warp_along_a_crop_agrees_with_resample() -> None:
    x = V.gaussian_blur(torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)), [9, 9], [2.0, 2.0])
    box, flip = torch.tensor([[0.2, 0.1, 0.5, 0.6], [0.3, 0.3, 0.4, 0.4]]), torch.tensor([True, False])
    left, top, width, height = (40 * box).unbind(1)
    upright = torch.tensor([False, False])
    want = resample(x, resize_matrix(top, height, upright, 40, 30), resize_matrix(left, width, flip, 40, 30))
    torch.testing.assert_close(warp(x, crop_affine(box, flip), 30), want, atol=1e-4, rtol=0)


def test_a_quarter_turn_turns_the_picture() -> None:
    x = torch.rand(1, 1, 8, 8)
    quarter = turn_affine(torch.tensor([math.pi / 2]), torch.zeros(1, 2), torch.zeros(1))
    torch.testing.assert_close(warp(x, quarter, 8), x.rot90(1, (2, 3)), atol=1e-5, rtol=0)


def test_a_shift_of_one_half_side_moves_by_half_the_picture() -> None:
    x = torch.rand(1, 1, 8, 8)
    moved = warp(x, turn_affine(torch.zeros(1), torch.tensor([[1.0, 0.0]]), torch.zeros(1)), 8)
    torch.testing.assert_close(moved[..., :4], x[..., 4:], atol=1e-5, rtol=0)
