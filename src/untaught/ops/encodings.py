"""How the bytes of a text stand for its characters, as far as they tell themselves. Unicode 16, section 23.8 (byte order marks)."""

from __future__ import annotations

import codecs

MARKS = {  # UTF-32 first: its mark begins as that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
LOOKED = 1 << 12  # bytes
MANY = 0.4  # of every second byte: so many are NUL in UTF-16 of any language that is written with blanks and mostly Latin letters


def marked(content: bytes) -> tuple[str, int]:
    """The encoding that a byte order mark names, and the bytes of the mark; "" and 0 where there is none."""
    return next(((name, len(mark)) for mark, name in MARKS.items() if content.startswith(mark)), ("", 0))


def wide(content: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark, by the places of NUL characters, which no other text holds."""
    head = content[:LOOKED]
    if b"\0" not in head or len(head) < 4:
        return None
    nul = [head[i::4].count(0) / len(head[i::4]) >= MANY for i in range(4)]
    kinds = {(0, 1, 1, 1): "utf-32-le", (1, 1, 1, 0): "utf-32-be", (0, 1, 0, 1): "utf-16-le", (1, 0, 1, 0): "utf-16-be"}
    return kinds.get(tuple(map(int, nul)))  # type: ignore[arg-type]


def decode(content: bytes, encoding: str) -> str:
    """By its mark, else as named. Raises ValueError with the reason where the bytes are no such text, LookupError for an unknown name."""
    mark, length = marked(content)
    likely = None if mark else wide(content)
    advice = "it is damaged, or cut short" if mark else f"it looks like {likely}: give encoding={likely}" if likely else None
    try:
        text = content[length:].decode(mark or encoding)
    except UnicodeDecodeError as error:
        where = f"is no {mark or encoding} at byte {error.start + length:,}"
        raise ValueError(f"{where}; {advice or 'give encoding=latin-1, or what it is'}") from error
    if "\0" in text:
        raise ValueError(
            f"holds NUL characters, read as {mark or encoding}; {advice or 'give encoding=utf-16-le, or what it is; or remove them'}"
        )
    return text
