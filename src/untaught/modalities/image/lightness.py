"""Grey views of colour images, with their colours as the target."""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.core import Batch, Options, Preprocessor, UserError, View
from untaught.modalities.image.augment import augmented
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.lab import to_grey, to_lab

COLOURS = 3


def lightness(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """The grey image of the same lightness: x (B,3,H,W), three equal channels, normalised by the statistics of the colour images, so that
    encoders of colour images can read it. target (B,2,H,W) float32: a and b of CIELAB at the same pixels.

    Raises UserError for images without three channels.
    """
    channels = prep.settings["channels"]
    if channels != COLOURS:
        count = "1 channel" if channels == 1 else f"{channels} channels"
        raise UserError(f"images of {count} have no colours to predict; the view lightness needs red, green and blue")
    view = augmented(batch, rng, options, prep)
    mean, std = scale(prep, view.x.device)
    x = (view.x * std + mean).clamp_(0, 1)
    return View((to_grey(x) - mean) / std, target=to_lab(x)[:, 1:], meta=view.meta)


def coloured(x: Tensor, ab: Tensor, prep: Preprocessor) -> Tensor:
    """Pixels x (B,3,H,W) of the view, and a and b (B,2,H,W) -> Lab (B,3,H,W) with the lightness of x."""
    mean, std = scale(prep, x.device)
    return torch.cat([to_lab((x.float() * std + mean).clamp(0, 1))[:, :1], ab.to(x.device).float()], 1)


def scale(prep: Preprocessor, device: torch.device) -> tuple[Tensor, Tensor]:
    """The mean and standard deviation of each channel, (C,1,1)."""
    mean, std = (torch.tensor(prep.statistics[key], device=device).view(-1, 1, 1) for key in ("mean", "std"))
    return mean, std
