"""Recordings, prediction targets of their views, and answers to them, as spectrograms and as columns of a table."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.core import Options, Preprocessor, Pretext, View
from untaught.modalities.audio.decode import spectrogram

WIDE = 128  # width of a picture in pixels
ANCHORS = (
    (0, 0, 4),
    (40, 11, 84),
    (101, 21, 110),
    (159, 42, 99),
    (212, 72, 66),
    (245, 125, 21),
    (250, 193, 39),
    (252, 255, 164),
)  # inferno


def render(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """Spectrograms (B,M,128,3) uint8, low frequencies below, dark where quiet; masked tokens and what lies beyond the end are grey."""
    x, valid = view.x.detach().float().cpu(), view.valid.cpu()
    if options["input"] == "waveform":
        x = spectrogram(x, prep.settings)
        hop = prep.settings["hop"]
        valid = F.pad(valid, (0, x.shape[1] * hop - valid.shape[1])).unflatten(1, (-1, hop)).any(2)
    shown = valid if view.mask is None else valid & ~_of_frames(view.mask.cpu(), x.shape[1], options, prep)
    low, high = (x.masked_fill(~valid.unsqueeze(2), fill).flatten(1) for fill in (float("inf"), float("-inf")))
    low, high = low.amin(1).view(-1, 1, 1), high.amax(1).view(-1, 1, 1)
    level = ((x - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    at = torch.linspace(0, x.shape[1] - 1, WIDE).round().long()
    level, shown = level[:, at].transpose(1, 2).flip(1), shown[:, at]
    place = level * (len(ANCHORS) - 1)
    below = place.floor().long().clamp(max=len(ANCHORS) - 2)
    anchors = torch.tensor(ANCHORS, dtype=torch.float32)
    colours = torch.lerp(anchors[below], anchors[below + 1], (place - below).unsqueeze(3))
    return torch.where(shown[:, None, :, None], colours, 215.0).round().byte().numpy()


def _of_frames(mask: Tensor, count: int, options: Options, prep: Preprocessor) -> Tensor:
    """A mask of tokens (B,N) -> of a spectrogram's frames (B,count)."""
    if not options.get("window"):
        return mask.repeat_interleave(options["patch"], 1)
    at = (torch.arange(count) * prep.settings["hop"] - options["window"] / 2) / options["patch"]
    return mask[:, at.round().long().clamp(0, mask.shape[1] - 1)]


def filled(view: View, options: Options) -> Tensor:
    """The view with its target (B,N,patch * M) in the masked tokens -> (B,F,M)."""
    assert view.target is not None
    assert view.mask is not None
    masked = view.mask.cpu().repeat_interleave(options["patch"], 1).unsqueeze(2)
    return torch.where(masked, view.target.detach().float().cpu().unflatten(2, (options["patch"], -1)).flatten(1, 2), view.x.cpu())


def render_tokens(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """The spectrogram with the target in its masked tokens."""
    return render(View(filled(view, options), view.valid), options, prep)


def measure_tokens(view: View, answer: Tensor, options: Options, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> rmse_db: of the masked tokens, in dB."""
    assert view.target is not None
    assert view.mask is not None
    counted = view.mask.unsqueeze(2).expand_as(view.target)
    counted = counted if view.target_valid is None else counted & view.target_valid
    return {"rmse_db": _decibels(answer.float() - view.target, counted, prep)}


def render_spectrogram(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """A target that is a spectrogram in the form of x; x itself without a target."""
    return render(View(view.x if view.target is None else view.target, view.valid), options, prep)


def measure_spectrogram(view: View, answer: Tensor, options: Options, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> rmse_db: of all frames, in dB."""
    error = answer.float() - view.x
    return {"rmse_db": _decibels(error, view.valid.unsqueeze(2).expand_as(error), prep)}


def _decibels(error: Tensor, counted: Tensor, prep: Preprocessor) -> np.ndarray:
    """The root mean square of normalised values' errors that count (B, ...) -> (B,) in dB."""
    squares = torch.where(counted, error, 0.0).square().flatten(1).sum(1)
    nepers = (squares / counted.flatten(1).sum(1).clamp(min=1)).sqrt() * prep.statistics["std"][0]
    return (nepers * 10 / math.log(10)).cpu().numpy()


WHOLE = Pretext(render_spectrogram, measure_spectrogram)
PRETEXTS: dict[str, Pretext] = {"whole": WHOLE, "masked": Pretext(render_tokens, measure_tokens)}  # by view
