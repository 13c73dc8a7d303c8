"""Views with several parts of an image, x (B,T,C,h,w): the image in four rotations, a puzzle of tiles, a patch and its neighbours.

meta["parts"] (B,T) says which part each one is, and target, one-hot, what a method must predict.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.core import Batch, Options, Preprocessor, View
from untaught.modalities.image.augment import augmented
from untaught.ops import warp
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.permutations import distant_permutations
from untaught.ops.tiles import cut, keep_one_channel, pixelate, project_green_magenta, standardise

TURNS = 4
AROUND = 3  # cells along a side of the neighbourhood of a patch
CENTRE = AROUND * AROUND // 2
COARSEST = 10 / 96  # smallest side to which a patch is downsampled, as a share of its own; Doersch et al. 2015
TRACE = 0.01  # standard deviation of the noise in dropped channels, as a share of the kept one's; Doersch et al. 2015
SHARE = 4  # a tile's side is about this fraction of the view's


def rotations(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A view turned by 0, 90, 180 and 270 degrees, counter-clockwise: x (B,4,C,size,size), meta["parts"] 0 .. 3, target (B,4,4) one-hot.

    Exact: pixels are moved, not resampled, so that no trace of an interpolation gives the rotation away.
    """
    view = augmented(batch, rng, options, prep)
    assert view.meta is not None
    turns = torch.arange(TURNS, device=view.x.device).expand(len(view), -1)
    zero = torch.zeros(turns.numel(), device=view.x.device)
    turned = warp.turn_affine(turns.flatten() * (math.pi / 2), zero.unsqueeze(1).expand(-1, 2), zero)
    affine = warp.compose(view.meta["affine"].repeat_interleave(TURNS, 0), turned).unflatten(0, (-1, TURNS))
    x = torch.stack([view.x.rot90(turn, (2, 3)) for turn in range(TURNS)], 1)
    return View(x, target=_one_hot(turns, TURNS), meta={"affine": affine, "parts": turns})


def puzzle(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """The tiles of a grid, in an order drawn from a set of `permutations` that are far apart: x (B,grid^2,C,tile,tile).

    meta["parts"] (B,grid^2): the cell, row by row, that each tile was cut from. target (B,permutations): the number of the order in
    ops.permutations.distant_permutations.
    """
    grid = options["grid"]
    orders = distant_permutations(grid * grid, options["permutations"]).to(batch["index"].device)
    number = (rng.uniform() * len(orders)).long()
    cells = orders[number]
    x, affine = _tiles(batch, rng, options, prep, cells, grid)
    return View(
        standardise(x) if options["normalise"] else x, target=_one_hot(number, len(orders)), meta={"affine": affine, "parts": cells}
    )


def neighbours(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """The central patch of a 3 x 3 grid, and its eight neighbours: x (B,9,C,tile,tile).

    meta["parts"] (B,9): the cell of each, row by row: 4, then the others. target (B,8,8): which neighbour each one is, in that order.
    """
    count, around = len(batch["index"]), AROUND * AROUND - 1
    number = torch.arange(around, device=batch["index"].device)
    cells = torch.cat([number.new_tensor([CENTRE]), number + (number >= CENTRE).long()]).expand(count, -1)
    x, affine = _tiles(batch, rng, options, prep, cells, AROUND)
    x = _without_cues(x, rng, options, prep)
    return View(x, target=_one_hot(number, around).expand(count, -1, -1), meta={"affine": affine, "parts": cells})


def tile_side(options: Options) -> int:
    """The side of a tile in pixels: as given, else a quarter of the view's side, rounded to a multiple of the encoder's stride if known."""
    size, stride = options["size"], options["stride"] or 1
    return options["tile"] or max(1, round(size / SHARE / stride)) * stride


def _tiles(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor, cells: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """The tiles at cells (B,T) of a grid, row by row -> (B,T,C,tile,tile), and affine (B,T,2,3) from a tile to the stored image.

    Neighbours are `gap` apart (a share of the tile's side), and each tile is displaced by up to `shift` of the gap in both directions.
    The view that they are cut from has the side `size`, or more if the grid needs more; a smaller grid is placed at random in it.
    """
    tile = tile_side(options)
    gap = options["gap"] * tile
    shift = options["shift"] * gap
    extent = grid * tile + (grid - 1) * gap + 2 * shift
    size = max(options["size"], math.ceil(extent - 1e-6))
    view = augmented(batch, rng, {**options, "size": size}, prep)
    assert view.meta is not None
    at = torch.stack([cells // grid, cells % grid], 2)  # (B,T,2) row and column
    count, channels = cells.shape[1], view.x.shape[1]
    start = shift + rng.uniform(1, 2) * (size - extent)
    displaced = rng.uniform(count, 2, low=-1.0, high=1.0) * shift
    corner = (start + at * (tile + gap) + displaced + 0.5).floor().long().clamp(0, size - tile)
    most = round(options.get("channel_shift", 0.0) * tile)
    moved = (rng.uniform(count, 2, channels) * (2 * most + 1)).floor().long() - most
    top, left = (corner.unsqueeze(3) + moved).clamp(0, size - tile).unbind(2)
    box = torch.stack([corner[..., 1], corner[..., 0], *[torch.full_like(corner[..., 0], tile)] * 2], 2) / size
    inner = warp.crop_affine(box.flatten(0, 1), torch.zeros(cells.numel(), dtype=torch.bool, device=cells.device))
    affine = warp.compose(view.meta["affine"].repeat_interleave(count, 0), inner).unflatten(0, (-1, count))
    return cut(view.x, top, left, tile), affine


def _without_cues(x: Tensor, rng: CounterRNG, options: Options, prep: Preprocessor) -> Tensor:
    """Patches (B,T,C,h,w), some pixelated, some with projected colours or with only one channel, and each normalised by itself."""
    count, channels, side = x.shape[1], x.shape[2], x.shape[-1]
    if options["pixelate"]:
        low = max(1.0, COARSEST * side)
        small = rng.uniform(count, low=low**2, high=side**2).sqrt().long()
        some = rng.uniform(count) < options["pixelate"]
        x = pixelate(x.flatten(0, 1), torch.where(some, small, side).flatten()).view_as(x)
    if options["project"] and channels == 3:
        mean, std = (torch.tensor(prep.statistics[key], device=x.device) for key in ("mean", "std"))
        x = torch.where(rng.chance(options["project"]).view(-1, 1, 1, 1, 1), project_green_magenta(x, mean, std), x)
    if options["drop"] and channels > 1:
        kept = (rng.uniform(count) * channels).long()
        dropped = (rng.uniform(count) < options["drop"])[..., None, None, None]
        x = torch.where(dropped, keep_one_channel(x, kept, rng.normal(*x.shape[1:]), TRACE), x)
    return standardise(x) if options["normalise"] else x


def _one_hot(number: Tensor, classes: int) -> Tensor:
    return F.one_hot(number, classes).float()


def laid_out(x: Tensor, cells: Tensor | None, options: Options) -> Tensor:
    """x (B,T,C,h,w) in 0..1 -> one image each, (B,C,H,W): the parts in a square, each at its cell (B,T), in the given order if none."""
    count, (high, wide) = x.shape[1], x.shape[-2:]
    grid = options.get("grid", AROUND if "tile" in options else math.isqrt(count))
    line = max(1, high // 12)
    cells = torch.arange(count).expand(len(x), -1) if cells is None else cells
    sheet = torch.ones(len(x), x.shape[2], grid * (high + line) - line, grid * (wide + line) - line)
    for picture, tiles, places in zip(sheet, x, cells.tolist(), strict=True):
        for tile, place in zip(tiles, places, strict=True):
            top, left = place // grid * (high + line), place % grid * (wide + line)
            picture[:, top : top + high, left : left + wide] = tile
    return sheet
