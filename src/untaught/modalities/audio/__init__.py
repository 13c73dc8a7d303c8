"""Recordings: any rate and number of channels, stored once as 16-bit mono at one rate.

A view is a log-mel spectrogram x (B,F,M), frames on axis 1, with `valid` (B,F) False beyond the end; with the setting input=waveform, the
samples themselves, x (B,T), for encoders such as wav2vec 2.0. Frames come every 10 ms from windows of 25 ms, with 64 bands.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F

from untaught.core import Modality, Options, Preprocessor, View
from untaught.modalities.audio.augment import augmented, blocks, masked, multiblock, whole
from untaught.modalities.audio.decode import LONG, RATES, cut, decode, fit, plan, raw, spectrogram
from untaught.modalities.audio.presets import STILL, check, presets

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
    shown = valid if view.mask is None else valid & ~view.mask.cpu().repeat_interleave(options["patch"], 1)
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


def encoder_for(settings: Options, needs: frozenset[str]) -> str:
    return "patch_series" if needs else "conv_mel"


def encoder_arguments(settings: Options) -> Options:
    """Bands as channels; the longest recording in frames."""
    return {"channels": settings["mels"], "length": round(settings["seconds"] * settings["rate"]) // settings["hop"] + 1}


def export(prep: Preprocessor) -> Options:
    own = {key: prep.settings[key] for key in ("rate", "input", "mels", "window", "hop")}
    return own | {key: [float(value) for value in prep.statistics[key]] for key in ("mean", "std")}


AUDIO = Modality(
    name="audio",
    noun="recordings",
    fields={
        "audio": ("audio", "sound", "recording", "speech", "clip", "wav", "wave", "waveform", "file", "filename", "file_name", "path", "x")
    },
    suffixes=frozenset([".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64"]),
    extras={
        "start": ("onset", "begin", "start_time"),
        "end": ("offset", "stop", "end_time"),
        "rate": ("sampling_rate", "sample_rate"),
    },
    cut=cut,
    plan=plan,
    decode=decode,
    fit=fit,
    presets=presets,
    check=check,
    views={
        "whole": whole,
        **dict.fromkeys(("global", "global2", "local", "light"), augmented),
        **dict.fromkeys(("masked", "global_masked"), masked),
        **dict.fromkeys(("blocks", "global_blocks", "global2_blocks"), blocks),
        "multiblock": multiblock,
    },
    raw=raw,
    render=render,
    unaugmented=STILL | {"scale": (1.0, 1.0)},
    encoder_for=encoder_for,
    encoder_arguments=encoder_arguments,
    export=export,
    kind=lambda settings: (settings["rate"], settings["mels"]),
    method="simclr",
    batch=128,
    knobs={"rate": Annotated[int, RATES], "segment": Annotated[float, LONG], "input": Literal["log_mel", "waveform"]},
)
