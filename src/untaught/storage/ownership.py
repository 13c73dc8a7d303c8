"""Recognising files written by untaught: only those are overwritten."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from untaught.core import UserError

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

SEEN = 1 << 16  # bytes inspected at the start of a file
VECTORS = rb"'<f4', 'fortran_order': False, 'shape': \(\d+, \d+\)"
TOKENS = rb"'<f4', 'fortran_order': False, 'shape': \(\d+, \d+(, \d+)?\)"
ROWS = rb"'<i8', 'fortran_order': False, 'shape': \(\d+,\)"
ANSWERS = ("tokens", "psnr", "right", "turned", "ab_rmse", "prototype")  # one of them follows row and name, or share_CLASS
SIGNED = "Software", "untaught"  # PNG metadata


def check_replaceable(path: Path, otherwise: str) -> None:
    """Raises UserError if `path` exists and is not a file written by untaught (or a link to one). otherwise: advice for the user."""
    if os.path.lexists(path) and not is_ours(path):
        raise UserError(f"{path} already exists and was not written by untaught; {otherwise}")


def is_ours(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode) and WRITTEN[path.suffix](path)
    except Exception:  # not in the format of its suffix: each reader raises its own types
        return False


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(SEEN)


def _npy(path: Path) -> bool:
    """Vectors, their row numbers, or the vectors of tokens, whose grid is beside them."""
    kind = ROWS if path.name.endswith(".rows.npy") else TOKENS if is_ours(path.with_suffix(".grid.json")) else VECTORS
    return re.match(rb"\x93NUMPY\x01\x00..\{'descr': " + kind, _head(path), re.DOTALL) is not None


def _parquet(path: Path) -> bool:
    from pyarrow import parquet

    return _are_ours(parquet.read_schema(path).names)


def _csv(path: Path) -> bool:
    return _are_ours([name.strip('"') for name in _head(path).decode(errors="replace").splitlines()[0].split(",")])


def _are_ours(columns: list[str]) -> bool:
    """Columns written by `embed`, `predict` or `runs`."""
    if columns[:3] == ["run", "data", "method"]:
        return True
    if columns[:2] == ["row", "name"] and len(columns) > 2 and (columns[2] in ANSWERS or columns[2].startswith("share_")):
        return True
    return "name" in columns and any(column in columns for column in ("vector", "probability", "value"))


def _json(path: Path) -> bool:
    """The grid of tokens."""
    return path.name.endswith(".grid.json") and json.loads(_head(path)).keys() == {"grid", "width"}


def _png(path: Path) -> bool:
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as image:
        return image.info.get(SIGNED[0]) == SIGNED[1]


def signed() -> PngInfo:
    """PNG metadata that marks an image as ours."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(*SIGNED)
    return info


def _html(path: Path) -> bool:
    return " \u00b7 untaught</title>".encode() in _head(path)


def _markdown(path: Path) -> bool:
    """A method's page, or the index of methods."""
    text = _head(path).decode()
    page = text.startswith(f"# {path.stem}\n\n") and "\nFamily: " in text and "\nMeasured: " in text
    return page or "Made by `untaught methods --write" in text


WRITTEN: dict[str, Callable[[Path], bool]] = {
    ".npy": _npy,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _csv,
    ".png": _png,
    ".html": _html,
    ".md": _markdown,
    ".pt2": lambda path: _head(path).startswith(b"PK"),
    ".onnx": lambda path: b"pytorch" in _head(path),
}
