"""Recordings: any rate and number of channels, stored once as 16-bit mono at one rate.

A view is a log-mel spectrogram x (B,F,M), frames on axis 1, with `valid` (B,F) False beyond the end; with the setting input=waveform, the
samples themselves, x (B,T), for encoders such as wav2vec 2.0. Frames come every 10 ms from windows of 25 ms, with 64 bands.
"""

from __future__ import annotations

from typing import Annotated, Literal

from untaught.core import Modality, Options, Preprocessor
from untaught.modalities.audio.augment import augmented, blocks, masked, multiblock, whole
from untaught.modalities.audio.decode import LONG, RATES, cut, decode, fit, plan, raw
from untaught.modalities.audio.presets import STILL, check, presets
from untaught.modalities.audio.spectrogram_plots import PRETEXTS, render
from untaught.modalities.audio.transcripts import transcripts


def encoder_for(settings: Options, needs: frozenset[str]) -> str:
    return "patch_series" if needs else "conv_mel"


def encoder_arguments(settings: Options) -> Options:
    """Bands as channels; the longest recording in frames."""
    return {"channels": settings["mels"], "length": round(settings["seconds"] * settings["rate"]) // settings["hop"] + 1}


def export(prep: Preprocessor) -> Options:
    own = {key: prep.settings[key] for key in ("rate", "input", "mels", "window", "hop")}
    return own | {key: [float(value) for value in prep.statistics[key]] for key in ("mean", "std")}


FIELDS = {
    "audio": ("audio", "sound", "recording", "speech", "clip", "wav", "wave", "waveform", "file", "filename", "file_name", "path", "x")
}
AUDIO = Modality(
    name="audio",
    noun="recordings",
    fields=FIELDS,
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
    pretexts=PRETEXTS,
    unaugmented=STILL | {"scale": (1.0, 1.0)},
    encoder_for=encoder_for,
    encoder_arguments=encoder_arguments,
    export=export,
    kind=lambda settings: (settings["rate"], settings["mels"]),
    method="simclr",
    batch=128,
    knobs={"rate": Annotated[int, RATES], "segment": Annotated[float, LONG], "input": Literal["log_mel", "waveform"]},
    targets={"transcripts": transcripts(FIELDS)},
)
