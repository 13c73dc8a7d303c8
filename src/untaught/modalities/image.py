"""Images: 1 to N channels, 8 or 16 bit.

What is white is decided once for a data set: 255 in bytes, 1 in floats and masks, and `max_value` of the layout in wider integers, which
do not tell it themselves; so an image is the same in whatever it is stored. Which axis of an array is the channels is decided from its
shape where only one can be, else by the knob `channels_first`, else, of torch's tensors alone, by torch's convention.

An image is decoded once to its full field of view, squashed to a square, with its aspect ratio beside it: a random crop has
the original's geometry. Views are made for a whole batch at once, with parameters drawn a sample.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from untaught.core import Batch, Modality, Options, Record, UserError, View
from untaught.data.target import Target
from untaught.modalities import masks
from untaught.modalities.reading import readable
from untaught.ops import colour, warp
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.masking import block_mask, first, random_mask, rectangles
from untaught.ops.precision import has_bfloat16
from untaught.ops.resample import blur_matrix, resample, resize_matrix
from untaught.ranges import Within, outside

SIDES = Within(4, 4096)  # pixels of an image as it is stored or shown
SMALL = 64  # images up to this side get milder presets, as the field's recipes for CIFAR do
PART = 1 << 20  # numbers in a part of a batch that is made at once on a CPU
FORMATS = ("PNG", "JPEG", "MPO", "GIF", "TIFF", "BMP", "DIB", "WEBP", "PPM", "JPEG2000", "AVIF")
SIGNATURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"RIFF": "WEBP"}  # first bytes of the formats that small images come in
TRIES = 16  # blocks that are tried to hide a share of the tokens
PIXEL_LIMIT = 100_000_000  # an image with more is refused unread
FEW = 4  # an axis of at most so many is that of the channels
WHITES = (1, 255, 4095, 65535)  # what may be white in integers: masks, 8, 12 and 16 bits; the least that holds all values is taken
LEAST_STD = {8: 1e-2, 16: 1e-4}  # by bits: less is one value with its rounding

# ---------------------------------------------------------------------------------------------------- records to arrays


@contextmanager
def _reading() -> Iterator[None]:
    """A damaged file breaks Pillow in a dozen ways (SyntaxError, struct.error, IndexError ...): all come out as ValueError or OSError."""
    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def open_image(value: Any) -> Image.Image | np.ndarray:
    """A path, encoded bytes, a PIL image or an array of two or three axes; raises ValueError or OSError, saying why."""
    if isinstance(value, dict):  # Hugging Face's form
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Exception):
        raise value
    if value is None:
        raise ValueError("no image")
    if isinstance(value, np.ndarray | Tensor | list):
        with _reading():
            array = np.asarray(_plain(value) if isinstance(value, Tensor) else value)
        if array.ndim not in (2, 3) or array.size == 0:
            raise ValueError(f"an array of shape {array.shape} is no image; (H,W), (H,W,C) or (C,H,W) is")
        if array.dtype.kind not in "buif":
            raise ValueError(f"an array of {array.dtype} is no image; integers from 0 or floats in 0..1 are")
        return array
    if isinstance(value, Image.Image):
        return value
    if not isinstance(value, str | bytes | Path):
        raise ValueError(f"{type(value).__name__} is no image; a path, bytes, a PIL image or an array is")
    if value == b"":
        raise ValueError("is empty (0 bytes)")
    with _reading(), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = _open_bytes(value) if isinstance(value, bytes) else _open_path(Path(value))
        except UnidentifiedImageError as error:  # which names an object in memory
            raise ValueError(f"is damaged, or no image of a kind that is read ({', '.join(_formats())})") from error
    if image.width * image.height > PIXEL_LIMIT:
        raise ValueError(f"{image.width} x {image.height} pixels, more than the limit of {PIXEL_LIMIT:,}")
    return image


def _plain(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return value.float() if value.dtype == torch.bfloat16 else value  # which numpy has not


def _open_bytes(content: bytes) -> Image.Image:
    """Pillow tries one format after another, which costs a small image as much as decoding it: the right one first."""
    kind = next((kind for start, kind in SIGNATURES.items() if content.startswith(start)), None)
    if kind is not None:
        with suppress(UnidentifiedImageError):
            return Image.open(io.BytesIO(content), formats=[kind])
    return Image.open(io.BytesIO(content), formats=_formats())


@cache
def _formats() -> list[str]:
    """Pillow knows many more; some of them run programs (EPS), none of them is what images come in."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _open_path(path: Path) -> Image.Image:
    if not path.is_file() and path.exists():
        raise ValueError("is no plain file")  # a pipe would be waited for
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError("is empty (0 bytes)")
    return Image.open(path, formats=_formats())


def _channels_last(array: np.ndarray, record: Record, layout: Options) -> np.ndarray:
    """(H,W), (H,W,C) or (C,H,W) -> (H,W,C)."""
    if array.ndim == 2:
        return array[:, :, None]
    tensor = isinstance(record["image"], Tensor) or bool(record.get("tensor"))
    return array.transpose(1, 2, 0) if _channels_first(array.shape, tensor, layout.get("channels"), layout.get("channels_first")) else array


def _channels_first(shape: tuple[int, ...], tensor: bool, channels: int | None, told: bool | None) -> bool:
    """Whether the first axis of three is the channels; ValueError where that can't be told. `channels`: of the data set, once known."""
    first, middle, last = shape
    if channels is None and told is not None:
        return told
    fits, few = (first == channels, last == channels), (first <= FEW, last <= FEW)
    square = (first != middle == last, first == middle != last)
    for one, other in (fits, few):
        if one != other:
            return one
    if told is not None:
        return told
    if square[0] != square[1]:
        return square[0]
    if tensor:
        return True
    raise ValueError(
        f"an array of shape {shape} may have its channels first or last; say channels_first=true or channels_first=false in pretraining, "
        "or give a torch tensor, whose channels are first"
    )


def _whole_numbers(array: np.ndarray) -> tuple[np.ndarray, int | None]:
    """-> integers from 0, and what is white in them; None where their type alone does not tell."""
    if array.dtype == bool:
        return array.astype(np.uint8), 1
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ValueError("a float image holds numbers that are not finite; mend them, or leave it out")
        if array.min() < 0 or array.max() > 1:
            raise ValueError(f"a float image must lie in 0..1, not {array.min():g}..{array.max():g}; scale it, or give integers from 0")
        return np.round(array.astype(np.float64) * 65535).astype(np.uint16), 65535
    if array.min() < 0:
        raise ValueError(f"{array.dtype} values from {array.min()} to {array.max()}; they must not be negative: shift and scale them")
    return array, None


def _scaled(array: np.ndarray, layout: Options) -> tuple[np.ndarray, int]:
    """Any numbers -> integers from 0, and what is white in them, as the data set has it. ValueError where there are larger ones."""
    array, white = _whole_numbers(array)
    if white is None:
        told = layout.get("max_value")
        if array.dtype == np.uint8:
            white = min(told or 255, 255)
        elif told:
            white = told
        else:
            white = 65535 if layout["bits"] == 16 or array.max() > 255 else 255
    if array.max() > white:
        others = f"{layout['bits']} bits" if white == 65535 else f"at most {white}"
        raise ValueError(f"values up to {array.max()} where the other images have {others}; give max_value= in pretraining, or scale it")
    return array, white


def _bytes_of(array: np.ndarray, layout: Options) -> np.ndarray:
    """Any numbers -> uint8."""
    array, white = _scaled(array, layout)
    return array.astype(np.uint8) if white == 255 else np.round(array * (255 / white)).astype(np.uint8)


class _Seen(NamedTuple):
    width: int
    height: int
    channels: int
    kind: str  # bytes, float, or of integers that do not tell what is white: uint16, wide
    largest: int | None  # of integers, where it had to be known


def _look(record: Record, overrides: Options, masks: bool) -> _Seen:
    """masks: whether every byte may still be 0 or 1, for which pixels are looked at."""
    image = open_image(record["image"])
    if isinstance(image, np.ndarray):
        image = _channels_last(image, record, {"channels_first": overrides.get("channels_first")})
        size = image.shape[1], image.shape[0], image.shape[2]
        numbers, white = _whole_numbers(image)
        if white is not None:
            return _Seen(*size, "float" if white == 65535 else "bytes", None)
        kind = {"uint8": "bytes", "uint16": "uint16"}.get(numbers.dtype.name, "wide")
        return _Seen(*size, kind, _allowed(int(numbers.max()), overrides))
    deep = _is_deep(image)
    size = image.width, image.height, 1 if deep or image.mode in ("1", "L", "LA") else 3
    if deep:
        numbers, white = _whole_numbers(_to_array(image))
        kind = "float" if white else "wide" if image.mode == "I" else "uint16"
        return _Seen(*size, kind, None if white else _allowed(int(numbers.max()), overrides))
    if not masks or image.mode == "1":
        return _Seen(*size, "bytes", None)
    if image.mode != "L" or image.format == "JPEG":
        return _Seen(*size, "bytes", 255)
    with _reading():
        return _Seen(*size, "bytes", int(image.getextrema()[1]))  # type: ignore[arg-type]


def _allowed(largest: int, overrides: Options) -> int:
    most = overrides.get("max_value") or WHITES[-1]
    if largest > most:
        raise ValueError(f"values up to {largest}; at most {most} is allowed: scale them, or give max_value={largest}")
    return largest


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _seen(records: list[Record], overrides: Options) -> list[_Seen]:
    masks = True

    def look(record: Record) -> _Seen:
        nonlocal masks
        seen = _look(record, overrides, masks)
        masks = masks and (seen.largest or 0) <= 1
        return seen

    return readable(records, "images", look)


def _max_value(seen: list[_Seen]) -> int | None:
    """What is white in integers; None where their types tell it."""
    largest = max((one.largest or 0 for one in seen), default=0)
    if largest == 0 or (largest > 1 and all(one.kind in ("bytes", "float") for one in seen)):
        return None
    return next(white for white in WHITES if largest <= white)


def plan(records: list[Record], overrides: Options) -> Options:
    """Decides the side of views and of stored images, channels, what is white, bits and the preset of augmentations from some records."""
    seen = _seen(records, overrides)
    sides = np.array([min(one.width, one.height) for one in seen])
    channels = max(one.channels for one in seen)
    natural = int(np.median(sides))
    limit = 224 if torch.cuda.is_available() else 96  # on a CPU a larger view costs hours
    size = overrides.get("size") or min(max(8 * round(natural / 8), 16), limit)
    preset = overrides.get("preset") or ("upright" if channels == 1 and natural <= SMALL else "small" if size <= SMALL else "photo")
    if preset not in PRESETS:
        raise UserError(f"preset={preset}: unknown; {', '.join(PRESETS)} are")
    wide = max(max(one.width, one.height) for one in seen)
    white = overrides.get("max_value") or _max_value(seen)
    fine = any(one.kind == "float" or (one.kind != "bytes" and (white is None or white > 255)) for one in seen)
    layout = {
        "size": size,
        "side": overrides.get("side") or min(round(1.5 * size), max(wide, 1)),
        "channels": channels,
        "bits": 16 if fine else 8,
        "preset": preset,
    }
    if white is not None:
        layout["max_value"] = white
    first = overrides.get("channels_first")
    if first is None and _by_convention(records, channels):
        first = True
    return layout if first is None else layout | {"channels_first": first}


def _by_convention(records: list[Record], channels: int) -> bool:
    """Whether it is torch's convention alone that tells where the channels are."""
    for record in records:
        shape = tuple(getattr(record["image"], "shape", ()))
        if len(shape) == 3 and (isinstance(record["image"], Tensor) or record.get("tensor")):
            try:
                _channels_first(shape, False, channels, None)
            except ValueError:
                return True
    return False


def adapt(records: list[Record], layout: Options) -> Options:
    """Of new data, what is white in integers that do not tell it, unless the layout does."""
    if "max_value" in layout:
        return layout
    try:
        seen = _seen(records, layout)
    except UserError:  # nothing of it can be read: whoever reads it all says so
        return layout
    white = _max_value(seen)
    if white is None or (layout["bits"] == 16 and any(one.kind == "uint16" for one in seen)):  # as such a data set was read: to 65535
        return layout
    return {**layout, "max_value": max(white, 255)}


def doubt(shape: tuple[int, ...], tensor: bool) -> str | None:
    """Whether an array is rather one image than an image a row."""
    one = "it may be one image: give [array] for that"
    if len(shape) == 2:
        return f"an array of shape {shape} has no images as rows; {one}, or (N,H,W), (N,H,W,C) or (N,C,H,W)"
    if len(shape) == 3 and (shape[2] in (1, 3, FEW) or (shape[0] == 3 and shape[2] > FEW)):
        grey = "array[:, None]" if tensor else "array[..., None]"
        return f"an array of shape {shape} came; {one}, or {grey} for {shape[0]} grey ones of {shape[1]} x {shape[2]}"
    return None


def decode(record: Record, layout: Options) -> dict[str, np.ndarray]:
    """-> pixels (C,S,S) uint8 or uint16, squashed to a square, and aspect () float32, the original width over height."""
    side, channels, bits = layout["side"], layout["channels"], layout["bits"]
    image = open_image(record["image"])
    if isinstance(image, np.ndarray):
        image = _channels_last(image, record, layout)
        if bits == 8 and channels in (1, 3) and image.shape[2] in (1, 3):
            image = _bytes_of(image, layout)
            return _decode_image(Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image), layout | {"max_value": None})
    elif bits == 8 and channels in (1, 3):
        return _decode_image(image, layout)
    else:
        image = _channels_last(_to_array(image), {"image": None}, {"channels_first": False})
    height, width, found = image.shape
    if found != channels and found != 1 and channels != 1:
        raise ValueError(f"{found} channels where the other images have {channels}")
    image, white = _scaled(image, layout)
    if found != channels:
        image = image.mean(2, keepdims=True) if channels == 1 else image.repeat(channels, 2)
    if white != 2**bits - 1:
        image = image.astype(np.float32) * ((2**bits - 1) / white)
    x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))[None]
    x = F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)[0].round().clamp(0, 2**bits - 1)
    return {"pixels": x.numpy().astype(np.uint8 if bits == 8 else np.uint16), "aspect": np.array(width / height, np.float32)}


def _decode_image(image: Image.Image, layout: Options) -> dict[str, np.ndarray]:
    side, channels = layout["side"], layout["channels"]
    mode = "L" if channels == 1 else "RGB"
    with _reading():
        image.draft(mode, (side, side))  # a JPEG is decoded at a half, a quarter ... of its size where that is still as large as the square
        image = _upright(image)
    width, height = image.size
    if _is_deep(image) or (image.mode in ("L", "RGB") and (layout.get("max_value") or 255) < 255):
        with _reading():
            array = np.asarray(image)
        image = Image.fromarray(_bytes_of(array, layout))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    pixels = np.asarray(image)
    pixels = pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return {"pixels": pixels, "aspect": np.array(width / height, np.float32)}


def _upright(image: Image.Image) -> Image.Image:
    """As its EXIF says. Pillow's own function copies those that are upright already."""
    pieces = getattr(image, "tile", None)  # of a file that is not loaded yet
    if pieces and ";16" in str(pieces[0][3]) and not _is_deep(image):
        bands = np.atleast_2d(image.getextrema())
        if bands[:, 1].max() < 16:
            raise ValueError("16 bits a colour that hold at most 12: Pillow reads the upper 8 alone; save it in 8 bits, or give arrays")
    return image if image.getexif().get(ExifTags.Base.Orientation, 1) == 1 else ImageOps.exif_transpose(image)


def _to_array(image: Image.Image) -> np.ndarray:
    """(H,W) or (H,W,3), in the numbers that it holds."""
    with _reading():
        image = _upright(image)
        if image.mode not in ("L", "RGB") and not _is_deep(image):
            image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
        return np.asarray(image)


def decode_with_mask(record: Record, layout: Options) -> dict[str, np.ndarray]:
    """As `decode`, and target.size (2,) int32, the image's width and height; with a mask target.mask (S,S) uint8."""
    arrays = decode(record, layout)
    arrays[masks.SIZE] = masks.size_of(open_image(record["image"]), record)
    if "mask" in record:
        arrays[masks.MASK] = masks.read_mask(record["mask"], open_image(record["mask"]), layout["side"], float(arrays["aspect"]))
    return arrays


def fit(batch: Batch, layout: Options) -> Options:
    """Mean and deviation of each channel in 0..1, from pixels (B,C,S,S)."""
    step = max(1, batch["pixels"].shape[-1] // 48)  # neighbours are alike: of large images every second, third ... row and column do
    pixels = batch["pixels"][..., ::step, ::step]
    count, moments = pixels[:, 0].numel(), torch.zeros(2, pixels.shape[1], dtype=torch.float64)
    for part in pixels.split(max(1, PART // pixels[0].numel())):  # all at once as numbers would take eight times the memory
        x = _unit(part).double()
        moments += torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3))])
    mean, square = moments / count
    std = ((square - mean.square()).clamp(min=0) * count / max(count - 1, 1)).sqrt()
    return {"mean": mean.tolist(), "std": std.clamp(min=LEAST_STD[layout["bits"]]).tolist()}


def raw(batch: Batch, layout: Options) -> np.ndarray:
    """Pixels, averaged down to at most 32 x 32, as one vector (B, C*h*w)."""
    x = _unit(batch["pixels"])
    return (F.adaptive_avg_pool2d(x, 32) if x.shape[-1] > 32 else x).flatten(1).numpy()


def _unit(pixels: Tensor) -> Tensor:
    return pixels.float() / (255 if pixels.dtype == torch.uint8 else 65535)


# ------------------------------------------------------------------------------------------------------ arrays to views

NOTHING: Options = {
    "size": 0,  # side of the view, filled in from the layout
    "scale": (1.0, 1.0),  # share of the image's area that a crop keeps
    "ratio": (1.0, 1.0),  # width over height of the crop
    "flip": 0.0,  # probabilities from here ...
    "flip_vertical": 0.0,
    "rotate": 0.0,  # degrees to either side
    "translate": 0.0,  # share of the side
    "shear": 0.0,  # degrees to either side
    "jitter": 0.0,  # probability; the strengths below are torchvision's
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "grey": 0.0,
    "blur": 0.0,
    "blur_sigma": (0.1, 2.0),  # pixels of a view of side 224; smaller views in proportion
    "solarize": 0.0,
    "erase": 0.0,
    "erase_area": (0.02, 0.33),
    "noise": 0.0,  # deviation, in units of the full range
}
_SIMCLR: Options = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "flip": 0.5, "jitter": 0.8, "grey": 0.2, "blur": 0.5}
_STRONG: Options = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}  # SimCLR's strength 1; 0.5 for CIFAR
_CROP: Options = {"scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3), "flip": 0.5}  # MAE, appendix A.1
_BRIGHT: Options = {"jitter": 1.0, "hue": 0.0}  # data2vec, which follows BEiT
_WIDE: Options = {"scale": (0.3, 1.0), "ratio": (3 / 4, 4 / 3)}  # I-JEPA: its code's crops, never mirrored
_LIGHT: Options = {"scale": (0.4, 1.0), "ratio": (3 / 4, 4 / 3), "flip": 0.5}  # for fine-tuning: what is in the image stays in it
PRESETS: dict[str, dict[str, Options]] = {
    "photo": {  # SimCLR appendix A; BYOL appendix B for the second view; DINO's local crops
        "global": _SIMCLR | _STRONG,
        "global2": _SIMCLR | _STRONG | {"blur": 0.1, "solarize": 0.2},
        "local": _SIMCLR | _STRONG | {"scale": (0.05, 0.4)},
        "masked": _CROP,
        "blocks": _CROP | _BRIGHT,
        "multiblock": _WIDE,
        "light": _LIGHT,
    },
    "small": {  # SimCLR appendix B.9 (CIFAR-10): half the strength of colour, no blur; crops as MoCo's
        "global": _SIMCLR | {"blur": 0.0, "scale": (0.2, 1.0)},
        "global2": _SIMCLR | {"blur": 0.0, "scale": (0.2, 1.0), "solarize": 0.1},
        "local": _SIMCLR | {"blur": 0.0, "scale": (0.05, 0.4)},
        "masked": _CROP,
        "blocks": _CROP | _BRIGHT,
        "multiblock": _WIDE,
        "light": _LIGHT,
    },
    "upright": {  # characters and scans, where a mirrored image means something else: no flips, larger crops
        "global": {"scale": (0.4, 1.0), "ratio": (3 / 4, 4 / 3), "rotate": 10.0, "jitter": 0.8},
        "global2": {"scale": (0.4, 1.0), "ratio": (3 / 4, 4 / 3), "rotate": 10.0, "jitter": 0.8},
        "local": {"scale": (0.15, 0.4), "ratio": (3 / 4, 4 / 3), "jitter": 0.8},
        "masked": {"scale": (0.6, 1.0), "ratio": (3 / 4, 4 / 3)},
        "blocks": {"scale": (0.6, 1.0), "ratio": (3 / 4, 4 / 3)} | _BRIGHT,
        "multiblock": {"scale": (0.6, 1.0), "ratio": (3 / 4, 4 / 3)},
        "light": {"scale": (0.7, 1.0), "ratio": (3 / 4, 4 / 3), "rotate": 10.0},
    },
}
HIDING: dict[str, Options] = {  # of views with hidden tokens; "patch" is the side of a token, filled in from the encoder
    "masked": {"rate": 0.75},  # MAE
    "global_masked": {"rate": 0.15},  # MSN, of a small ViT
    "blocks": {"rate": (0.6, 0.6), "masking": 1.0},  # data2vec
    "global_blocks": {"rate": (0.1, 0.5), "masking": 0.5},  # iBOT
    "global2_blocks": {"rate": (0.1, 0.5), "masking": 0.5},
    "multiblock": {"targets": 4, "target_scale": (0.15, 0.2), "target_ratio": (0.75, 1.5), "context_scale": (0.85, 1.0)},  # I-JEPA
}
LOCAL_SHARE = 96 / 224  # side of a local view beside a global one (DINO)


def presets(layout: Options) -> dict[str, Options]:
    _check_layout(layout)
    size = layout["size"]
    named = {"whole": {}} | PRESETS[layout["preset"]]
    named |= {"global_masked": named["global"], "global_blocks": named["global"], "global2_blocks": named["global2"]}
    options = {name: NOTHING | {"size": size} | given for name, given in named.items()}
    options["local"]["size"] = max(8, 8 * round(size * LOCAL_SHARE / 8))
    for name, given in HIDING.items():
        options[name] |= {"patch": 0, **given}
    return options


def _check_layout(layout: Options) -> None:
    """Of a run or an encoder that may come from anyone: what is stored and shown must fit in memory."""
    sides: list[Any] = [layout.get(key) for key in ("size", "side", "channels")]
    known = layout.get("bits") in (8, 16) and str(layout.get("preset")) in PRESETS
    white, first = layout.get("max_value", 255), layout.get("channels_first", False)
    if type(white) is not int or not 0 < white < 1 << 32 or type(first) is not bool:
        raise UserError(f"of images, max_value is an integer above 0 and channels_first true or false; {white} and {first} came")
    if not known or not all(type(value) is int and value > 0 for value in sides):
        raise UserError(f"a layout of images has size, side, channels, bits (8 or 16) and preset ({', '.join(PRESETS)}); {layout} came")
    if max(sides[:2]) ** 2 * sides[2] > PIXEL_LIMIT:
        raise UserError(f"images of {sides[2]} x {max(sides[:2])} x {max(sides[:2])} numbers are more than the limit of {PIXEL_LIMIT:,}")


RANGES = {  # of options; a pair must also be in order
    **dict.fromkeys(("scale", "erase_area", "rate", "target_scale", "context_scale"), Within(1e-4, 1)),
    **dict.fromkeys(("flip", "flip_vertical", "jitter", "grey", "blur", "solarize", "erase", "translate", "masking"), Within(0, 1)),
    **dict.fromkeys(("brightness", "contrast", "saturation", "noise"), Within(0, 100)),
    **dict.fromkeys(("blur_sigma", "ratio", "target_ratio"), Within(1e-2, 100)),
    "hue": Within(0, 0.5),
    "rotate": Within(0, 180),
    "shear": Within(0, 80),
    "size": SIDES,
    "patch": Within(0, SIDES.high),  # 0: the encoder's
    "targets": Within(1, 64),
}


def check(options: Options) -> str | None:
    """What is wrong with a view's options, or None."""
    if fault := outside(options, RANGES):
        return fault
    if options.get("targets", 0) * options.get("target_scale", (0, 0))[1] >= 1:
        return f"target_scale={options['target_scale']}: {options['targets']} targets of that size would leave no context"
    return None


def whole(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> View:
    """The image's central square at the view's size, nothing random: how an encoder is used."""
    return augmented(batch, draws, options, statistics)


def masked(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> View:
    """A view cut into square tokens, `rate` of them hidden; the target is every token's pixels (B, N, patch * patch * C)."""
    view = augmented(batch, draws, options, statistics)
    patch = options["patch"]
    _grid(view, options)
    tokens = F.unfold(view.x, patch, stride=patch).transpose(1, 2)
    return View(view.x, mask=random_mask(draws.order(tokens.shape[1]), options["rate"]), target=tokens, meta=view.meta)


def blocks(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> View:
    """A view with blocks of tokens hidden: a share of `rate` of them, in a share of `masking` of the samples.

    meta["places"] (B,M): M places that include all the hidden ones, those first. M is the same for every batch.
    """
    view = augmented(batch, draws, options, statistics)
    grid, (low, high) = _grid(view, options), options["rate"]
    count = (draws.uniform(low=low, high=high) * draws.chance(options["masking"]) * math.prod(grid)).round()
    hidden = block_mask(draws.uniform(TRIES, 4), count, grid)
    places = first(hidden, max(round(high * math.prod(grid)), 1))
    return View(view.x, mask=hidden, meta={**(view.meta or {}), "places": places})


def multiblock(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> View:
    """A view of which a context is shown (not hidden), as many tokens in each sample, and meta["targets"] (B,T,N) bool.

    Of the tokens of a large block (`context_scale`), outside all targets, the context is as many as there are in any sample:
    N less the targets' largest area. Where the block has fewer, some outside of it are shown; of a target none ever is.
    """
    view = augmented(batch, draws, options, statistics)
    grid, count = _grid(view, options), options["targets"]
    targets = rectangles(draws.uniform(count, 4), options["target_scale"], options["target_ratio"], grid)
    block = rectangles(draws.uniform(1, 4), options["context_scale"], (1.0, 1.0), grid).squeeze(1)
    tokens = math.prod(grid)
    shown = tokens - count * max(int(options["target_scale"][1] * tokens), 1)
    if shown < 1:
        raise UserError(f"{count} targets of a view of {tokens} tokens leave no context; choose a larger size or a smaller patch")
    order = (2.0 * targets.any(1) + ~block + draws.uniform(tokens)).argsort(1)
    hidden = torch.ones_like(block).scatter_(1, order[:, :shown], False)
    return View(view.x, mask=hidden, meta={**(view.meta or {}), "targets": targets})


def _grid(view: View, options: Options) -> tuple[int, int]:
    """Rows and columns of tokens; a UserError where there is one token, of which nothing could be hidden or else all would be."""
    high, wide = (side // options["patch"] for side in view.x.shape[-2:])
    if high * wide < 2:
        raise UserError(
            f"a view of side {options['size']} is one token of the encoder's patch of {options['patch']}, and some are to be hidden of "
            "several; choose a larger size or a smaller patch (encoder.patch=4, of timm encoder.patch_size=4)"
        )
    return high, wide


def augmented(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> View:
    """pixels (B,C,S,S), aspect (B,) -> x (B,C,size,size) float32, normalised; meta["affine"] (B,2,3) view -> stored image."""
    pixels, size = batch["pixels"], options["size"]
    channels, top = pixels.shape[1], 255.0 if pixels.dtype == torch.uint8 else 65535.0
    box, flip, upside = _box(batch["aspect"], draws, options), draws.chance(options["flip"]), draws.chance(options["flip_vertical"])
    affine = _affine(box, flip, upside, draws, options)
    sigma = _sigma(draws, options)
    matrix, pull = _colour(channels, draws, options)
    mean, std = (torch.tensor(statistics[key], device=pixels.device).view(-1, 1, 1) for key in ("mean", "std"))
    matrix, pull = matrix / (top * std.squeeze(2)), pull / (top * std.squeeze(2))  # normalising is affine too

    x = torch.empty(len(pixels), channels, size, size, device=pixels.device)
    for part in _parts(x):
        blur = None if sigma is None else blur_matrix(sigma[part], size)
        seen = _look_through(pixels[part], box[part], flip[part], upside[part], affine[part], blur, options)
        offset = pull[part] @ seen.mean((2, 3)).unsqueeze(2) - (mean / std).squeeze(2)
        torch.baddbmm(offset, matrix[part], seen.flatten(2), out=x[part].flatten(2))
    if options["noise"]:
        x += draws.normal(*x.shape[1:]) * (options["noise"] / std)
    if options["noise"] or options["jitter"]:
        for channel, m, s in zip(x.unbind(1), statistics["mean"], statistics["std"], strict=True):
            channel.clamp_(-m / s, (1 - m) / s)
    if options["solarize"]:  # from the middle upwards mirrored; in the other samples at the top, where nothing is
        middle = (torch.where(draws.chance(options["solarize"]), 0.5, 1.0).view(-1, 1, 1, 1) - mean) / std
        torch.sub(middle, x.sub_(middle).abs_(), out=x)
    if options["erase"]:
        x.masked_fill_(_erased(size, draws, options)[:, None], 0.0)
    return View(x, meta={"affine": affine})


def _parts(x: Tensor) -> list[slice]:
    """Samples that are worked on together: on a CPU, as many as its caches hold; memory asked for anew costs more than the sums."""
    each = max(1, PART // x[0].numel()) if x.device.type == "cpu" else len(x)
    return [slice(start, start + each) for start in range(0, len(x), each)]


def _box(aspect: Tensor, draws: CounterRNG, options: Options) -> Tensor:
    """A random crop of the original geometry -> (B,4) left, top, width, height as fractions of the image.

    As torchvision's RandomResizedCrop: ten tries of area and ratio, else the central crop of an allowed ratio.
    """
    (low, high), (narrow, broad) = options["scale"], options["ratio"]
    tries = 1 if low == high == 1.0 else 10
    area, log_ratio = draws.uniform(tries, low=low, high=high), draws.uniform(tries, low=float(np.log(narrow)), high=float(np.log(broad)))
    ratio, aspect = log_ratio.exp(), aspect.unsqueeze(1)
    width, height = (area * ratio / aspect).sqrt(), (area / ratio * aspect).sqrt()
    fits = (width <= 1) & (height <= 1)
    first = fits.int().argmax(1, keepdim=True)
    width, height = width.gather(1, first), height.gather(1, first)
    central = aspect.clamp(narrow, broad)
    width = torch.where(fits.any(1, keepdim=True), width, (central / aspect).clamp(max=1))
    height = torch.where(fits.any(1, keepdim=True), height, (aspect / central).clamp(max=1))
    place = draws.uniform(2) if tries > 1 else torch.full_like(width, 0.5).expand(-1, 2)
    place = torch.where(fits.any(1, keepdim=True), place, 0.5)
    return torch.cat([place[:, :1] * (1 - width), place[:, 1:] * (1 - height), width, height], 1)


def _affine(box: Tensor, flip: Tensor, upside: Tensor, draws: CounterRNG, options: Options) -> Tensor:
    """Crop, flips and turns -> affine (B,2,3) from the view to the stored image."""
    affine = warp.crop_affine(box, flip)
    affine[:, 1, 1] *= torch.where(upside, -1.0, 1.0)
    if not _turned(options):
        return affine
    angle = draws.uniform(low=-1, high=1) * float(np.deg2rad(options["rotate"]))
    shift = draws.uniform(2, low=-2, high=2) * options["translate"]
    shear = draws.uniform(low=-1, high=1) * float(np.deg2rad(options["shear"]))
    return warp.compose(affine, warp.turn_affine(angle, shift, shear))


def _turned(options: Options) -> bool:
    return bool(options["rotate"] or options["translate"] or options["shear"])


def _sigma(draws: CounterRNG, options: Options) -> Tensor | None:
    """The blur of each sample in pixels of the view (B,), 0 for none; None where no sample is blurred."""
    if not options["blur"]:
        return None
    low, high = (sigma * options["size"] / 224 for sigma in options["blur_sigma"])
    return draws.uniform(low=low, high=high) * draws.chance(options["blur"])


def _look_through(
    pixels: Tensor, box: Tensor, flip: Tensor, upside: Tensor, affine: Tensor, blur: Tensor | None, options: Options
) -> Tensor:
    """Crop, flips, turns and blur -> (B,C,size,size) float32 in the units of the pixels."""
    size, (height, width) = options["size"], pixels.shape[-2:]
    if _turned(options):
        pixels = warp.warp(pixels.float(), affine, size)
        return pixels if blur is None else resample(pixels, blur, blur)
    left, top, across, down = box.unbind(1)
    rows = resize_matrix(top * height, down * height, upside, height, size)
    columns = resize_matrix(left * width, across * width, flip, width, size)
    if pixels.dtype == torch.uint8 and options["scale"] != (1.0, 1.0) and has_bfloat16(pixels.device.type):
        # 0..255 is exact in bfloat16; the result is as fine as the 8 bits that Pillow would have rounded it to
        rows, columns, blur = rows.bfloat16(), columns.bfloat16(), None if blur is None else blur.bfloat16()
    if blur is not None:
        rows, columns = blur @ rows, blur @ columns
    return resample(pixels, rows, columns).float()


def _colour(channels: int, draws: CounterRNG, options: Options) -> tuple[Tensor, Tensor]:
    """The colour map of each sample: matrix and pull (B,C,C), as colour.jitter."""
    if not options["jitter"] and not options["grey"]:
        same = torch.eye(channels, device=draws.keys.device).expand(len(draws.keys), -1, -1)
        return same, torch.zeros_like(same)
    on = draws.chance(options["jitter"])
    brightness, contrast, saturation = (
        torch.where(on, draws.uniform(low=max(1 - options[name], 0.01), high=1 + options[name]), 1.0)
        for name in ("brightness", "contrast", "saturation")
    )
    hue = torch.where(on, draws.uniform(low=-options["hue"], high=options["hue"]), 0.0)
    return colour.jitter(channels, brightness, contrast, saturation, hue, draws.chance(options["grey"]))


def _erased(size: int, draws: CounterRNG, options: Options) -> Tensor:
    """(B,size,size) bool: a random rectangle, in the samples that are chosen. Zhong et al. 2020, random erasing."""
    low, high = options["erase_area"]
    area, ratio = draws.uniform(low=low, high=high), draws.uniform(low=float(np.log(0.3)), high=float(np.log(3.3))).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).clamp(max=1)
    start = draws.uniform(2) * (1 - sides)
    place = (torch.arange(size, device=area.device) + 0.5) / size
    inside = (place >= start.unsqueeze(2)) & (place < (start + sides).unsqueeze(2))
    return inside[:, 0, :, None] & inside[:, 1, None, :] & draws.chance(options["erase"]).view(-1, 1, 1)


# ------------------------------------------------------------------------------------------------- what others must know


def render(view: View, options: Options, statistics: Options) -> np.ndarray:
    """A view as the network sees it -> (B,H,W,3) uint8; hidden tokens are grey. Of many channels, the first three (or one) show."""
    mean, std = (torch.tensor(statistics[key]).view(-1, 1, 1) for key in ("mean", "std"))
    x = view.x.detach().float().cpu() * std + mean
    if view.mask is not None:
        side = options["patch"]
        rows = x.shape[-2] // side
        hidden = view.mask.cpu().view(len(x), 1, rows, -1).repeat_interleave(side, 2).repeat_interleave(side, 3)
        x = torch.where(hidden, torch.tensor(0.5), x)
    x = x[:, :3] if x.shape[1] >= 3 else x[:, :1].expand(-1, 3, -1, -1)
    return (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def encoder_for(layout: Options, needs: frozenset[str]) -> str:
    if "tokens" in needs:
        return "vit_mini"
    return "timm/resnet18" if torch.cuda.is_available() else "conv_small"


def encoder_input(layout: Options) -> Options:
    return {"channels": layout["channels"], "size": layout["size"]}


def preprocessing(layout: Options, statistics: Options) -> Options:
    """The `whole` view in timm's words: shorter side to the size, central square, pixels in 0..1, mean and deviation of a channel."""
    for name in ("mean", "std"):
        values = statistics.get(name)
        if not isinstance(values, list) or len(values) != layout["channels"] or not all(map(_finite, values)):
            raise UserError(f"{name} of {layout['channels']} channels is {str(values)[:40]}; a finite number a channel is needed")
    if min(statistics["std"]) <= 0:
        raise UserError(f"std of the channels is {statistics['std']}; each must be above 0")
    shape = {"input_size": [layout["channels"], layout["size"], layout["size"]]}
    crop = {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"}
    return {**shape, **crop, "mean": statistics["mean"], "std": statistics["std"]}


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
    },
    raw=raw,
    render=render,
    encoder_for=encoder_for,
    input=encoder_input,
    preprocessing=preprocessing,
    knobs={
        "size": Annotated[int, SIDES],
        "side": Annotated[int, SIDES],
        "preset": str,
        "max_value": Annotated[int, Within(1, 65535)],
        "channels_first": bool,
    },
    doubt=doubt,
    adapt=adapt,
    targets={"masks": MASK},
)
