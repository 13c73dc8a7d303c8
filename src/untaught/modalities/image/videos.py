"""Videos as folders of frames with object masks, as in DAVIS: JPEGImages/480p/bear/00000.jpg and Annotations/480p/bear/00000.png.

A mask may also lie beside its frame: bear/00000.jpg with bear/00000.png, or bear/00000.png with bear/00000_mask.png.
"""

from __future__ import annotations

import re
import zipfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from untaught.core import UserError
from untaught.modalities.image.masks import MASKS, mask_array
from untaught.modalities.image.open import open_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
IMAGES, ANNOTATIONS = MASKS["folders"]
LAYOUT = "VIDEO/00000.jpg with VIDEO/00000.png, or JPEGImages/VIDEO/00000.jpg with Annotations/VIDEO/00000.png"
Read = Callable[[], bytes]


@dataclass
class Video:
    """The frames of a video in order, and the masks of those that have one, read on demand."""

    name: str
    images: list[tuple[str, Read]] = field(default_factory=list)  # (file name, its bytes) by frame
    annotations: dict[int, tuple[str, Read]] = field(default_factory=dict)  # by frame

    def frames(self, channels: int) -> np.ndarray:
        """(T,H,W,channels) uint8; channels: 1 or 3. Raises UserError for an unreadable frame and for frames of several sizes."""
        return self._stacked([_opened(*one, lambda image: _pixels(image, channels)) for one in self.images], "frames")

    def masks(self) -> dict[int, np.ndarray]:
        """Masks (H,W) uint8 by frame: 0 is background, other values are objects. Raises UserError for unreadable ones and several sizes."""
        found = {number: _opened(*one, mask_array) for number, one in self.annotations.items()}
        self._stacked(list(found.values()), "masks")
        return found

    def _stacked(self, arrays: list[np.ndarray], what: str) -> np.ndarray:
        sizes = sorted({array.shape[1::-1] for array in arrays})
        if len(sizes) > 1:
            shown = " and ".join(f"{width} x {height}" for width, height in sizes[:3])
            raise UserError(f"video {self.name} has {what} of {shown} pixels; resize all {what} of a video to one size")
        return np.stack(arrays)


def open_videos(data: str | Path) -> list[Video]:
    """The videos of a folder or a .zip that have at least one mask, by name.

    Raises UserError if there are none, or if a first frame has no mask.
    """
    files = _files(Path(data).expanduser())
    names = {name for name in files if PurePosixPath(name).suffix.lower() in SUFFIXES and "__MACOSX" not in name}
    stems: dict[str, set[str]] = defaultdict(set)
    for name in names:
        stems[name[: name.rindex(".")]].add(name[name.rindex(".") :].lower())
    frames: dict[str, dict[str, str]] = defaultdict(dict)
    masks: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        path = PurePosixPath(name)
        stem, is_mask = path.stem, any(part.lower() in ANNOTATIONS for part in path.parts[:-1])
        if ending := next((ending for ending in MASKS["endings"] if stem.lower().endswith(ending)), ""):
            stem, is_mask = stem[: -len(ending)], True
        is_mask = is_mask or (path.suffix.lower() == ".png" and len(stems[name[: name.rindex(".")]]) > 1)
        folder = "/".join(part for part in path.parts[:-1] if part.lower() not in (*IMAGES, *ANNOTATIONS))
        (masks if is_mask else frames)[folder][stem] = name
    videos = []
    for folder in sorted(frames):
        if not masks.get(folder):
            continue
        order = sorted(frames[folder], key=_number)
        known = {number: masks[folder][stem] for number, stem in enumerate(order) if stem in masks[folder]}
        video = Video(folder or Path(data).stem, [(name, files[name]) for name in (frames[folder][stem] for stem in order)])
        video.annotations = {number: (name, files[name]) for number, name in known.items()}
        if 0 not in known:
            raise UserError(f"video {video.name}: its first frame, {video.images[0][0]}, has no mask; its objects are unknown; add one")
        videos.append(video)
    if not videos:
        raise UserError(f"no video with masks in {data} ({len(names):,} images); allowed: {LAYOUT}, in a folder or a .zip")
    return videos


def _number(stem: str) -> list[tuple[int, str]]:
    """Sorts frame2 before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", stem)]


def _files(root: Path) -> dict[str, Read]:
    """Relative names with the way to read each."""
    if root.is_dir():
        return {path.relative_to(root).as_posix(): path.read_bytes for path in sorted(root.rglob("*")) if path.is_file()}
    if not root.exists():
        raise UserError(f"{root} not found; give a folder or a .zip of videos: {LAYOUT}")
    if not zipfile.is_zipfile(root):
        raise UserError(f"{root} is not a folder or a .zip of videos; allowed: {LAYOUT}")

    def member(name: str) -> bytes:
        with zipfile.ZipFile(root) as archive:
            return archive.read(name)

    with zipfile.ZipFile(root) as archive:
        return {info.filename: (lambda name=info.filename: member(name)) for info in archive.infolist() if not info.is_dir()}


def _pixels(image: object, channels: int) -> np.ndarray:
    array = np.asarray(image.convert("L" if channels == 1 else "RGB"))  # type: ignore[attr-defined]
    return array[:, :, None] if array.ndim == 2 else array


def _opened(name: str, read: Read, use: Callable[..., np.ndarray]) -> np.ndarray:
    try:
        return use(open_image(read()))
    except (ValueError, OSError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(f"{name}: {error}") from error
