"""Crop, flip, resize and blur as matrices, against torchvision."""

from __future__ import annotations

import pytest
import torch
import torchvision.transforms.v2.functional as V

from untaught.ops.resample import blur_matrix, resample, resize_matrix


def crop_by_matrices(x: torch.Tensor, box: tuple[int, int, int, int], flip: bool, size: int) -> torch.Tensor:
    """box: top, left, height, width in pixels."""
    top, left, height, width = (torch.tensor([float(v)]) for v in box)
    rows = resize_matrix(top, height, torch.tensor([False]), x.shape[2], size)
    return resample(x, rows, resize_matrix(left, width, torch.tensor([flip]), x.shape[3], size))


@pytest.fixture
def photo() -> torch.Tensor:
    return torch.rand(1, 3, 48, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [24, 40, 48, 80])
def test_the_whole_picture_is_resized_as_by_torchvision(photo: torch.Tensor, size: int, flip: bool) -> None:
    want = V.resize(photo, [size, size], antialias=True)
    want = V.horizontal_flip(want) if flip else want
    torch.testing.assert_close(crop_by_matrices(photo, (0, 0, 48, 40), flip, size), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", [(7, 5, 24, 20), (10, 3, 30, 30), (20, 20, 9, 13)])
@pytest.mark.parametrize("size", [8, 20])
def test_inside_its_border_a_crop_is_torchvisions(photo: torch.Tensor, box: tuple[int, int, int, int], flip: bool, size: int) -> None:
    want = V.resized_crop(photo, *box, size=[size, size], antialias=True)
    want = V.horizontal_flip(want) if flip else want
    border = 1 + size // (2 * min(box[2:]))  # where the filter reaches over the edge, ours reads on and torchvision's stops
    inside = (..., slice(border, -border), slice(border, -border))
    torch.testing.assert_close(crop_by_matrices(photo, box, flip, size)[inside], want[inside], atol=1e-5, rtol=0)


def test_rows_sum_to_one() -> None:
    start, length = torch.tensor([0.0, 3.7, -0.4, 30.0]), torch.tensor([32.0, 0.3, 32.0, 2.0])
    resize = resize_matrix(start, length, torch.tensor([False, True, False, True]), 32, 20)
    blur = blur_matrix(torch.tensor([0.0, 0.1, 1.0, 30.0]), 20)
    for matrix in (resize, blur):
        torch.testing.assert_close(matrix.sum(-1), torch.ones(matrix.shape[:2]))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur_is_torchvisions_gaussian_away_from_the_border(photo: torch.Tensor, sigma: float) -> None:
    reach = 8  # torchvision reflects at the border, ours stops there
    want = V.gaussian_blur(photo, [2 * reach + 1, 2 * reach + 1], [sigma, sigma])
    got = resample(photo, blur_matrix(torch.tensor([sigma]), 48), blur_matrix(torch.tensor([sigma]), 40))
    inside = (..., slice(reach, -reach), slice(reach, -reach))
    torch.testing.assert_close(got[inside], want[inside], atol=1e-4, rtol=0)


def test_blur_of_zero_is_the_identity() -> None:
    torch.testing.assert_close(blur_matrix(torch.zeros(2), 9), torch.eye(9).expand(2, -1, -1))


def test_each_sample_has_its_own_matrices() -> None:
    x = torch.rand(2, 1, 6, 6)
    flip = torch.tensor([False, True])
    still, turned = torch.zeros(2), torch.full((2,), 6.0)
    out = resample(x, resize_matrix(still, turned, torch.tensor([False, False]), 6, 6), resize_matrix(still, turned, flip, 6, 6))
    torch.testing.assert_close(out[0], x[0])
    torch.testing.assert_close(out[1], x[1].flip(-1))
