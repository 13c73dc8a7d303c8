"""Series, prediction targets of their views, and answers to them, as line plots and as columns of a table."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from untaught.core import Options, Preprocessor, Pretext, View
from untaught.ops.interpolation import linear_at

COLOURS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14), (23, 190, 207))
HIGH, WIDE = 48, 96  # height and width of the line plot in pixels
GREY, WHITE = 215, 255


def render(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """Line plots (B,48,96,3) uint8 of at most six channels, each sample on its own scale; grey without a line: masked tokens, padding."""
    x = _signal(view.x, options)
    return _plotted(x, x, view, hidden=True)


def _plotted(x: Tensor, own: Tensor, view: View, hidden: bool) -> np.ndarray:
    """x (B,T,C), on a scale that holds it and the view's `own` values (B,T,C). hidden: whether masked tokens have no line."""
    channels, steps = x.shape[2], x.shape[1]
    at = torch.linspace(0, steps - 1, WIDE).expand(len(x), -1)
    valid = torch.ones(x.shape[:2], dtype=torch.bool) if view.valid is None else view.valid.cpu()
    nearest = at.round().long()
    lines, shown, masked = linear_at(x, at), valid.gather(1, nearest), torch.zeros_like(at, dtype=torch.bool)
    if view.mask is not None:
        masked = view.mask.cpu().repeat_interleave(steps // view.mask.shape[1], 1).gather(1, nearest)
    both = torch.cat([lines, linear_at(own, at)], 2).flatten(1)
    low, high = both.amin(1).view(-1, 1, 1), both.amax(1).view(-1, 1, 1)
    level = ((high - lines) / (high - low).clamp(min=1e-6) * (HIGH - 1)).round()  # (B,W,C), rows from above
    pixels = torch.where((~shown | masked)[:, None, :, None], GREY, WHITE).expand(-1, HIGH, -1, 3).to(torch.uint8)
    drawn_at = shown & ~masked if hidden else shown
    ahead = torch.cat([drawn_at[:, 1:], drawn_at[:, -1:]], 1)  # no line into what is not drawn
    rows = torch.arange(HIGH)[None, :, None]
    for channel in range(min(channels, len(COLOURS)) - 1, -1, -1):
        here = level[:, :, channel]
        there = torch.where(ahead, torch.cat([here[:, 1:], here[:, -1:]], 1), here)
        line = (rows >= torch.minimum(here, there)[:, None]) & (rows <= torch.maximum(here, there)[:, None]) & drawn_at[:, None]
        pixels = torch.where(line.unsqueeze(3), torch.tensor(COLOURS[channel], dtype=torch.uint8), pixels)
    return pixels.numpy()


def _signal(x: Tensor, options: Options) -> Tensor:
    """x (B,T,C) -> the same without the indicator channels of missing values, on the CPU."""
    x = x[:, :, : x.shape[2] // 2] if options.get("missing") else x
    return x.detach().float().cpu()


def _joined(tokens: Tensor, options: Options) -> Tensor:
    """tokens (B,N,patch * C) -> (B,T,C), on the CPU."""
    return tokens.detach().float().cpu().unflatten(2, (options["patch"], -1)).flatten(1, 2)


def _rmse(error: Tensor, counted: Tensor) -> np.ndarray:
    """error (B, ...) of values of which those in `counted` (B, ...) bool count -> (B,)."""
    squares = torch.where(counted, error, 0.0).square().flatten(1).sum(1)
    return (squares / counted.flatten(1).sum(1).clamp(min=1)).sqrt().numpy()


# ------------------------------------------------------------------------------------------------------ masked tokens


def render_tokens(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """The view with the target (B,N,patch * C) in its masked tokens, which are grey."""
    assert view.target is not None
    assert view.mask is not None
    x = _signal(view.x, options)
    filled = _joined(view.target, options)
    masked = view.mask.cpu().repeat_interleave(options["patch"], 1).unsqueeze(2)
    return _plotted(torch.where(masked, filled, x), x, view, hidden=False)


def measure_tokens(view: View, answer: Tensor, options: Options, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> rmse: of the observed values in masked tokens, as normalised."""
    assert view.target is not None
    assert view.mask is not None
    observed = torch.ones_like(view.target, dtype=torch.bool) if view.target_valid is None else view.target_valid
    return {"rmse": _rmse((answer.float() - view.target).cpu(), (observed & view.mask.unsqueeze(2)).cpu())}


# ---------------------------------------------------------------------------------------------------- following tokens


def render_forecasts(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """The target (B,N,patch * C) as a series."""
    assert view.target is not None
    return _plotted(_joined(view.target, options), _signal(view.x, options), view, hidden=False)


def measure_forecasts(view: View, answer: Tensor, options: Options, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> rmse: of the observed values behind the first token, as normalised for any view."""
    assert view.target is not None
    assert view.target_valid is not None
    assert view.meta is not None
    error = (answer.float() - view.target).unflatten(2, (options["patch"], -1)) * view.meta["scale"][:, None, None]
    return {"rmse": _rmse(error.flatten(2)[:, 1:].cpu(), view.target_valid[:, 1:].cpu())}


# ------------------------------------------------------------------------------------------- what a whole series becomes


def render_series(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """A target that is a series in the form of x; x itself without a target."""
    return _plotted(_signal(view.x if view.target is None else view.target, options), _signal(view.x, options), view, hidden=False)


def measure_series(view: View, answer: Tensor, options: Options, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> rmse: of the observed values, as normalised."""
    clean = view.x if view.target is None else view.target
    error = _signal(answer, options) - _signal(clean, options)
    if view.target_valid is not None:
        observed = view.target_valid[:, :, : error.shape[2]].cpu()
    else:
        observed = torch.ones_like(error, dtype=torch.bool) if view.valid is None else view.valid.cpu().unsqueeze(2).expand_as(error)
        if options.get("missing"):
            observed = observed & (clean[:, :, error.shape[2] :] == 0).cpu()
    return {"rmse": _rmse(error, observed)}


TOKENS = Pretext(render_tokens, measure_tokens)
WHOLE = Pretext(render_series, measure_series)
FOLLOWING = Pretext(render_forecasts, measure_forecasts)
PRETEXTS: dict[str, Pretext] = {"whole": WHOLE, "corrupted": WHOLE, "masked": TOKENS, "continued": FOLLOWING}  # by view
