"""Lines of a text file at any address: decompressed, decoded and split."""

from __future__ import annotations

import codecs
import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

from untaught.data.addresses import Address, address_name, open_address
from untaught.ops.encodings import marked, wide

HEAD = 1 << 16  # bytes inspected to detect encoding and line ends
UNDECODED = re.compile("[\udc80-\udcff]")  # bytes of a line that are not UTF-8


@contextmanager
def open_bytes(address: Address) -> Iterator[Any]:
    """The file, decompressed if its name ends in .gz."""
    with open_address(address) as opened:
        if address_name(address).lower().endswith(".gz"):
            with gzip.GzipFile(fileobj=opened) as file:
                yield file
        else:
            yield opened


@contextmanager
def open_lines(address: Address, encoding: str) -> Iterator[Iterator[str]]:
    """Lines with their ends: \\n, or \\r if the file has no \\n. Invalid UTF-8 bytes are kept as `UNDECODED`; in other encodings,
    invalid bytes raise UnicodeDecodeError."""
    with open_bytes(address) as file:
        head = file.read(HEAD)
        file.seek(0)
        ends = "\r" if b"\r" in head and b"\n" not in head else "\n"  # as old Macs wrote it
        errors = "surrogateescape" if encoding in ("utf-8", "utf-8-sig") else "strict"
        with TextIOWrapper(file, encoding=encoding, errors=errors, newline=ends) as text:
            yield iter(text)


def encoding_of(address: Address, asked: str | None = None) -> str:
    """The encoding asked for; else detected from a byte order mark or NUL bytes; else UTF-8. Raises LookupError for an unknown one."""
    with open_bytes(address) as file:
        head: bytes = file.read(HEAD)
    if asked is not None and (name := codecs.lookup(asked).name) != "utf-8":
        return name
    mark, _ = marked(head)
    if mark:
        return "utf-8-sig" if mark == "utf-8" else mark.removesuffix("-le").removesuffix("-be")  # these skip the mark
    return (wide(head) if asked is None else None) or "utf-8"
