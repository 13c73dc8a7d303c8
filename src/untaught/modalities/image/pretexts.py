"""Prediction targets of views, and answers to them, as images and as columns of a table."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.core import Options, Preprocessor, Pretext, View
from untaught.modalities.image.levels import LEVELS
from untaught.modalities.image.lightness import coloured
from untaught.modalities.image.tiles import CENTRE, TURNS, laid_out
from untaught.ops.colour_bins import has_colours
from untaught.ops.colour_difference import ciede2000, colourfulness
from untaught.ops.lab import to_lab, to_srgb
from untaught.ops.paste import pasted
from untaught.ops.permutations import distant_permutations

PIXELS = 255.0
DARKEST = 0.15  # brightness of pixels without any weight, as a share of their own


def unnormalised(x: Tensor, prep: Preprocessor) -> Tensor:
    """Normalised pixels (...,C,H,W) -> 0..1, on the CPU."""
    mean, std = (torch.tensor(prep.statistics[key]).view(-1, 1, 1) for key in ("mean", "std"))
    return (x.detach().float().cpu() * std + mean).clamp(0, 1)


def as_bytes(x: Tensor) -> np.ndarray:
    """Pixels in 0..1, (B,C,H,W) -> (B,H,W,3) uint8: the first three channels, or the first, if fewer."""
    x = x[:, :3] if x.shape[1] >= 3 else x[:, :1].expand(-1, 3, -1, -1)
    return (x.clamp(0, 1) * PIXELS).round().byte().permute(0, 2, 3, 1).numpy()


def masked_pixels(mask: Tensor, side: int, rows: int) -> Tensor:
    """A mask of square tokens (B,N) -> of pixels (B,1,H,W)."""
    return mask.cpu().view(len(mask), 1, rows, -1).repeat_interleave(side, 2).repeat_interleave(side, 3)


def psnr(image: Tensor, truth: Tensor, where: Tensor | None = None) -> np.ndarray:
    """The peak signal-to-noise ratio of images (B,C,H,W) in 0..1 -> (B,) dB; where: pixels that count (B,1,H,W) bool; all if none.

    Equal images have infinity.
    """
    error = (image - truth).square().mean(1, keepdim=True).flatten(1)
    if where is None:
        mean = error.mean(1)
    else:
        counted = where.flatten(1).float()
        mean = (error * counted).sum(1) / counted.sum(1)
    return (-10 * mean.log10()).numpy()


# ------------------------------------------------------------------------------------------------------ masked tokens


def filled(view: View, answer: Tensor, options: Options, prep: Preprocessor) -> Tensor:
    """The view with the pixels of `answer` (B,N,patch * patch * C) in its masked tokens -> (B,C,H,W) in 0..1."""
    assert view.mask is not None
    side, (high, wide) = options["patch"], view.x.shape[-2:]
    rows, columns = high // side, wide // side
    drawn = F.fold(answer.detach().float().cpu().transpose(1, 2), (rows * side, columns * side), side, stride=side)
    drawn = F.pad(drawn, (0, wide - columns * side, 0, high - rows * side))
    mask = F.pad(masked_pixels(view.mask, side, rows), (0, wide - columns * side, 0, high - rows * side))
    return unnormalised(torch.where(mask, drawn, view.x.detach().float().cpu()), prep)


def render_tokens(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    assert view.target is not None
    return as_bytes(filled(view, view.target, options, prep))


def measure_tokens(view: View, answer: Tensor, options: Options, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> psnr: of the masked pixels, in dB."""
    assert view.mask is not None
    side, (high, wide) = options["patch"], view.x.shape[-2:]
    mask = masked_pixels(view.mask, side, high // side)
    mask = F.pad(mask, (0, wide - mask.shape[-1], 0, high - mask.shape[-2]))
    return {"psnr": psnr(filled(view, answer, options, prep), unnormalised(view.x, prep), mask)}


# ------------------------------------------------------------------------------------------- what a whole image becomes


def render_image(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """A target that is an image in the form of x; x itself without a target."""
    return as_bytes(unnormalised(view.x if view.target is None else view.target, prep))


def measure_image(view: View, answer: Tensor, options: Options, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> psnr: in dB."""
    return {"psnr": psnr(unnormalised(answer, prep), unnormalised(view.x if view.target is None else view.target, prep))}


# ------------------------------------------------------------------------------------------------------ integer levels


def render_levels(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """A target of levels in 0..255 as an image."""
    assert view.target is not None
    return as_bytes(view.target.detach().float().cpu() / (LEVELS - 1))


def measure_levels(view: View, answer: Tensor, options: Options, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> psnr: of the whole image, in dB, also if a part of it was given (a completion)."""
    assert view.target is not None
    return {"psnr": psnr(*((levels.detach().float().cpu() / (LEVELS - 1)) for levels in (answer, view.target)))}


# --------------------------------------------------------------------------------------------------------------- a hole


def mended(view: View, square: Tensor, prep: Preprocessor) -> Tensor:
    """The view with the pixels of `square` (B,C,s,s) in its hole -> (B,C,H,W) in 0..1."""
    assert view.meta is not None
    return unnormalised(pasted(view.x.detach().float(), square.detach().float().to(view.x.device), view.meta["hole"]), prep)


def render_mended(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """The view with the target in its hole."""
    assert view.target is not None
    return as_bytes(mended(view, view.target, prep))


def measure_mended(view: View, answer: Tensor, options: Options, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> psnr: of the pixels in the hole, in dB."""
    assert view.target is not None
    assert view.meta is not None
    return {"psnr": psnr(unnormalised(answer, prep), unnormalised(view.target, prep), view.meta["hole"].cpu())}


# ------------------------------------------------------------------------------------------------------------ colours


def render_colours(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """The lightness of x with the colours of the target."""
    assert view.target is not None
    return as_bytes(to_srgb(coloured(view.x.detach().cpu(), view.target.detach(), prep)))


def measure_colours(view: View, answer: Tensor, options: Options, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> ab_rmse: root mean square over pixels of the distance in the ab plane; ciede2000: mean over pixels; colourfulness of the answer
    and of the true image (Hasler and Suesstrunk). All but ab_rmse are of colours as they are drawn, in sRGB's gamut. Both errors are NaN
    for grey images, whose true colours are unknown."""
    assert view.target is not None
    answered, true = (coloured(view.x.detach().cpu(), ab.detach(), prep) for ab in (answer, view.target))
    drawn, truth = to_srgb(answered), to_srgb(true)
    known = has_colours(true[:, 1:])
    return {
        "ab_rmse": torch.where(known, (answered - true)[:, 1:].square().sum(1).mean((1, 2)).sqrt(), torch.nan).numpy(),
        "ciede2000": torch.where(known, ciede2000(to_lab(drawn), to_lab(truth)).mean((1, 2)).float(), torch.nan).numpy(),
        "colourfulness": colourfulness(drawn).float().numpy(),
        "true_colourfulness": colourfulness(truth).float().numpy(),
    }


# -------------------------------------------------------------------------------------------------- several parts


def turned(view: View) -> Tensor:
    """How far the first part seems to have been turned, by the target's probabilities of all parts -> (B,) quarter turns.

    Part k is the first part turned k times more.
    """
    assert view.target is not None
    chances = view.target.detach().float().cpu().clamp(min=1e-6).log()  # (B,T,4)
    number = torch.arange(TURNS)
    each = chances.gather(2, ((number.view(1, -1) + number.view(-1, 1)) % TURNS).expand(len(chances), -1, -1))
    return each.sum(1).argmax(1)


def render_upright(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """The first part, turned back."""
    x = unnormalised(view.x, prep)[:, 0]
    return as_bytes(torch.stack([one.rot90(-turn, (1, 2)) for one, turn in zip(x, turned(view).tolist(), strict=True)]))


def measure_upright(view: View, answer: Tensor, options: Options, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> turned: degrees, counter-clockwise, by which the image itself seems to be turned; right: the share of its four turned copies
    recognised as such."""
    answered = View(view.x, target=answer, meta=view.meta)
    return {"turned": 90 * turned(answered).numpy(), "right": _right(view, answer)}


def render_solution(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """The tiles in the order of the permutation that the target names."""
    assert view.target is not None
    count = view.x.shape[1]
    cells = distant_permutations(count, view.target.shape[-1])[view.target.detach().cpu().argmax(-1)]
    return as_bytes(laid_out(unnormalised(view.x, prep), cells, options))


def measure_solution(view: View, answer: Tensor, options: Options, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> right: whether the permutation is; tiles_right: the share of tiles at their places."""
    assert view.parts is not None
    cells = distant_permutations(view.x.shape[1], answer.shape[-1])[answer.detach().cpu().argmax(-1)]
    return {"right": _right(view, answer), "tiles_right": (cells == view.parts.cpu()).float().mean(1).numpy()}


def render_neighbours(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """The central patch, and the others where the target puts them; of several at one place, the last is seen."""
    assert view.target is not None
    place = view.target.detach().cpu().argmax(-1)
    cells = torch.cat([torch.full_like(place[:, :1], CENTRE), place + (place >= CENTRE).long()], 1)
    return as_bytes(laid_out(unnormalised(view.x, prep), cells, options))


def measure_neighbours(view: View, answer: Tensor, options: Options, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> right: the share of the neighbours whose place is."""
    return {"right": _right(view, answer)}


def _right(view: View, answer: Tensor) -> np.ndarray:
    """The share of a sample's classes that are right -> (B,)."""
    assert view.target is not None
    return (view.target.argmax(-1) == answer.argmax(-1)).float().cpu().view(len(answer), -1).mean(1).numpy()


def overlay(view: View, weights: Tensor, options: Options, prep: Preprocessor) -> np.ndarray:
    """Images with the brightness of each pixel from the weights of the tokens (B,h,w): the smallest of an image dark, the largest full."""
    x = unnormalised(view.x, prep)
    fine = F.interpolate(weights.detach().float().cpu()[:, None], x.shape[-2:], mode="bilinear", align_corners=False)
    low, high = fine.amin((2, 3), keepdim=True), fine.amax((2, 3), keepdim=True)
    return as_bytes(x * (DARKEST + (1 - DARKEST) * (fine - low) / (high - low).clamp(min=1e-12)))


TOKENS = Pretext(render_tokens, measure_tokens)
WHOLE = Pretext(render_image, measure_image)
PRETEXTS: dict[str, Pretext] = {  # by view
    "whole": WHOLE,
    "corrupted": WHOLE,
    "masked": TOKENS,
    "rotations": Pretext(render_upright, measure_upright),
    "puzzle": Pretext(render_solution, measure_solution),
    "hole": Pretext(render_mended, measure_mended),
    "lightness": Pretext(render_colours, measure_colours),
    "neighbours": Pretext(render_neighbours, measure_neighbours),
    "levels": Pretext(render_levels, measure_levels),
}
