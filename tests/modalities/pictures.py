"""Small images for the tests of the image modality."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from untaught.core import Batch, Options, Preprocessor, View
from untaught.modalities.image import IMAGE
from untaught.ops.counter_rng import CounterRNG

PLAIN = {"mean": [0.0] * 3, "std": [1.0] * 3}  # statistics that change nothing: views lie in 0..1
SETTINGS: Options = {"size": 24, "side": 36, "channels": 3, "bits": 8, "preset": "photo"}


def ramp(side: int, batch: int = 1) -> Tensor:
    """(B,3,S,S) float: red is the x, green the y coordinate in [-1, 1] of the pixel's centre, blue nothing."""
    line = (torch.arange(side) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)]).expand(batch, -1, -1, -1)


def noise(batch: int, side: int = 36, channels: int = 3, bits: int = 8) -> Tensor:
    top = 2**bits
    values = torch.randint(top, (batch, channels, side, side), generator=torch.Generator().manual_seed(0))
    return values.to(torch.uint8 if bits == 8 else torch.uint16)


def batch_of(pixels: Tensor, aspect: float | Tensor = 1.0) -> Batch:
    index = torch.arange(len(pixels))
    return {"pixels": pixels, "aspect": torch.as_tensor(aspect, dtype=torch.float32).expand(len(pixels)), "index": index}


def prep_of(statistics: Options | None = None, **own: Any) -> Preprocessor:
    """own: settings that differ from SETTINGS."""
    return Preprocessor(IMAGE, SETTINGS | own, statistics or PLAIN)


def options(name: str, settings: Options = SETTINGS, **own: Any) -> Options:
    given = Preprocessor(IMAGE, settings).presets()[name] | own
    return given | ({"patch": 4} if "patch" in given else {})


def make(name: str, batch: Batch, seed: int = 0, epoch: int = 0, position: int = 0, statistics: Options | None = None, **own: Any) -> View:
    channels = batch["pixels"].shape[1]
    statistics = statistics or {"mean": [0.0] * channels, "std": [1.0] * channels}
    return IMAGE.views[name](
        batch, CounterRNG(seed, epoch, batch["index"], position), options(name, **own), prep_of(statistics, channels=channels)
    )
