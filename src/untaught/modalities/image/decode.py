"""Records to arrays, and statistics fitted on them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from untaught.core import Batch, Options, Preprocessor, Record
from untaught.modalities.image import masks
from untaught.modalities.image.open import _channels_last, _is_deep, _reading, _to_array, _upright, _whole_numbers, open_image

PART = 1 << 20  # values per chunk of a batch on a CPU
LEAST_STD = {8: 1e-2, 16: 1e-4}  # by bits: anything smaller is a constant with rounding


def _scaled(array: np.ndarray, settings: Options) -> tuple[np.ndarray, int]:
    """Any numbers -> non-negative integers and the data set's white level for them. Raises ValueError for larger values."""
    array, white = _whole_numbers(array)
    if white is None:
        max_value = settings.get("max_value")
        if array.dtype == np.uint8:
            white = min(max_value or 255, 255)
        elif max_value:
            white = max_value
        else:
            white = 65535 if settings["bits"] == 16 or array.max() > 255 else 255
    if array.max() > white:
        others = f"{settings['bits']} bits" if white == 65535 else f"at most {white}"
        raise ValueError(f"has values up to {array.max()}, the other images {others}; give max_value= in pretraining, or rescale it")
    return array, white


def _bytes_of(array: np.ndarray, settings: Options) -> np.ndarray:
    """Any numbers -> uint8."""
    array, white = _scaled(array, settings)
    return array.astype(np.uint8) if white == 255 else np.round(array * (255 / white)).astype(np.uint8)


def decode(record: Record, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> pixels (C,S,S) uint8 or uint16, resized to a square, and aspect () float32, the original width / height."""
    settings = prep.settings
    side, channels, bits = settings["side"], settings["channels"], settings["bits"]
    image = open_image(record["image"])
    if isinstance(image, np.ndarray):
        image = _channels_last(image, record, settings)
        if bits == 8 and channels in (1, 3) and image.shape[2] in (1, 3):
            image = _bytes_of(image, settings)
            return _decode_image(Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image), settings | {"max_value": None})
    elif bits == 8 and channels in (1, 3):
        return _decode_image(image, settings)
    else:
        image = _channels_last(_to_array(image), {"image": None}, {"channels_first": False})
    height, width, found = image.shape
    if found != channels and found != 1 and channels != 1:
        raise ValueError(f"has {found} channels, the other images {channels}")
    image, white = _scaled(image, settings)
    if found != channels:
        image = image.mean(2, keepdims=True) if channels == 1 else image.repeat(channels, 2)
    if white != 2**bits - 1:
        image = image.astype(np.float32) * ((2**bits - 1) / white)
    x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))[None]
    x = F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)[0].round().clamp(0, 2**bits - 1)
    return {"pixels": x.numpy().astype(np.uint8 if bits == 8 else np.uint16), "aspect": np.array(width / height, np.float32)}


def _decode_image(image: Image.Image, settings: Options) -> dict[str, np.ndarray]:
    side, channels = settings["side"], settings["channels"]
    mode = "L" if channels == 1 else "RGB"
    with _reading():
        image.draft(mode, (side, side))  # decodes a JPEG at 1/2, 1/4 or 1/8 of its size if that is still at least `side`
        image = _upright(image)
    width, height = image.size
    if _is_deep(image) or (image.mode in ("L", "RGB") and (settings.get("max_value") or 255) < 255):
        with _reading():
            array = np.asarray(image)
        image = Image.fromarray(_bytes_of(array, settings))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    pixels = np.asarray(image)
    pixels = pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return {"pixels": pixels, "aspect": np.array(width / height, np.float32)}


def decode_with_mask(record: Record, prep: Preprocessor) -> dict[str, np.ndarray]:
    """As `decode`, plus target.size (2,) int32, the image's width and height, and, if there is a mask, target.mask (S,S) uint8."""
    arrays = decode(record, prep)
    arrays[masks.SIZE] = masks.size_of(open_image(record["image"]), record)
    if "mask" in record:
        arrays[masks.MASK] = masks.read_mask(record["mask"], open_image(record["mask"]), prep.settings["side"], float(arrays["aspect"]))
    return arrays


def fit(batch: Batch, prep: Preprocessor) -> Options:
    """Mean and standard deviation of each channel in 0..1, from pixels (B,C,S,S)."""
    step = max(1, batch["pixels"].shape[-1] // 48)  # neighbours are similar: large images are subsampled
    pixels = batch["pixels"][..., ::step, ::step]
    count, moments = pixels[:, 0].numel(), torch.zeros(2, pixels.shape[1], dtype=torch.float64)
    for part in pixels.split(max(1, PART // pixels[0].numel())):  # float64 of all pixels would take eight times the memory
        x = _unit(part).double()
        moments += torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3))])
    mean, square = moments / count
    std = ((square - mean.square()).clamp(min=0) * count / max(count - 1, 1)).sqrt()
    return {"mean": mean.tolist(), "std": std.clamp(min=LEAST_STD[prep.settings["bits"]]).tolist()}


def raw(batch: Batch, prep: Preprocessor) -> np.ndarray:
    """Pixels, average-pooled to at most 32 x 32, as one vector (B, C*h*w)."""
    x = _unit(batch["pixels"])
    return (F.adaptive_avg_pool2d(x, 32) if x.shape[-1] > 32 else x).flatten(1).numpy()


def _unit(pixels: Tensor) -> Tensor:
    return pixels.float() / (255 if pixels.dtype == torch.uint8 else 65535)
