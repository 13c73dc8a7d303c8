"""Settings planned from a data set's first records: sizes, channels, white level, augmentation preset."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from untaught.core import Options, Record, UserError
from untaught.modalities.image.open import FEW, _channels_first, _channels_last, _is_deep, _reading, _to_array, _whole_numbers, open_image
from untaught.modalities.image.presets import PRESETS, SMALL
from untaught.modalities.reading import readable

WHITES = (1, 255, 4095, 65535)  # white levels of integers (masks, 8, 12 and 16 bits): the smallest that covers all values is used


class _Stats(NamedTuple):
    width: int
    height: int
    channels: int
    kind: str  # bytes, float, or integers whose dtype does not determine the white level: uint16, wide
    largest: int | None  # maximum of integers, if it was needed


def _look(record: Record, overrides: Options, masks: bool) -> _Stats:
    """masks: whether all bytes so far are 0 or 1, so that pixels must be checked."""
    image = open_image(record["image"])
    if isinstance(image, np.ndarray):
        image = _channels_last(image, record, {"channels_first": overrides.get("channels_first")})
        size = image.shape[1], image.shape[0], image.shape[2]
        numbers, white = _whole_numbers(image)
        if white is not None:
            return _Stats(*size, "float" if white == 65535 else "bytes", None)
        kind = {"uint8": "bytes", "uint16": "uint16"}.get(numbers.dtype.name, "wide")
        return _Stats(*size, kind, _allowed(int(numbers.max()), overrides))
    deep = _is_deep(image)
    size = image.width, image.height, 1 if deep or image.mode in ("1", "L", "LA") else 3
    if deep:
        numbers, white = _whole_numbers(_to_array(image))
        kind = "float" if white else "wide" if image.mode == "I" else "uint16"
        return _Stats(*size, kind, None if white else _allowed(int(numbers.max()), overrides))
    if not masks or image.mode == "1":
        return _Stats(*size, "bytes", None)
    if image.mode != "L" or image.format == "JPEG":
        return _Stats(*size, "bytes", 255)
    with _reading():
        return _Stats(*size, "bytes", int(image.getextrema()[1]))  # type: ignore[arg-type]


def _allowed(largest: int, overrides: Options) -> int:
    most = overrides.get("max_value") or WHITES[-1]
    if largest > most:
        raise ValueError(f"has values up to {largest}; at most {most} is allowed: rescale them, or give max_value={largest}")
    return largest


def _stats_of(records: list[Record], overrides: Options) -> list[_Stats]:
    masks = True

    def look(record: Record) -> _Stats:
        nonlocal masks
        stats = _look(record, overrides, masks)
        masks = masks and (stats.largest or 0) <= 1
        return stats

    return readable(records, "images", look)


def _max_value(stats: list[_Stats]) -> int | None:
    """The white level of integers; None if their dtypes determine it."""
    largest = max((one.largest or 0 for one in stats), default=0)
    if largest == 0 or (largest > 1 and all(one.kind in ("bytes", "float") for one in stats)):
        return None
    return next(white for white in WHITES if largest <= white)


def plan(records: list[Record], overrides: Options) -> Options:
    """Sides of views and of stored images, channels, white level, bits and augmentation preset, from some records."""
    stats = _stats_of(records, overrides)
    sides = np.array([min(one.width, one.height) for one in stats])
    channels = max(one.channels for one in stats)
    natural = int(np.median(sides))
    limit = 224 if torch.cuda.is_available() else 96  # larger views take hours on a CPU
    size = overrides.get("size") or min(max(8 * round(natural / 8), 16), limit)
    preset = overrides.get("preset") or ("upright" if channels == 1 and natural <= SMALL else "small" if size <= SMALL else "photo")
    if preset not in PRESETS:
        raise UserError(f"preset={preset}: must be one of {', '.join(PRESETS)}")
    wide = max(max(one.width, one.height) for one in stats)
    white = overrides.get("max_value") or _max_value(stats)
    fine = any(one.kind == "float" or (one.kind != "bytes" and (white is None or white > 255)) for one in stats)
    settings = {
        "size": size,
        "side": overrides.get("side") or min(round(1.5 * size), max(wide, 1)),
        "channels": channels,
        "bits": 16 if fine else 8,
        "preset": preset,
    }
    if white is not None:
        settings["max_value"] = white
    first = overrides.get("channels_first")
    if first is None and _by_convention(records, channels):
        first = True
    return settings if first is None else settings | {"channels_first": first}


def _by_convention(records: list[Record], channels: int) -> bool:
    """Whether only torch's convention determines the channel axis."""
    for record in records:
        shape = tuple(getattr(record["image"], "shape", ()))
        if len(shape) == 3 and (isinstance(record["image"], Tensor) or record.get("tensor")):
            try:
                _channels_first(shape, False, channels, None)
            except ValueError:
                return True
    return False


def adapt(records: list[Record], settings: Options) -> Options:
    """Adds the white level of new data's integers, if neither their dtype nor the settings determine it."""
    if "max_value" in settings:
        return settings
    try:
        stats = _stats_of(records, settings)
    except UserError:  # nothing is readable, which is reported when all data are read
        return settings
    white = _max_value(stats)
    if white is None or (settings["bits"] == 16 and any(one.kind == "uint16" for one in stats)):  # such data were trained with white 65535
        return settings
    return {**settings, "max_value": max(white, 255)}


def doubt(shape: tuple[int, ...], tensor: bool) -> str | None:
    """Why an array may be a single image instead of one image per row, or None."""
    one = "if it is one image, give [array]"
    if len(shape) == 2:
        return f"an array of shape {shape} does not have images as rows; give (N,H,W), (N,H,W,C) or (N,C,H,W); {one}"
    if len(shape) == 3 and (shape[2] in (1, 3, FEW) or (shape[0] == 3 and shape[2] > FEW)):
        grey = "array[:, None]" if tensor else "array[..., None]"
        return f"an array of shape {shape} is ambiguous; {one}; for {shape[0]} grey images of {shape[1]} x {shape[2]}, give {grey}"
    return None
