"""Plain text files with many documents: one record per line or paragraph, read in bounded memory."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from untaught.core import Modality, Record, UserError
from untaught.data.identity import file_facts, fingerprint
from untaught.data.parts import Part, Source, part_of, sort_parts
from untaught.ops.encodings import marked, wide

ENDINGS = (".txt", ".text", ".md", ".rst", ".en", ".de", ".fr", ".raw", ".tokens")  # optionally followed by .gz
LOOKED = 1 << 20  # bytes inspected to detect paragraphs
PIECE = 1 << 16  # maximum bytes of a record: longer lines are split
DAMAGED = "untaught.damaged"
codecs.register_error(DAMAGED, lambda error: ("\ud800", error.end))  # type: ignore[attr-defined]  # no text: its line is left out, not the file


def is_text(path: Path) -> bool:
    name = path.name.lower().removesuffix(".gz")
    return name.endswith(ENDINGS)


def in_parts(paths: Sequence[Path]) -> bool:
    """Whether files are the splits of one corpus by their names (train.txt, valid.txt ...), rather than one document each."""
    found = [part_of(path.name) for path in paths]
    return all(found) and "train" in found


def open_texts(paths: Sequence[Path], modality: Modality, where: str, unit: str | None = None, encoding: str | None = None) -> Source:
    """One record per line or paragraph of text files. unit: by default paragraph if the first megabyte has blank lines, else line.

    Paragraphs keep their line ends: concatenated, they are the file, and only the last one ends a document. Lines end only with \\n or
    \\r\\n, as in editors and `wc -l`. encoding: in which the bytes are decoded later; a byte order mark takes precedence.
    """
    if unit not in (None, "line", "paragraph"):
        raise UserError(f"--columns text={unit}: {where} is plain text; text=line and text=paragraph are allowed")
    field = next(iter(modality.fields))
    grouped: dict[str, list[Path]] = {}
    for path in paths:
        grouped.setdefault(part_of(path.name) or "all", []).append(path)
    if "all" in grouped and len(grouped) > 1:  # only some are named after splits: ignore the names
        grouped = {"all": list(paths)}
    if unit is None:
        unit = "paragraph" if any(_has_blank_lines(path, encoding) for path in paths) else "line"

    cut = _paragraphs if unit == "paragraph" else _lines

    def build(files: list[Path]) -> Part:
        def records() -> Iterator[Record]:
            for path in files:
                for content, ends, place in cut(path, encoding):
                    yield {field: content, "name": f"{path.name} {place}", "ends": ends}

        return Part(sum(sum(1 for _ in cut(path, encoding)) for path in files), records)

    parts = {part: build(files) for part, files in sort_parts(grouped).items()}
    rows = sum(part.rows or 0 for part in parts.values())
    if not rows:
        raise UserError(f"{where} holds no text; give a file with at least one line")
    note = f"{rows:,} {unit}s of {len(paths)} text file{'s' if len(paths) > 1 else ''} in {where}"
    if len(parts) > 1:
        note += " (" + ", ".join(f"{name} {part.rows:,}" for name, part in parts.items()) + ")"
    facts = [fact for path in paths for fact in file_facts(path)]
    return Source(note, parts, None, fingerprint([*facts, unit, list(parts)]))


class _Utf8(io.RawIOBase):
    """A file transcoded to UTF-8 in bounded memory. Undecodable input becomes bytes that are not UTF-8."""

    def __init__(self, file: Any, encoding: str) -> None:
        self.file, self.decoder, self.left = file, codecs.getincrementaldecoder(encoding)(DAMAGED), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        more = True
        while more and not self.left:
            piece = self.file.read(PIECE)
            more = bool(piece)
            self.left = self.decoder.decode(piece, not more).encode("utf-8", "surrogatepass")
        size = min(len(buffer), len(self.left))
        buffer[:size], self.left = self.left[:size], self.left[size:]
        return size


@contextmanager
def _open(path: Path, encoding: str | None) -> Iterator[tuple[Any, Callable[[bytes], Any]]]:
    """A file whose lines end with byte 10, and a function from a line's bytes to the record's value. Raises UserError if damaged."""
    try:
        with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as file:
            head = file.read(PIECE)
            mark, length = marked(head)
            file.seek(length)
            declared = mark or (encoding if encoding and _other_line_ends(encoding) else "")
            if declared:
                utf8 = file if declared == "utf-8" else io.BufferedReader(_Utf8(file, declared))
                yield utf8, partial(_text, encoding=declared)
            elif own := wide(head):  # undeclared UTF-16 or UTF-32: decoding later reports NUL characters
                yield io.BufferedReader(_Utf8(file, own)), partial(_again, encoding=own)
            else:
                yield file, lambda content: content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} can't be read as text: {getattr(error, 'strerror', None) or error}") from error


def _again(content: bytes, encoding: str) -> bytes:
    return content.decode("utf-8", "surrogatepass").encode(encoding, "surrogatepass")


def _text(content: bytes, encoding: str) -> str | Exception:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return ValueError(f"is not valid {encoding}; fix or remove it")


def _other_line_ends(encoding: str) -> bool:
    """Whether line ends are encoded differently from ASCII: UTF-16, UTF-32, EBCDIC ..."""
    try:
        return "\n".encode(encoding) != b"\n"
    except (LookupError, UnicodeError):  # unknown: reported when the text is decoded
        return False


def _has_blank_lines(path: Path, encoding: str | None) -> bool:
    with _open(path, encoding) as (file, _):
        head = file.read(LOOKED).replace(b"\r", b"")
    return b"\n\n" in head.strip()


def _pieces(file: Any) -> Iterator[bytes]:
    """Lines with their ends; very long ones in pieces, split between UTF-8 characters."""
    held = b""
    while piece := file.readline(PIECE):
        cut = len(piece) == PIECE and not piece.endswith(b"\n")
        piece = held + piece
        left = _open_character(piece) if cut else 0
        piece, held = piece[: len(piece) - left], piece[len(piece) - left :]
        yield piece
    if held:
        yield held


def _open_character(piece: bytes) -> int:
    """Number of bytes at the end that belong to an incomplete UTF-8 character."""
    for back in range(1, min(4, len(piece)) + 1):
        byte = piece[-back]
        if byte >= 0xC0:  # the first of a character: of 2, 3 or 4 bytes
            whole = 2 + (byte >= 0xE0) + (byte >= 0xF0)
            return back if back < whole else 0
        if byte < 0x80:
            return 0
    return 0


def _lines(path: Path, encoding: str | None) -> Iterator[tuple[Any, bool, str]]:
    """(content, whether it ends a document, location) of each non-blank line, without its end; very long ones in pieces."""
    waiting: tuple[bytes, str] | None = None  # a piece, until it is known whether the line continues
    number, pieces = 1, 0
    with _open(path, encoding) as (file, value):
        for piece in _pieces(file):
            whole = piece.endswith(b"\n")
            content = piece.rstrip(b"\r\n") if whole else piece
            if content.strip():
                if waiting is not None:
                    yield value(waiting[0]), False, waiting[1]
                pieces += 1
                waiting = content, f"line {number}" + (f" piece {pieces}" if pieces > 1 else "")
            if whole:
                if waiting is not None:
                    yield value(waiting[0]), True, waiting[1]
                waiting, number, pieces = None, number + 1, 0
    if waiting is not None:
        yield value(waiting[0]), True, waiting[1]


def _paragraphs(path: Path, encoding: str | None) -> Iterator[tuple[Any, bool, str]]:
    """As `_lines`, for paragraphs (lines up to and including blank ones), with all line ends; only the last ends the document."""
    held: list[bytes] = []
    size, number = 0, 1
    blank = filled = False
    with _open(path, encoding) as (file, value):
        for piece in _pieces(file):
            if (filled and blank and piece.strip()) or (held and size + len(piece) > PIECE):
                yield value(b"".join(held)), False, f"paragraph {number}"
                held, size, filled, number = [], 0, False, number + 1
            held.append(piece)
            size += len(piece)
            blank = not piece.strip()
            filled |= not blank
    if held:
        yield value(b"".join(held)), True, f"paragraph {number}"
