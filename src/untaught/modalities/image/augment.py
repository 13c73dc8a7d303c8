"""Arrays to views, batched."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.core import Batch, Options, Preprocessor, UserError, View
from untaught.modalities.image.decode import PART
from untaught.ops import colour, warp
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.masking import block_mask, first, random_mask, rectangles
from untaught.ops.precision import has_bfloat16
from untaught.ops.resample import blur_matrix, resample, resize_matrix

TRIES = 16  # candidate blocks for masking a share of the tokens


def whole(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """The center crop at the view's size, deterministic: for evaluation and export."""
    return augmented(batch, rng, options, prep)


def masked(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A view of square tokens, `rate` of them masked; the target is every token's pixels (B, N, patch * patch * C)."""
    view = augmented(batch, rng, options, prep)
    patch = options["patch"]
    _grid(view, options)
    tokens = F.unfold(view.x, patch, stride=patch).transpose(1, 2)
    return View(view.x, mask=random_mask(rng.order(tokens.shape[1]), options["rate"]), target=tokens, meta=view.meta)


def corrupted(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A view with destroyed pixels, and the clean one as target (B,C,size,size). Vincent et al. 2010, section 3.3.

    masking: a share `level` of the pixels is black; gaussian: noise with standard deviation `level`, in units of the full range, is added
    to every value, without clipping; salt_and_pepper: a share `level` of the pixels is black or white. A pixel is destroyed in all
    channels.
    """
    view, level = augmented(batch, rng, options, prep), options["level"]
    mean, std = (torch.tensor(prep.statistics[key], device=view.x.device).view(-1, 1, 1) for key in ("mean", "std"))
    if options["corruption"] == "gaussian":
        return View(view.x + rng.normal(*view.x.shape[1:]) * (level / std), target=view.x, meta=view.meta)
    hit = rng.uniform(1, *view.x.shape[2:])
    white = hit < level / 2 if options["corruption"] == "salt_and_pepper" else torch.zeros_like(hit, dtype=torch.bool)
    x = torch.where(hit < level, (white.float() - mean) / std, view.x)
    return View(x, target=view.x, meta=view.meta)


def blocks(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A view with masked blocks of tokens: a share drawn from `rate`, in a share `masking` of the samples.

    meta["places"] (B,M): M token positions, all masked ones first. M is the same for every batch.
    """
    view = augmented(batch, rng, options, prep)
    grid, (low, high) = _grid(view, options), options["rate"]
    count = (rng.uniform(low=low, high=high) * rng.chance(options["masking"]) * math.prod(grid)).round()
    mask = block_mask(rng.uniform(TRIES, 4), count, grid)
    places = first(mask, max(round(high * math.prod(grid)), 1))
    return View(view.x, mask=mask, meta={**(view.meta or {}), "places": places})


def multiblock(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A view with an unmasked context, the same number of tokens in each sample, and meta["targets"] (B,T,N) bool.

    The context is drawn from a large block (`context_scale`) outside all targets. Its size is N minus the targets' largest total area,
    which every sample has; if the block has fewer tokens, tokens outside it are added, never tokens of a target.
    """
    view = augmented(batch, rng, options, prep)
    grid, count = _grid(view, options), options["targets"]
    targets = rectangles(rng.uniform(count, 4), options["target_scale"], options["target_ratio"], grid)
    block = rectangles(rng.uniform(1, 4), options["context_scale"], (1.0, 1.0), grid).squeeze(1)
    tokens = math.prod(grid)
    shown = tokens - count * max(int(options["target_scale"][1] * tokens), 1)
    if shown < 1:
        raise UserError(f"{count} targets in a view of {tokens} tokens leave no context; choose a larger size or a smaller patch")
    order = (2.0 * targets.any(1) + ~block + rng.uniform(tokens)).argsort(1)
    mask = torch.ones_like(block).scatter_(1, order[:, :shown], False)
    return View(view.x, mask=mask, meta={**(view.meta or {}), "targets": targets})


def _grid(view: View, options: Options) -> tuple[int, int]:
    """Rows and columns of tokens. Raises UserError for a single token, which can't be partly masked."""
    high, wide = (side // options["patch"] for side in view.x.shape[-2:])
    if high * wide < 2:
        raise UserError(
            f"a view of side {options['size']} is one token of the encoder's patch of {options['patch']}; masking needs at least two: "
            "choose a larger size or a smaller patch (encoder.patch=4; for timm, encoder.patch_size=4)"
        )
    return high, wide


def augmented(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """pixels (B,C,S,S), aspect (B,) -> x (B,C,size,size) float32, normalised; meta["affine"] (B,2,3) view -> stored image."""
    pixels, size = batch["pixels"], options["size"]
    channels, top = pixels.shape[1], 255.0 if pixels.dtype == torch.uint8 else 65535.0
    box, flip, upside = _box(batch["aspect"], rng, options), rng.chance(options["flip"]), rng.chance(options["flip_vertical"])
    affine = _affine(box, flip, upside, rng, options)
    sigma = _sigma(rng, options)
    matrix, pull = _colour(channels, rng, options)
    mean, std = (torch.tensor(prep.statistics[key], device=pixels.device).view(-1, 1, 1) for key in ("mean", "std"))
    matrix, pull = matrix / (top * std.squeeze(2)), pull / (top * std.squeeze(2))  # normalising is affine too

    x = torch.empty(len(pixels), channels, size, size, device=pixels.device)
    for part in _parts(x):
        blur = None if sigma is None else blur_matrix(sigma[part], size)
        sampled = _resampled(pixels[part], box[part], flip[part], upside[part], affine[part], blur, options)
        offset = pull[part] @ sampled.mean((2, 3)).unsqueeze(2) - (mean / std).squeeze(2)
        torch.baddbmm(offset, matrix[part], sampled.flatten(2), out=x[part].flatten(2))
    if options["noise"]:
        x += rng.normal(*x.shape[1:]) * (options["noise"] / std)
    if options["noise"] or options["jitter"]:
        for channel, m, s in zip(x.unbind(1), prep.statistics["mean"], prep.statistics["std"], strict=True):
            channel.clamp_(-m / s, (1 - m) / s)
    if options["solarize"]:  # values above 0.5 are inverted; the other samples use threshold 1, which changes nothing
        middle = (torch.where(rng.chance(options["solarize"]), 0.5, 1.0).view(-1, 1, 1, 1) - mean) / std
        torch.sub(middle, x.sub_(middle).abs_(), out=x)
    if options["erase"]:
        x.masked_fill_(_erased(size, rng, options)[:, None], 0.0)
    return View(x, meta={"affine": affine})


def _parts(x: Tensor) -> list[slice]:
    """Chunks of samples: on a CPU, as many as fit in its caches, since allocating memory costs more than the arithmetic."""
    each = max(1, PART // x[0].numel()) if x.device.type == "cpu" else len(x)
    return [slice(start, start + each) for start in range(0, len(x), each)]


def _box(aspect: Tensor, rng: CounterRNG, options: Options) -> Tensor:
    """A random crop of the original geometry -> (B,4) left, top, width, height as fractions of the image.

    As torchvision's RandomResizedCrop: ten tries of area and ratio, else the center crop with an allowed ratio.
    """
    (low, high), (narrow, broad) = options["scale"], options["ratio"]
    tries = 1 if low == high == 1.0 else 10
    area, log_ratio = rng.uniform(tries, low=low, high=high), rng.uniform(tries, low=float(np.log(narrow)), high=float(np.log(broad)))
    ratio, aspect = log_ratio.exp(), aspect.unsqueeze(1)
    width, height = (area * ratio / aspect).sqrt(), (area / ratio * aspect).sqrt()
    fits = (width <= 1) & (height <= 1)
    first = fits.int().argmax(1, keepdim=True)
    width, height = width.gather(1, first), height.gather(1, first)
    central = aspect.clamp(narrow, broad)
    width = torch.where(fits.any(1, keepdim=True), width, (central / aspect).clamp(max=1))
    height = torch.where(fits.any(1, keepdim=True), height, (aspect / central).clamp(max=1))
    place = rng.uniform(2) if tries > 1 else torch.full_like(width, 0.5).expand(-1, 2)
    place = torch.where(fits.any(1, keepdim=True), place, 0.5)
    return torch.cat([place[:, :1] * (1 - width), place[:, 1:] * (1 - height), width, height], 1)


def _affine(box: Tensor, flip: Tensor, upside: Tensor, rng: CounterRNG, options: Options) -> Tensor:
    """Crop, flips, rotation, translation and shear -> affine (B,2,3) from the view to the stored image."""
    affine = warp.crop_affine(box, flip)
    affine[:, 1, 1] *= torch.where(upside, -1.0, 1.0)
    if not _turned(options):
        return affine
    angle = rng.uniform(low=-1, high=1) * float(np.deg2rad(options["rotate"]))
    shift = rng.uniform(2, low=-2, high=2) * options["translate"]
    shear = rng.uniform(low=-1, high=1) * float(np.deg2rad(options["shear"]))
    return warp.compose(affine, warp.turn_affine(angle, shift, shear))


def _turned(options: Options) -> bool:
    return bool(options["rotate"] or options["translate"] or options["shear"])


def _sigma(rng: CounterRNG, options: Options) -> Tensor | None:
    """Blur sigma of each sample in pixels of the view (B,), 0 for none; None if blur is off."""
    if not options["blur"]:
        return None
    low, high = (sigma * options["size"] / 224 for sigma in options["blur_sigma"])
    return rng.uniform(low=low, high=high) * rng.chance(options["blur"])


def _resampled(pixels: Tensor, box: Tensor, flip: Tensor, upside: Tensor, affine: Tensor, blur: Tensor | None, options: Options) -> Tensor:
    """Applies crop, flips, affine and blur -> (B,C,size,size) float32 in the units of the pixels."""
    size, (height, width) = options["size"], pixels.shape[-2:]
    if _turned(options):
        pixels = warp.warp(pixels.float(), affine, size)
        return pixels if blur is None else resample(pixels, blur, blur)
    left, top, across, down = box.unbind(1)
    rows = resize_matrix(top * height, down * height, upside, height, size)
    columns = resize_matrix(left * width, across * width, flip, width, size)
    if pixels.dtype == torch.uint8 and options["scale"] != (1.0, 1.0) and has_bfloat16(pixels.device.type):
        # 0..255 is exact in bfloat16; the result is as precise as Pillow's, which is rounded to 8 bits
        rows, columns, blur = rows.bfloat16(), columns.bfloat16(), None if blur is None else blur.bfloat16()
    if blur is not None:
        rows, columns = blur @ rows, blur @ columns
    return resample(pixels, rows, columns).float()


def _colour(channels: int, rng: CounterRNG, options: Options) -> tuple[Tensor, Tensor]:
    """The colour transform of each sample: matrix and pull (B,C,C), see colour.jitter."""
    if not options["jitter"] and not options["grey"]:
        same = torch.eye(channels, device=rng.keys.device).expand(len(rng.keys), -1, -1)
        return same, torch.zeros_like(same)
    on = rng.chance(options["jitter"])
    brightness, contrast, saturation = (
        torch.where(on, rng.uniform(low=max(1 - options[name], 0.01), high=1 + options[name]), 1.0)
        for name in ("brightness", "contrast", "saturation")
    )
    hue = torch.where(on, rng.uniform(low=-options["hue"], high=options["hue"]), 0.0)
    return colour.jitter(channels, brightness, contrast, saturation, hue, rng.chance(options["grey"]))


def _erased(size: int, rng: CounterRNG, options: Options) -> Tensor:
    """(B,size,size) bool: a random rectangle in the selected samples. Random erasing, Zhong et al. 2020."""
    low, high = options["erase_area"]
    area, ratio = rng.uniform(low=low, high=high), rng.uniform(low=float(np.log(0.3)), high=float(np.log(3.3))).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).clamp(max=1)
    start = rng.uniform(2) * (1 - sides)
    place = (torch.arange(size, device=area.device) + 0.5) / size
    inside = (place >= start.unsqueeze(2)) & (place < (start + sides).unsqueeze(2))
    return inside[:, 0, :, None] & inside[:, 1, None, :] & rng.chance(options["erase"]).view(-1, 1, 1)
