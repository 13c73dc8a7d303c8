"""Segmentation masks: one class per pixel, stored like the image and transformed with the same geometry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from untaught.core import Batch, Options, Record, View
from untaught.data.target import TARGET
from untaught.ops import warp

MASK, SIZE = f"{TARGET}mask", f"{TARGET}size"  # columns: (S,S) uint8; (2,) width and height of the original
RATIO = 0.02  # allowed relative difference between a mask's aspect ratio and its image's


def read_mask(value: Any, opened: Any, side: int, aspect: float) -> np.ndarray:
    """opened: a mask as an image or array -> (side, side) uint8, nearest-neighbour resized. Raises ValueError."""
    classes = mask_array(opened)
    height, width = classes.shape
    if abs(width / height / aspect - 1) > RATIO:
        raise ValueError(f"its mask is {width} x {height}, which is not the image's aspect ratio; check that they belong together")
    return np.asarray(Image.fromarray(classes).resize((side, side), Image.Resampling.NEAREST))


def mask_array(opened: Any) -> np.ndarray:
    """A mask as an image or array -> its class indices (H,W) uint8. Raises ValueError."""
    if isinstance(opened, Image.Image):
        if opened.mode in ("RGB", "RGBA"):
            opened = _one_channel(np.asarray(opened.convert("RGB")))
        elif opened.mode == "1":
            opened = opened.convert("L")
        elif opened.mode == "LA":
            opened = opened.getchannel(0)
        opened = np.asarray(opened)  # palette indices, not colours
    elif opened.ndim == 3:
        opened = opened[:, :, 0] if opened.shape[2] == 1 else _one_channel(opened)
    if opened.dtype == bool:
        opened = opened.astype(np.uint8)
    if opened.dtype.kind not in "ui" or opened.min() < 0 or opened.max() > 255:
        raise ValueError(f"its mask is {opened.dtype} with values up to {opened.max()}; each pixel must be a class index from 0 to 255")
    return opened.astype(np.uint8)


def _one_channel(array: np.ndarray) -> np.ndarray:
    if (array[:, :, :1] != array).any():
        raise ValueError("its mask is coloured; give one channel (or a palette) with the class index of each pixel")
    return array[:, :, 0]


def size_of(opened: Any, record: Record) -> np.ndarray:
    """Width and height of an image (2,) int32, after EXIF rotation."""
    if not isinstance(opened, Image.Image):
        height, width = opened.shape[:2] if opened.shape[-1] <= 4 or opened.ndim == 2 else opened.shape[1:]
        return np.array([width, height], np.int32)
    turned = opened.getexif().get(ExifTags.Base.Orientation, 1) > 4
    return np.array(opened.size[::-1] if turned else opened.size, np.int32)


def follow(batch: Batch, view: View) -> View:
    """target (B,size,size) uint8: the mask under the view's affine; meta["size"]: the images' original sizes."""
    meta = {**(view.meta or {}), "size": batch[SIZE]}
    if MASK not in batch:
        return replace(view, meta=meta)
    return replace(view, meta=meta, target=warp.warp_classes(batch[MASK], meta["affine"], view.x.shape[-1]))


MASKS: Options = {
    "name": "mask",
    "noun": "masks",
    "follow": follow,
    "whole": {"ratio": (0.01, 100.0)},  # the full image resized to a square, so that every pixel is predicted
    "endings": ("_mask", "_seg", "_gt", "_label", "_labels"),
    "folders": (
        ("images", "image", "imgs", "img", "photos", "jpegimages"),
        ("masks", "mask", "labels", "annotations", "segmentations", "segmentationclass", "gt"),
    ),
}
