"""The view with a hole, and what lies in it as the target."""

from __future__ import annotations

import math

import torch

from untaught.core import Batch, Options, Preprocessor, UserError, View
from untaught.modalities.image.augment import augmented
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.masking import within


def hole(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A view with a hole of the data's mean colour. Pathak et al. 2016, section 3.3, https://arxiv.org/abs/1604.07379

    With `blocks` 0, a central square of `side` times the view's side, of which a border of `overlap` (of the view's side) stays visible;
    else so many squares of the same size, anywhere and possibly overlapping, which cover at most a share `area`. x (B,C,S,S);
    target (B,C,s,s): the square, or the whole view; meta["hole"] (B,1,s,s) bool: its hidden pixels; target_valid (B,1,s,s) bool: those
    that are predicted, which are the whole square (the border must be continued), or the hidden ones. The target lies in the view's centre.
    """
    view = augmented(batch, rng, options, prep)
    size, device = view.x.shape[-1], view.x.device
    if options["blocks"]:
        width = max(1, round(math.sqrt(options["area"] / options["blocks"]) * size))
        start = (rng.uniform(options["blocks"], 2) * (size - width + 1)).floor()
        place, length = torch.arange(size, device=device), torch.full_like(start[..., 0], width)
        inside = within(place, start[..., 0], length).unsqueeze(3) & within(place, start[..., 1], length).unsqueeze(2)
        hidden = inside.any(1, keepdim=True)
        predicted = hidden
    else:
        width, border = central(size, options)
        hidden = torch.zeros(len(view), 1, width, width, dtype=torch.bool, device=device)
        hidden[..., border : width - border, border : width - border] = True
        predicted = torch.ones_like(hidden)
    start = (size - hidden.shape[-1]) // 2
    centre = (..., slice(start, start + hidden.shape[-1]), slice(start, start + hidden.shape[-1]))
    target = view.x[centre].clone()
    view.x[centre] = view.x[centre].masked_fill(hidden, 0.0)
    return View(view.x, target=target, target_valid=predicted, meta={**(view.meta or {}), "hole": hidden})


def central(size: int, options: Options) -> tuple[int, int]:
    """The side of the predicted square of a view of this size, and of the visible border in it, in pixels. Raises UserError if no pixel is
    hidden, or none visible."""
    width, border = round(options["side"] * size), round(options["overlap"] * size)
    if width - 2 * border < 1:
        raise UserError(
            f"a square of {width} pixels with a visible border of {border} has no hole; choose a larger side or a smaller overlap"
        )
    if width - 2 * border >= size:
        raise UserError(f"a hole of {width} x {width} pixels leaves nothing of images of {size} x {size}; choose a smaller side")
    return width, border
