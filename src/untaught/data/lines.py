"""Lines of a text file at any address: unpacked, decoded as its byte order mark says, and cut where its line ends are."""

from __future__ import annotations

import codecs
import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

from untaught.data.addresses import Address, address_name, open_address

HEAD = 1 << 16  # bytes that are looked at
UNDECODED = re.compile("[\udc80-\udcff]")  # in a line: bytes that are no UTF-8
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@contextmanager
def open_bytes(address: Address) -> Iterator[Any]:
    """The file, unpacked where its name ends in .gz."""
    with open_address(address) as opened:
        if address_name(address).lower().endswith(".gz"):
            with gzip.GzipFile(fileobj=opened) as file:
                yield file
        else:
            yield opened


@contextmanager
def open_lines(address: Address, encoding: str) -> Iterator[Iterator[str]]:
    """Lines with their ends: \\n, or \\r in a file that has no other. Bytes that are no UTF-8 are kept as `UNDECODED`; in other
    encodings they raise UnicodeDecodeError."""
    with open_bytes(address) as file:
        head = file.read(HEAD)
        file.seek(0)
        ends = "\r" if b"\r" in head and b"\n" not in head else "\n"  # as old Macs wrote it
        errors = "surrogateescape" if encoding in ("utf-8", "utf-8-sig") else "strict"
        with TextIOWrapper(file, encoding=encoding, errors=errors, newline=ends) as text:
            yield iter(text)


def encoding_of(address: Address, told: str | None = None) -> str:
    """As told; else by the byte order mark, or by zeros in every second byte; else UTF-8. Raises LookupError for an unknown one."""
    with open_bytes(address) as file:
        head: bytes = file.read(HEAD)
    if told is not None and (name := codecs.lookup(told).name) != "utf-8":
        return name
    for mark, name in MARKS.items():
        if head.startswith(mark):
            return name
    half = len(head) // 2
    if half and told is None:
        for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
            if head[first::2].count(0) > 0.4 * half:
                return name
    return "utf-8"
