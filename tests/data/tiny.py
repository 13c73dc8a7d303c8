"""Two small modalities, so that the room is tested without the real ones: images of one shape, and token ids of any length."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from untaught.core import Modality, Preprocessor, Record

PIXEL_LIMIT = 100_000_000


def make_modality(**own: Any) -> Modality:
    def unused(*_: Any) -> Any:
        raise AssertionError("data/ must not call this")

    rest = dict.fromkeys(("plan", "presets", "check", "raw", "render", "encoder_for", "encoder_arguments", "export"), unused)
    return Modality(**{**rest, "views": {}, "fit": lambda batch, prep: {}, **own})


def decode_picture(record: Record, prep: Preprocessor) -> dict[str, np.ndarray]:
    value = record["image"]
    if isinstance(value, np.ndarray):
        value = Image.fromarray(value)
    elif not isinstance(value, Image.Image):
        value = Image.open(io.BytesIO(value) if isinstance(value, bytes) else value)
    if value.width * value.height > PIXEL_LIMIT:
        raise ValueError(f"{value.width} x {value.height} pixels")
    deep = np.asarray(value).dtype == np.uint16
    small = value.resize((prep.settings["side"],) * 2)
    pixels = np.asarray(small)[..., None].repeat(3, 2) >> 8 if deep else np.asarray(small.convert("RGB"))
    return {"pixels": np.ascontiguousarray(pixels.transpose(2, 0, 1), np.uint8)}


def picture(value: int, side: int = 8) -> Image.Image:
    """An image that is known again by its value: value in red, value // 256 in green."""
    return Image.fromarray(np.full((side, side, 3), (value % 256, value // 256, 7), np.uint8))


def encoded(value: int, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    picture(value).save(buffer, kind)
    return buffer.getvalue()


def write_pictures(root: Path, names: list[str]) -> Path:
    """The i-th file holds image(i)."""
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(i, "jpeg" if name.endswith("jpg") else "png"))
    return root


def threads_end(before: int) -> bool:
    """Whether there are soon as many threads as before: closing stops them, and waits for none."""
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    return threading.active_count() <= before
