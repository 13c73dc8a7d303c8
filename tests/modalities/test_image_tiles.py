"""Views of several parts: the right part at the right place, the label that belongs to it, and nothing that gives it away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pictures import SETTINGS, batch_of, make, noise, options, prep_of, ramp
from torch import Tensor

from untaught.core import Options, View
from untaught.modalities.image import IMAGE
from untaught.modalities.image.tiles import tile_side
from untaught.ops.permutations import distant_permutations

PLAIN: Options = {
    "grey": 0.0,
    "channel_shift": 0.0,
    "normalise": False,
    "drop": 0.0,
    "pixelate": 0.0,
    "scale": (1.0, 1.0),
    "ratio": (1.0, 1.0),
}
NAMES = ("rotations", "puzzle", "neighbours")


def plain(name: str, pixels: Tensor, **own: Any) -> View:
    """A view in which pixels are only moved."""
    known = options(name)
    return make(name, batch_of(pixels), **{key: value for key, value in (PLAIN | own).items() if key in known})


def smooth(count: int, side: int, seed: int = 0, cells: int = 6) -> Tensor:
    """(B,3,S,S) uint8 of smooth random colours."""
    coarse = torch.rand(count, 3, cells, cells, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False).clamp(0, 1) * 255).round().byte()


def ramps(count: int) -> Tensor:
    """(B,3,96,96) uint16: red is x, green y."""
    return ((ramp(96, count) + 1) / 2 * 65535).round().to(torch.int32).to(torch.uint16)


def centres(view: View) -> Tensor:
    """The mean x and y (B,T,2) that the pixels of each part of a ramp have, in [-1, 1]."""
    return 2 * view.x[:, :, :2].mean((3, 4)) - 1


# -------------------------------------------------------------------------------------------------------------- promises


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize(("name", "count", "classes"), [("rotations", 4, 4), ("puzzle", 9, 1000), ("neighbours", 9, 8)])
def test_shape_type_and_finite(name: str, count: int, classes: int, channels: int) -> None:
    view = make(name, batch_of(noise(5, channels=channels), 1.4))
    side = 24 if name == "rotations" else 6
    assert view.x.shape == (5, count, channels, side, side)
    assert view.x.dtype == torch.float32
    assert view.x.isfinite().all()
    assert view.parts is not None
    assert view.parts.shape == (5, count)
    assert view.target is not None
    assert view.target.shape == ((5, classes) if name == "puzzle" else (5, count - (name == "neighbours"), classes))
    assert (view.target.sum(-1) == 1).all()
    assert view.meta is not None
    assert view.meta["affine"].shape == (5, count, 2, 3)
    assert view.apart().x.shape == (5 * count, channels, side, side)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_has_its_parts_in_any_micro_batch(name: str) -> None:
    batch = batch_of(noise(6), 1.3)
    whole = make(name, batch)
    for rows in (slice(0, 1), slice(1, 6)):
        part = make(name, {key: value[rows] for key, value in batch.items()})
        torch.testing.assert_close(part.x, whole.x[rows], atol=1e-4, rtol=0)
        assert torch.equal(part.parts, whole.parts[rows])  # type: ignore[index, arg-type]
        assert torch.equal(part.target, whole.target[rows])  # type: ignore[index, arg-type]


@pytest.mark.parametrize("name", ["puzzle", "neighbours"])
def test_no_draw_is_shared_between_samples_epochs_or_places(name: str) -> None:
    """Each of 64 samples of the same image has tiles of its own; so has each epoch, and a view elsewhere among the views."""
    batch = batch_of(noise(1).expand(64, -1, -1, -1))
    first = make(name, batch).x
    assert len(first.flatten(1).unique(dim=0)) == 64
    assert torch.equal(first, make(name, batch).x)
    for key in ("seed", "epoch", "position"):
        other = make(name, batch, **{key: 1}).x  # type: ignore[arg-type]
        assert not (first.flatten(1) == other.flatten(1)).all(1).any()


@pytest.mark.parametrize("name", NAMES)
def test_the_affine_says_where_each_part_came_from(name: str) -> None:
    """Of a ramp, whose pixels say where they are, also in a crop of the image."""
    view = plain(name, ramps(16), size=48, scale=(0.3, 1.0), flip=0.0, jitter=0.0, blur=0.0)
    assert view.meta is not None
    said = view.meta["affine"][..., 2]  # where the centre of the part is
    torch.testing.assert_close(centres(view), said, atol=0.02, rtol=0)
    pixel = view.x[:, :, :2, 0, 0] * 2 - 1  # the first pixel
    half = 1 - 1 / view.x.shape[-1]
    corner = said - half * view.meta["affine"][..., :2].sum(-1)
    torch.testing.assert_close(pixel, corner, atol=0.03, rtol=0)


# ------------------------------------------------------------------------------------------------------------- rotations


def test_rotations_are_quarter_turns_counter_clockwise_of_the_same_view() -> None:
    view = plain("rotations", noise(3, side=24))
    for turn in range(4):
        want = np.rot90(view.x[:, 0].numpy(), turn, axes=(2, 3))
        assert np.array_equal(view.x[:, turn].numpy(), want)  # exact: nothing is resampled
    assert torch.equal(view.parts, torch.arange(4).expand(3, -1))  # type: ignore[arg-type]
    assert torch.equal(view.target, torch.eye(4).expand(3, -1, -1))  # type: ignore[arg-type]


def test_the_upright_part_is_the_view_without_turns() -> None:
    batch = batch_of(noise(3))
    assert torch.equal(make("rotations", batch, scale=(0.5, 1.0)).x[:, 0], make("light", batch, scale=(0.5, 1.0), flip=0.5).x)


# ---------------------------------------------------------------------------------------------------------------- puzzle


def test_each_tile_lies_in_the_cell_that_its_part_says() -> None:
    view = plain("puzzle", ramps(64), size=48)
    assert view.parts is not None
    place = (centres(view) + 1) / 2 * 3  # in cells
    assert torch.equal(place[..., 0].floor().long(), view.parts % 3)
    assert torch.equal(place[..., 1].floor().long(), view.parts // 3)


def test_the_target_is_the_number_of_the_order_in_the_set() -> None:
    view = make("puzzle", batch_of(noise(200)), permutations=50)
    assert view.target is not None
    orders = distant_permutations(9, 50)
    number = view.target.argmax(1)
    assert torch.equal(orders[number], view.parts)  # type: ignore[arg-type]
    assert len(number.unique()) > 40  # all are drawn


def test_tiles_of_a_puzzle_never_overlap_and_are_anywhere_in_their_cells() -> None:
    view = plain("puzzle", ramps(200), size=48)  # tiles of 12, cells of 15.94
    assert view.meta is not None
    assert view.parts is not None
    left = ((view.meta["affine"][..., 2] + 1) / 2 * 48 - 6).round()  # (B,T,2) x, y of the corners
    cells = view.parts.argsort(1)
    corner = left.gather(1, cells.unsqueeze(2).expand(-1, -1, 2)).unflatten(1, (3, 3))
    assert (corner[:, :, 1:, 0] - corner[:, :, :-1, 0]).min() >= 12
    assert (corner[:, 1:, :, 1] - corner[:, :-1, :, 1]).min() >= 12
    offset = corner[:, :, 0, 0]
    assert set(offset.unique().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert corner.min() >= 0
    assert corner.max() <= 36


def test_tiles_that_touch_are_the_image_again() -> None:
    """Without gaps and displacement, in the right order."""
    pixels = noise(4, side=24)
    view = plain("puzzle", pixels, tile=8, gap=0.0)
    assert view.parts is not None
    tiles = view.x.gather(1, view.parts.argsort(1).view(4, 9, 1, 1, 1).expand_as(view.x))
    image = tiles.unflatten(1, (3, 3)).permute(0, 3, 1, 4, 2, 5).reshape(4, 3, 24, 24)
    torch.testing.assert_close(image, pixels / 255)


def test_a_grid_smaller_than_the_view_is_placed_at_random_in_it() -> None:
    view = plain("puzzle", ramps(200), size=48, tile=12, gap=0.0)
    assert view.meta is not None
    assert view.parts is not None
    first = (view.meta["affine"][..., 2] + 1) / 2 * 48 - 6
    corner = first[view.parts == 0].round()
    assert corner.min() == 0
    assert corner.max() == 12
    assert len(corner.unique(dim=0)) > 60  # of 13 x 13


def test_channels_of_a_tile_are_displaced_by_whole_pixels() -> None:
    pixels = noise(1, side=96)[:, :1].expand(1, 3, -1, -1).repeat(100, 1, 1, 1)  # grey: the channels are equal
    still = plain("puzzle", pixels, size=96)
    moved = plain("puzzle", pixels, size=96, channel_shift=2 / 24)
    assert bool((still.x == still.x[:, :, :1]).all())
    alike = (moved.x[:, :, 0] == moved.x[:, :, 1]).flatten(2).all(2).float().mean()
    assert alike == pytest.approx(1 / 25, abs=0.02)  # two draws of 5 x 5 displacements
    inner = moved.x[:, :, 0, 4:-4, 4:-4].flatten(2)
    assert (inner - still.x[:, :, 0, 4:-4, 4:-4].flatten(2)).abs().amax(2).gt(0).float().mean() > 0.8


# ------------------------------------------------------------------------------------------------------------ neighbours


def test_each_neighbour_lies_where_the_target_says() -> None:
    view = plain("neighbours", ramps(300), size=48)
    assert view.target is not None
    assert view.parts is not None
    away = (centres(view)[:, 1:] - centres(view)[:, :1]) * 24 / 18  # in steps of a patch of 12 and a gap of 6
    column, row = away.round().long().unbind(2)
    number = (row + 1) * 3 + column + 1
    assert torch.equal(view.parts[:, 1:], number)
    assert (view.parts[:, 0] == 4).all()
    assert torch.equal(view.target.argmax(2), number - (number > 4).long())
    assert number.sort(1).values.tolist() == [[0, 1, 2, 3, 5, 6, 7, 8]] * 300


def test_the_gap_is_half_a_patch_with_a_jitter_of_seven_in_ninety_six() -> None:
    pixels = ((ramp(96, 400) + 1) / 2 * 65535).round().to(torch.int32).to(torch.uint16)
    view = plain("neighbours", pixels, size=384, tile=96)
    assert view.meta is not None
    away = (view.meta["affine"][:, 1:, :, 2] - view.meta["affine"][:, :1, :, 2]) / 2 * 398  # the view has room for the jitter
    straight = away.abs().amax(2)
    assert straight.min() >= 144 - 14 - 1
    assert straight.max() <= 144 + 14 + 1
    assert straight.std() > 2


# ------------------------------------------------------------------------------------------------------------------ cues


def edges_alike(view: View) -> Tensor:
    """(B x 8,8) how well the edges of the central patch and a neighbour fit if it is the neighbour k: the mean squared difference along the
    common edge, by which touching patches of a smooth image can be placed without looking at anything else; infinite for diagonal ones."""
    a, b = view.x[:, :1].expand(-1, 8, -1, -1, -1).flatten(0, 1), view.x[:, 1:].flatten(0, 1)
    pairs = {1: (a[:, :, 0], b[:, :, -1]), 3: (a[..., 0], b[..., -1]), 4: (a[..., -1], b[..., 0]), 6: (a[:, :, -1], b[:, :, 0])}
    scores = torch.full((len(a), 8), torch.inf)
    for k, (x, y) in pairs.items():
        scores[:, k] = (x - y).square().mean((1, 2))
    return scores


def placed_by_edges(view: View) -> float:
    assert view.target is not None
    answer = view.target.argmax(2).flatten()
    straight = torch.isin(answer, torch.tensor([1, 3, 4, 6]))
    return float((edges_alike(view).argmin(1) == answer)[straight].float().mean())


def test_edges_place_patches_that_touch_but_not_those_with_gaps() -> None:
    pixels = smooth(60, 48, cells=12)
    touching = placed_by_edges(plain("neighbours", pixels, size=48, gap=0.0))
    apart = placed_by_edges(make("neighbours", batch_of(pixels), size=48, drop=0.0))
    assert touching > 0.9
    assert apart < 0.5


def test_dropped_channels_do_not_depend_on_the_image() -> None:
    """So that no chromatic aberration is left: two images with other colours in the dropped channels have the same patches."""
    first = smooth(40, 36)
    for kept in range(3):
        other = torch.where(torch.arange(3).view(3, 1, 1) == kept, first, smooth(40, 36, seed=1))
        a, b = (make("neighbours", batch_of(pixels), pixelate=0.0).x for pixels in (first, other))
        strong = a.square().mean((3, 4)).argmax(2)  # the kept channel has nearly all of the variance
        assert torch.equal(strong == kept, ((a - b).abs().amax((2, 3, 4)) < 1e-4))
        assert (strong == kept).any()


def test_a_projected_pair_has_nothing_along_green_and_magenta() -> None:
    view = make("neighbours", batch_of(smooth(8, 36)), drop=0.0, project=1.0, pixelate=0.0, normalise=False)
    red, green, blue = view.x.unbind(2)
    assert (-red + 2 * green - blue).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["puzzle", "neighbours"])
def test_normalised_tiles_say_nothing_about_brightness_and_contrast(name: str) -> None:
    x = make(name, batch_of(smooth(8, 36)), drop=0.0, pixelate=0.0) if name == "neighbours" else make(name, batch_of(smooth(8, 36)))
    torch.testing.assert_close(x.x.mean((3, 4)), torch.zeros(x.x.shape[:3]), atol=1e-4, rtol=0)
    assert x.x.square().mean((2, 3, 4)).sub(1).abs().max() < 0.25  # nearly flat tiles are not blown up


def test_grey_puzzles_have_their_share() -> None:
    x = make("puzzle", batch_of(smooth(400, 36)), channel_shift=0.0, normalise=False).x
    grey = (x.amax(2) - x.amin(2)).flatten(1).amax(1) < 1e-3
    assert abs(grey.float().mean() - 0.3) < 0.08


# --------------------------------------------------------------------------------------------------------- sizes, layout


@pytest.mark.parametrize(
    ("size", "stride", "tile"),
    [(32, 0, 8), (32, 8, 8), (28, 8, 8), (16, 8, 8), (64, 16, 16), (96, 32, 32), (96, 12, 24), (224, 0, 56), (224, 32, 64), (224, 16, 64)],
)
def test_a_tile_is_a_quarter_of_the_view_in_whole_strides(size: int, stride: int, tile: int) -> None:
    assert tile_side({"size": size, "stride": stride, "tile": 0}) == tile
    assert tile_side({"size": size, "stride": stride, "tile": 20}) == 20


def test_a_view_too_small_for_its_tiles_is_enlarged() -> None:
    """The paper's 255 pixels for nine tiles of 64."""
    view = plain("puzzle", ramps(4), size=96, tile=64)
    assert view.meta is not None
    scale = view.meta["affine"][..., 0, 0]
    torch.testing.assert_close(scale, torch.full_like(scale, 64 / 255))


@pytest.mark.parametrize(("preset", "permutations"), [("photo", 1000), ("small", 100), ("upright", 100)])
def test_large_data_have_the_papers_permutations(preset: str, permutations: int) -> None:
    assert options("puzzle", SETTINGS | {"preset": preset})["permutations"] == permutations


def test_parts_are_drawn_as_the_network_sees_them() -> None:
    pixels = noise(2, side=24)
    turned = plain("rotations", pixels)
    drawn = IMAGE.render(turned, options("rotations"), prep_of())
    line = 2
    assert drawn.shape == (2, 48 + line, 48 + line, 3)
    last = (turned.x[0, 3].permute(1, 2, 0) * 255).round().byte().numpy()
    assert np.array_equal(drawn[0, 24 + line :, 24 + line :], last)
    shuffled = plain("puzzle", pixels)
    drawn = IMAGE.render(shuffled, options("puzzle"), prep_of())
    assert drawn.shape == (2, 20, 20, 3)
    assert np.array_equal(drawn[1, 7:13, 14:], (shuffled.x[1, 5].permute(1, 2, 0) * 255).round().byte().numpy())
    patches = plain("neighbours", pixels)
    drawn = IMAGE.render(patches, options("neighbours"), prep_of())
    for part, (row, column) in {0: (1, 1), 1: (0, 0), 5: (1, 2), 8: (2, 2)}.items():  # the central patch comes first
        own = (patches.x[0, part].permute(1, 2, 0) * 255).round().byte().numpy()
        assert np.array_equal(drawn[0, 7 * row : 7 * row + 6, 7 * column : 7 * column + 6], own)
