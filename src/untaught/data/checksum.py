"""Checksums of a store's files and of each row's contents, by xxh3, which is faster than reading a file."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

ALWAYS = 1 << 30  # bytes; stores up to this size are verified at every opening, in a tenth of a second
AGAIN = 7 * 86400  # seconds after which a larger store with untouched files is verified again
VERIFIED = "verified.json"
BLOCK = 1 << 20


def digest_of_row(arrays: Mapping[str, np.ndarray]) -> int:
    """64-bit hash of a decoded record's arrays."""
    digest = 0
    for name in sorted(arrays):
        contiguous: Any = np.ascontiguousarray(arrays[name])
        digest = xxhash.xxh3_64_intdigest(contiguous, digest)
    return digest


def digest_of_text(text: str) -> str:
    return xxhash.xxh3_64_hexdigest(text.encode())


def digest_of_npy(header: bytes, values: xxhash.xxh3_64) -> str:
    """Digest of a `.npy` file, whose header is written last: over its values, then its header."""
    digest = values.copy()
    digest.update(header)
    return digest.hexdigest()


def checksum(path: Path) -> str:
    """`digest_of_npy` of a file. Raises OSError, and ValueError if it is not a `.npy`."""
    with path.open("rb") as file:
        start = file.read(10)
        header = start + file.read(int.from_bytes(start[8:], "little"))
        if len(start) < 10 or start[:8] != b"\x93NUMPY\x01\x00":
            raise ValueError(f"{path.name} is damaged")
        return digest_of_npy(header, feed(xxhash.xxh3_64(), file))


def feed(digest: xxhash.xxh3_64, file: Any, most: int | None = None) -> xxhash.xxh3_64:
    """Updates the digest with the rest of a file, or with its next `most` bytes."""
    block = memoryview(bytearray(BLOCK))
    while (wanted := BLOCK if most is None else min(BLOCK, most)) and (came := file.readinto(block[:wanted])):
        digest.update(block[:came])
        most = None if most is None else most - came
    return digest


def verify(folder: Path, checksums: Mapping[str, str]) -> None:
    """Raises ValueError or OSError if a file has changed since it was written.

    In stores larger than ALWAYS, files that were verified less than AGAIN seconds ago and not touched since are skipped.
    """
    stamps = _stamps(folder, checksums)
    large = sum(size for _, size, *_ in stamps.values()) > ALWAYS
    known = _verified(folder) if large else {}
    for name, expected in checksums.items():
        if known.get(name) != stamps[name] and checksum(folder / name) != expected:
            raise ValueError(f"{name} is damaged")
    if large and known != stamps:
        remember(folder, checksums)


def remember(folder: Path, checksums: Mapping[str, str]) -> None:
    """Records that the files are intact now."""
    partial = folder / f".{uuid.uuid4().hex}"
    with suppress(OSError):  # a read-only cache: files are then verified every time
        partial.write_text(json.dumps(_stamps(folder, checksums)), "utf-8")
        os.replace(partial, folder / VERIFIED)


def _stamps(folder: Path, names: Mapping[str, Any]) -> dict[str, list[int]]:
    """File metadata that changes when a file is touched (ctime can't be set back)."""
    found = {name: (folder / name).stat() for name in names}
    return {name: [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in found.items()}


def _verified(folder: Path) -> dict[str, Any]:
    with suppress(Exception):  # missing or damaged
        if time.time() - (folder / VERIFIED).stat().st_mtime < AGAIN:
            return dict(json.loads((folder / VERIFIED).read_text("utf-8")))
    return {}
