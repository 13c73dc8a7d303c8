"""Webdataset shards: tars in which adjacent files with the same stem (000001.jpg, 000001.cls, 000001.json) are a sample.
A repeated suffix begins a new sample, even with the same stem.

`datasets` reads them too, but rereads a shard to resume in its middle, and stops at a truncated shard. Here the positions of a shard's
samples are cached, which gives their number and random access.
"""

from __future__ import annotations

import json
import tarfile
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from untaught.data.addresses import Address, address_facts, address_name, open_address
from untaught.data.folders import LARGEST, hidden
from untaught.data.identity import change_time, fingerprint
from untaught.data.parts import PEEKED
from untaught.data.store import cache_folder
from untaught.ops.encodings import decode

BLOCK = 512  # bytes, of a tar
SCHEMA = 2  # increase when the grouping into samples changes, so that shards are counted again
LOOKED_AT = 16  # samples inspected to find the columns
Sample = dict[str, Any]  # suffix -> content, or an exception if unreadable


class Tar:
    """One shard."""

    def __init__(self, address: Address) -> None:
        self.address, self.name = address, address_name(address)
        self.broken: str | None = None  # why its end is unreadable
        changed = [change_time(address)] if isinstance(address, Path) else []
        self.kept = cache_folder() / "shards" / f"{fingerprint([SCHEMA, address_facts(address), *changed])}.npy"
        self.places: np.ndarray | None = None  # (n + 1,) byte offsets at which samples begin and the last ends; None: unknown
        with suppress(OSError, ValueError, EOFError):
            self.places = np.load(self.kept, mmap_mode="r", allow_pickle=False)

    def count(self) -> int | None:
        return None if self.places is None else len(self.places) - 1

    @property
    def size(self) -> int:
        """Total bytes of the counted samples."""
        return 0 if self.places is None else int(self.places[-1])

    def index(self) -> None:
        """Counts the samples from the headers; for a truncated shard, the complete ones."""
        places = [0]
        try:
            with open_address(self.address) as file:
                for _, _, end in _walk(file, ()):
                    places.append(end)  # samples before the damage count
        except (tarfile.TarError, EOFError) as error:
            self.broken, self.places = str(error), np.array(places)
            return
        self._keep(places)

    def read(self, wanted: Collection[str] | None = None, start: int = 0) -> Iterator[tuple[str, Sample]]:
        """(stem, contents) of the samples from number `start` on, with the wanted suffixes only, or all."""
        with open_address(self.address) as file:
            if self.places is not None:
                file.seek(self.places[start])
                for stem, sample, _ in islice(_walk(file, wanted), len(self.places) - 1 - start):
                    yield stem, sample
                return
            places = [0]
            for number, (stem, sample, end) in enumerate(_walk(file, wanted, start)):
                places.append(end)
                if number >= start:
                    yield stem, sample
            self._keep(places)

    def _keep(self, places: list[int]) -> None:
        self.places = np.array(places)
        with suppress(OSError):  # a read-only cache: shards are counted again
            self.kept.parent.mkdir(parents=True, exist_ok=True)
            partial = self.kept.with_suffix(f".{uuid.uuid4().hex}.npy")
            np.save(partial, self.places)
            partial.replace(self.kept)
            self.places = np.load(self.kept, mmap_mode="r", allow_pickle=False)


@dataclass
class Columns:
    """The columns of samples: their suffixes, and the keys of their .json."""

    endings: dict[str, tuple[str, ...]] = field(default_factory=dict)  # column -> alternative suffixes
    media: tuple[str, ...] = ()  # columns of encoded files

    def read(self, tar: Tar, wanted: Sequence[str], start: int = 0) -> Iterator[dict[str, Any]]:
        for stem, sample in tar.read({ending for column in wanted for ending in self.endings[column]}, start):
            row: dict[str, Any] = {}
            for column in wanted:
                ending = next((ending for ending in self.endings[column] if sample.get(ending) is not None), "")
                value = _value(ending, sample.get(ending))
                if ending and column in self.media:
                    value = {"path": f"{tar.name}/{stem}.{ending}", "bytes": value}
                elif isinstance(value, dict) and column != ending:
                    value = value.get(column)
                row[column] = value
            yield row


def columns_of(addresses: Sequence[Address], suffixes: Collection[str]) -> Columns:
    """Columns from the first samples of the first readable shard. Alternative image suffixes (jpg, png) are one column."""
    first: list[Sample] = []
    for address in addresses[:PEEKED]:
        with suppress(Exception):  # reported when the shard is read
            first += (sample for _, sample in islice(Tar(address).read(), LOOKED_AT))
        if first:
            break
    found = list(dict.fromkeys(ending for sample in first for ending in sample))
    plain = tuple(ending for ending in found if f".{ending}" in suffixes)
    marked = tuple(ending for ending in found if "." in ending and PurePosixPath(ending).suffix in suffixes)  # left.png, right.png
    endings = {ending: plain if ending in plain else (ending,) for ending in found if ending not in plain[1:]}
    for sample in first:
        for ending, content in sample.items():
            value = _value(ending, content)
            endings |= {key: (ending,) for key in value if key not in endings} if isinstance(value, dict) else {}
    return Columns(endings, plain[:1] or marked)


def _value(ending: str, content: Any) -> Any:
    """A member's content: numbers, text and json parsed, everything else as bytes."""
    kind = ending.rpartition(".")[2]
    if not isinstance(content, bytes) or kind not in ("cls", "txt", "text", "json"):
        return content
    try:
        if kind == "json":
            return json.loads(content)
        text = decode(content, "utf-8").strip()
        return int(text) if kind == "cls" and text.isdigit() else text
    except ValueError as error:
        if kind in ("txt", "text"):
            return content  # another encoding, which may be known later
        return ValueError(f"its .{ending} cannot be read: {error}")


def _walk(file: Any, wanted: Collection[str] | None, start: int = 0) -> Iterator[tuple[str, Sample, int]]:
    """(stem, contents, end offset) of every sample from the file's position on; contents are read from number `start` on."""
    stem, sample, number = None, {}, 0
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
            folder, slash, name = info.name.rpartition("/")
            own, dot, ending = name.partition(".")
            if not info.isfile() or hidden(name) or not dot:
                continue
            ending = ending.lower()
            if (found := folder + slash + own) != stem or ending in sample:
                if stem is not None:
                    yield stem, sample, info.offset
                    number += 1
                stem, sample = found, {}
            sample[ending] = None
            if number >= start and (wanted is None or ending in wanted):
                member = archive.extractfile(info)
                assert member is not None
                sample[ending] = member.read() if info.size <= LARGEST else ValueError(f"is larger than {LARGEST >> 30} GiB")
        file.seek(archive.offset)
        if file.read(BLOCK).strip(b"\0"):  # tarfile takes a damaged header for the end
            raise tarfile.ReadError(f"a damaged header at byte {archive.offset:,}")
        if stem is not None:
            yield stem, sample, archive.offset
