"""Detecting text encodings from the bytes. Unicode 16, section 23.8 (byte order marks)."""

from __future__ import annotations

import codecs

MARKS = {  # UTF-32 first: its mark starts with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
LOOKED = 1 << 12  # bytes inspected
MANY = 0.4  # minimum share of NUL bytes at the high-byte positions in UTF-16 of mostly Latin text


def marked(content: bytes) -> tuple[str, int]:
    """The encoding given by a byte order mark, and the mark's length in bytes; "" and 0 without one."""
    return next(((name, len(mark)) for mark, name in MARKS.items() if content.startswith(mark)), ("", 0))


def wide(content: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark, detected by the positions of NUL bytes, which other text does not contain."""
    head = content[:LOOKED]
    if b"\0" not in head or len(head) < 4:
        return None
    nul = [head[i::4].count(0) / len(head[i::4]) >= MANY for i in range(4)]
    kinds = {(0, 1, 1, 1): "utf-32-le", (1, 1, 1, 0): "utf-32-be", (0, 1, 0, 1): "utf-16-le", (1, 0, 1, 0): "utf-16-be"}
    return kinds.get(tuple(map(int, nul)))  # type: ignore[arg-type]


def decode(content: bytes, encoding: str) -> str:
    """Decodes by the byte order mark, else by `encoding`. Raises ValueError with the reason for invalid bytes, LookupError for an unknown
    encoding."""
    mark, length = marked(content)
    likely = None if mark else wide(content)
    advice = "it is damaged or truncated" if mark else f"it looks like {likely}: give encoding={likely}" if likely else None
    try:
        text = content[length:].decode(mark or encoding)
    except UnicodeDecodeError as error:
        where = f"is not valid {mark or encoding} at byte {error.start + length:,}"
        raise ValueError(f"{where}; {advice or 'give encoding=latin-1 or the actual encoding'}") from error
    if "\0" in text:
        raise ValueError(
            f"has NUL characters, read as {mark or encoding}; {advice or 'give encoding=utf-16-le or the actual encoding, or remove them'}"
        )
    return text
