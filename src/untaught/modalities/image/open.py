"""Opening images from files, encoded bytes, PIL images and arrays; value ranges."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from untaught.core import Options, Record

FORMATS = ("PNG", "JPEG", "MPO", "GIF", "TIFF", "BMP", "DIB", "WEBP", "PPM", "JPEG2000", "AVIF")
SIGNATURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"RIFF": "WEBP"}  # first bytes of formats common for small images
PIXEL_LIMIT = 100_000_000  # larger images are rejected before decoding
FEW = 4  # maximum length of an axis taken as channels


@contextmanager
def _reading() -> Iterator[None]:
    """Converts the many exceptions of Pillow on damaged files (SyntaxError, struct.error, IndexError ...) to ValueError; OSError passes."""
    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def open_image(value: Any) -> Image.Image | np.ndarray:
    """A path, encoded bytes, a PIL image or an array with two or three axes. Raises ValueError or OSError with the reason."""
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
            raise ValueError(f"an array of shape {array.shape} is not an image; (H,W), (H,W,C) or (C,H,W) is allowed")
        if array.dtype.kind not in "buif":
            raise ValueError(f"an array of {array.dtype} is not an image; integers from 0 or floats in 0..1 are allowed")
        return array
    if isinstance(value, Image.Image):
        return value
    if not isinstance(value, str | bytes | Path):
        raise ValueError(f"{type(value).__name__} is not an image; a path, bytes, a PIL image or an array is allowed")
    if value == b"":
        raise ValueError("is empty (0 bytes)")
    with _reading(), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = _open_bytes(value) if isinstance(value, bytes) else _open_path(Path(value))
        except UnidentifiedImageError as error:  # its message only names an object in memory
            raise ValueError(f"is damaged or not in a supported format ({', '.join(_formats())})") from error
    if image.width * image.height > PIXEL_LIMIT:
        raise ValueError(f"has {image.width} x {image.height} pixels, more than the limit of {PIXEL_LIMIT:,}")
    return image


def _plain(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return value.float() if value.dtype == torch.bfloat16 else value  # numpy has no bfloat16


def _open_bytes(content: bytes) -> Image.Image:
    """Tries the format given by the signature first: Pillow's trial of every format takes as long as decoding a small image."""
    kind = next((kind for start, kind in SIGNATURES.items() if content.startswith(start)), None)
    if kind is not None:
        with suppress(UnidentifiedImageError):
            return Image.open(io.BytesIO(content), formats=[kind])
    return Image.open(io.BytesIO(content), formats=_formats())


@cache
def _formats() -> list[str]:
    """Allowed formats. Pillow has more, some of which run programs (EPS); none of them is common for images."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _open_path(path: Path) -> Image.Image:
    if not path.is_file() and path.exists():
        raise ValueError("is not a regular file")  # reading a pipe would block
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError("is empty (0 bytes)")
    return Image.open(path, formats=_formats())


def _channels_last(array: np.ndarray, record: Record, settings: Options) -> np.ndarray:
    """(H,W), (H,W,C) or (C,H,W) -> (H,W,C)."""
    if array.ndim == 2:
        return array[:, :, None]
    tensor = isinstance(record["image"], Tensor) or bool(record.get("tensor"))
    return (
        array.transpose(1, 2, 0)
        if _channels_first(array.shape, tensor, settings.get("channels"), settings.get("channels_first"))
        else array
    )


def _channels_first(shape: tuple[int, ...], tensor: bool, channels: int | None, channels_first: bool | None) -> bool:
    """Whether the first of three axes is the channels. channels: of the data set, once known; channels_first: the knob. Raises ValueError
    if ambiguous."""
    first, middle, last = shape
    if channels is None and channels_first is not None:
        return channels_first
    fits, few = (first == channels, last == channels), (first <= FEW, last <= FEW)
    square = (first != middle == last, first == middle != last)
    for one, other in (fits, few):
        if one != other:
            return one
    if channels_first is not None:
        return channels_first
    if square[0] != square[1]:
        return square[0]
    if tensor:
        return True
    raise ValueError(
        f"an array of shape {shape} may have its channels first or last; give channels_first=true or channels_first=false in pretraining, "
        "or a torch tensor, whose channels are first"
    )


def _whole_numbers(array: np.ndarray) -> tuple[np.ndarray, int | None]:
    """-> non-negative integers and their white level, None if the dtype does not determine it."""
    if array.dtype == bool:
        return array.astype(np.uint8), 1
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ValueError("a float image has NaN or infinite values; fix them, or remove the image")
        if array.min() < 0 or array.max() > 1:
            raise ValueError(f"a float image must be in 0..1, not {array.min():g}..{array.max():g}; rescale it, or give integers from 0")
        return np.round(array.astype(np.float64) * 65535).astype(np.uint16), 65535
    if array.min() < 0:
        raise ValueError(f"has {array.dtype} values from {array.min()} to {array.max()}; they must not be negative: shift and scale them")
    return array, None


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _upright(image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation, without Pillow's copy if the image is upright already."""
    pieces = getattr(image, "tile", None)  # of a file not loaded yet
    if pieces and ";16" in str(pieces[0][3]) and not _is_deep(image):
        bands = np.atleast_2d(image.getextrema())
        if bands[:, 1].max() < 16:
            raise ValueError(
                "has 16-bit colours with at most 12 bits used, of which Pillow reads the upper 8; save it in 8 bits, or give arrays"
            )
    return image if image.getexif().get(ExifTags.Base.Orientation, 1) == 1 else ImageOps.exif_transpose(image)


def _to_array(image: Image.Image) -> np.ndarray:
    """(H,W) or (H,W,3), with the stored values."""
    with _reading():
        image = _upright(image)
        if image.mode not in ("L", "RGB") and not _is_deep(image):
            image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
        return np.asarray(image)
