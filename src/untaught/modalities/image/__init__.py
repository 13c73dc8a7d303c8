"""Images: 1 to N channels, 8 or 16 bit.

The white level is fixed once per data set: 255 for bytes, 1 for floats and masks, and the setting `max_value` for wider integers, whose
type does not determine it; so an image is the same in any storage format. The channel axis of an array is inferred from its shape if
that is unambiguous, else given by the knob `channels_first`, else, for torch tensors only, torch's convention.

An image is decoded once, with its full field of view resized to a square, and stored with its aspect ratio, so that random crops have
the original geometry. Views are made batched, with parameters drawn per sample.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F

from untaught.core import Modality, Options, Preprocessor, UserError, View
from untaught.data.target import Target
from untaught.modalities.image import masks
from untaught.modalities.image.augment import augmented, blocks, corrupted, masked, multiblock, whole
from untaught.modalities.image.decode import decode, decode_with_mask, fit, raw
from untaught.modalities.image.hole import hole
from untaught.modalities.image.levels import levels, rounded
from untaught.modalities.image.lightness import lightness
from untaught.modalities.image.plan import adapt, doubt, plan
from untaught.modalities.image.presets import NOTHING, SIDES, check, presets
from untaught.modalities.image.pretexts import PRETEXTS, as_bytes, masked_pixels, overlay
from untaught.modalities.image.tiles import laid_out, neighbours, puzzle, rotations
from untaught.ranges import Within


def render(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """A view as the network sees it -> (B,H,W,3) uint8, masked tokens grey, several parts side by side; the first three channels (or the
    first, if fewer)."""
    mean, std = (torch.tensor(prep.statistics[key]).view(-1, 1, 1) for key in ("mean", "std"))
    x = view.x.detach().float().cpu() * std + mean
    if view.mask is not None:
        x = torch.where(masked_pixels(view.mask, options["patch"], x.shape[-2] // options["patch"]), torch.tensor(0.5), x)
    if view.parts is not None:
        x = laid_out(x, view.parts.cpu() if "drop" in options else None, options)
    return as_bytes(x)


def encoder_for(settings: Options, needs: frozenset[str]) -> str:
    if "causal_maps" in needs:
        return "pixelrnn" if "recurrent" in needs else "pixelcnn"
    if "tokens" in needs:
        return "vit_causal" if "causal" in needs else "vit_mini"
    return "timm/resnet18" if torch.cuda.is_available() else "conv_small"


def encoder_arguments(settings: Options) -> Options:
    return {"channels": settings["channels"], "size": settings["size"]}


def export(prep: Preprocessor) -> Options:
    """The `whole` view as a timm config: shorter side resized to the size, center crop, pixels in 0..1, per-channel mean and std."""
    settings, statistics = prep.settings, prep.statistics
    for name in ("mean", "std"):
        values = statistics.get(name)
        if not isinstance(values, list) or len(values) != settings["channels"] or not all(map(_finite, values)):
            raise UserError(f"{name} of {settings['channels']} channels is {str(values)[:40]}; one finite number per channel is required")
    if min(statistics["std"]) <= 0:
        raise UserError(f"std of the channels is {statistics['std']}; each must be above 0")
    shape = {"input_size": [settings["channels"], settings["size"], settings["size"]]}
    crop = {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"}
    return {**shape, **crop, "mean": statistics["mean"], "std": statistics["std"]}


def suit(options: Options, patch: int) -> Options:
    """Rounds a view's side to a multiple of the patch size."""
    size = max(1, round(options["size"] / patch)) * patch
    return {"size": size} if size != options["size"] else {}


def shown(prep: Preprocessor, model: Options) -> Preprocessor:
    """A preprocessor for a pretrained model: its "size", "mean" and "std". For another number of channels, to which its first layer was
    adapted, mean and std are averaged over channels."""
    settings, statistics = {**prep.settings, "size": model["size"]}, {key: model[key] for key in ("mean", "std")}
    if len(statistics["mean"]) != settings["channels"]:
        statistics = {key: [sum(values) / len(values)] * settings["channels"] for key, values in statistics.items()}
    return replace(prep, settings=settings, statistics=statistics)


def adapted(view: View, prep: Preprocessor, other: Preprocessor) -> View:
    """The view with the mean and std of another encoder, resized as its images are to the data's. Raises UserError for other channels."""
    if prep.settings["channels"] != other.settings["channels"]:
        own, given = (counted(one.settings["channels"]) for one in (other, prep))
        raise UserError(f"takes images with {own}, the data have {given}; choose one for {given}")
    x = view.x
    if prep.statistics != other.statistics:
        own, new = ([torch.tensor(one.statistics[key], device=x.device).view(-1, 1, 1) for key in ("mean", "std")] for one in (prep, other))
        x = x * (own[1] / new[1]) + (own[0] - new[0]) / new[1]
    scale = other.settings["size"] / prep.settings["size"]
    if scale != 1:
        sides = [max(1, round(side * scale)) for side in x.shape[-2:]]
        x = F.interpolate(x, sides, mode="bilinear", align_corners=False, antialias=True)
    return replace(view, x=x)


def counted(channels: int) -> str:
    """ "1 channel", "3 channels"."""
    return f"{channels} channel{'s' if channels != 1 else ''}"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e6


FIELDS = {"image": ("image", "img", "picture", "pixels", "photo", "path", "file", "filename", "file_name", "x")}
MASK = Target(
    fields=FIELDS | {"mask": ("masks", "segmentation", "segmentation_mask", "annotation", "label_mask", "mask_path", "mask_file")},
    decode=decode_with_mask,
    **masks.MASKS,
)
IMAGE = Modality(
    name="image",
    noun="images",
    fields=FIELDS,
    suffixes=frozenset([".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm", ".jp2", ".avif"]),
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
        "rotations": rotations,
        "puzzle": puzzle,
        "neighbours": neighbours,
        "levels": levels,
        "corrupted": corrupted,
        "lightness": lightness,
        "hole": hole,
    },
    raw=raw,
    render=render,
    pretexts=PRETEXTS,
    overlay=overlay,
    remarks=rounded,
    unaugmented={key: value for key, value in NOTHING.items() if key != "size"},
    encoder_for=encoder_for,
    encoder_arguments=encoder_arguments,
    export=export,
    kind=lambda settings: settings["channels"],
    suit=suit,
    shown=shown,
    adapted=adapted,
    knobs={
        "size": Annotated[int, SIDES],
        "side": Annotated[int, SIDES],
        "preset": str,
        "max_value": Annotated[int, Within(1, 65535)],
        "channels_first": bool,
    },
    resized={"size": lambda settings, size: {**settings, "size": size, "side": max(settings["side"], size)}},
    doubt=doubt,
    adapt=adapt,
    targets={"masks": MASK},
)
