"""Fingerprints of data, the same in every process: files by size and modification time, values in memory by content."""

from __future__ import annotations

import hashlib
import sys
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import xxhash

PIECE = 1 << 22  # bytes hashed at once, to bound memory
BY_REPR = ("datetime", "decimal", "fractions", "uuid", "zoneinfo", "pandas")  # modules whose values are hashed by repr: dates ...


def fingerprint(facts: Iterable[object]) -> str:
    """Hash of plain values: bytes and numeric arrays by content, everything else by repr. For anything else see `content_hash`."""
    digest = hashlib.blake2b(digest_size=16)
    for fact in facts:
        if isinstance(fact, np.ndarray):
            digest.update(f"{fact.dtype}{fact.shape}".encode())
            fact = np.ascontiguousarray(fact).view(np.uint8).data if fact.size else b""
        elif not isinstance(fact, bytes):
            fact = repr(fact).encode()
        digest.update(fact)
        digest.update(b"\0")
    return digest.hexdigest()


def content_hash(values: Iterable[object]) -> str:
    """Hash of the contents of any values: numbers, text, bytes, arrays, tensors, images, dates, and lists and mappings of these.

    Arrays include dtype and shape, but not byte order and strides; all NaNs are equal; a Path includes its file's size and modification
    time. Objects of other types get a new hash every time. Bounded memory.
    """
    digest = _Digest()
    for value in values:
        digest.add(value)
    return digest.hexdigest()


class _Digest:
    """Values are hashed with their kind and length, so that different sequences never give the same bytes."""

    def __init__(self) -> None:
        self.hash, self.waiting = xxhash.xxh3_128(), bytearray()

    def hexdigest(self) -> str:
        self.hash.update(bytes(self.waiting))
        self.waiting.clear()
        return self.hash.hexdigest()

    def put(self, kind: str, content: bytes = b"") -> None:
        self.waiting += b"%s%d:" % (kind.encode(), len(content))
        self.waiting += content
        if len(self.waiting) > PIECE:
            self.hash.update(bytes(self.waiting))
            self.waiting.clear()

    def add(self, value: Any) -> None:
        if value is None or type(value).__name__ in ("NAType", "NaTType"):  # None, pandas' NA and NaT
            self.put("none")
        elif isinstance(value, str):
            self.put("text", value.encode("utf-8", "surrogatepass"))
        elif isinstance(value, (bytes, bytearray, memoryview)):
            self.put("bytes", bytes(value))
        elif isinstance(value, np.generic):
            self.add(value.item() if value.dtype.kind in "buifc" else np.asarray(value))
        elif isinstance(value, (bool, int, float, complex)):
            self.put("number", b"nan" if value != value else repr(value).encode())
        elif isinstance(value, np.ndarray):
            self.array(value)
        elif isinstance(value, Mapping):
            self.all("mapping", [item for key in sorted(value, key=repr) for item in (key, value[key])])
        elif isinstance(value, (list, tuple)):
            self.all("list", value)
        elif isinstance(value, (set, frozenset)):
            self.all("set", sorted(content_hash([item]) for item in value))
        elif isinstance(value, PurePath):
            self.all("path", file_facts(Path(value)))
        elif hasattr(value, "detach"):  # torch, without importing it
            self.tensor(value)
        elif hasattr(value, "getexif") and hasattr(value, "tobytes"):  # Pillow, likewise
            exif = dict(value.getexif())  # its orientation affects the image
            self.all("picture", [value.mode, value.size, value.getpalette(), value.info.get("transparency"), exif, value.tobytes()])
        else:
            self.other(value)

    def all(self, kind: str, values: Any) -> None:
        self.put(kind, b"%d" % len(values))
        for value in values:
            self.add(value)

    def array(self, value: np.ndarray) -> None:
        if isinstance(value, np.ma.MaskedArray):
            self.array(np.ma.getmaskarray(value))
            value = value.filled(0) if value.dtype.kind in "buifc" else value.filled()
        if value.dtype.hasobject or value.dtype.kind == "T":
            self.all("list", value.tolist() if value.ndim else [value.item()])
            return
        self.put("array", f"{value.dtype.newbyteorder('=')} {value.shape}".encode())
        rows = value if value.ndim else value.reshape(1)
        step = max(1, PIECE * len(rows) // max(value.nbytes, 1))
        for start in range(0, len(rows), step):  # native-order copies of a few rows at a time
            piece = np.ascontiguousarray(rows[start : start + step])
            self.put("rows", piece.astype(piece.dtype.newbyteorder("="), copy=False).tobytes())

    def tensor(self, value: Any) -> None:
        value = value.detach().cpu()
        value = value.to_dense() if str(value.layout) != "torch.strided" else value
        try:
            self.array(value.resolve_conj().resolve_neg().numpy())
        except TypeError:  # bfloat16 and other dtypes that numpy lacks: hash the bytes
            self.put("tensor", f"{value.dtype} {tuple(value.shape)}".encode())
            self.array(value.contiguous().flatten().view(sys.modules["torch"].uint8).numpy())

    def other(self, value: Any) -> None:
        kind = type(value).__name__
        for convert in ("to_pylist", "to_list", "__array__"):  # pyarrow, pandas and polars columns; arrays of any library
            if hasattr(value, convert):
                self.add(np.asarray(value) if convert == "__array__" else getattr(value, convert)())
                return
        if is_dataclass(value) and not isinstance(value, type):
            self.all(kind, [item for own in fields(value) for item in (own.name, getattr(value, own.name))])
            return
        if type(value).__module__.split(".")[0] in BY_REPR or isinstance(value, (Enum, range)):
            self.put(kind, repr(value).encode())
            return
        self.put(kind, uuid.uuid4().bytes)


def change_time(path: Path) -> int:
    """When a file's contents, name or permissions last changed, in ns; 0 for a missing one. Unlike the modification time, no program sets
    it back, as those do that unpack archives or copy files with their times."""
    try:
        return path.stat().st_ctime_ns
    except (OSError, ValueError):
        return 0


def file_facts(path: Path) -> tuple[str, int, int]:
    """(absolute path, bytes, modification time in ns), the latter two -1 for a missing file."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a null byte
        return str(path.absolute()), -1, -1
    return str(path.absolute()), found.st_size, found.st_mtime_ns
