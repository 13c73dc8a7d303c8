"""Plain text files that hold many documents: a record for every line, or for every paragraph, read in bounded memory."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from untaught.core import Modality, Record, UserError
from untaught.data.identity import file_facts, fingerprint
from untaught.data.parts import Part, Source, part_of, sort_parts

ENDINGS = (".txt", ".text", ".md", ".rst", ".en", ".de", ".fr", ".raw", ".tokens")  # with .gz behind them or not
LOOKED = 1 << 20  # bytes that tell whether a file has paragraphs
PIECE = 1 << 16  # bytes of a record at most: an endless line is cut


def is_text(path: Path) -> bool:
    name = path.name.lower().removesuffix(".gz")
    return name.endswith(ENDINGS)


def in_parts(paths: Sequence[Path]) -> bool:
    """Whether files are the parts of one corpus by their names (train.txt, valid.txt ...), and not a document each."""
    found = [part_of(path.name) for path in paths]
    return all(found) and "train" in found


def open_texts(paths: Sequence[Path], modality: Modality, where: str, unit: str | None = None) -> Source:
    """A record a line or a paragraph ("unit", by default paragraphs where the first megabyte has blank lines) of text files.

    Paragraphs keep their line ends: joined they are the file, and only the last one ends a document.
    """
    if unit not in (None, "line", "paragraph"):
        raise UserError(f"--columns text={unit}: {where} is plain text; text=line and text=paragraph are allowed")
    field = next(iter(modality.fields))
    grouped: dict[str, list[Path]] = {}
    for path in paths:
        grouped.setdefault(part_of(path.name) or "all", []).append(path)
    if "all" in grouped and len(grouped) > 1:  # some are named after parts, some after nothing: names tell nothing
        grouped = {"all": list(paths)}
    if unit is None:
        unit = "paragraph" if any(_has_blank_lines(path) for path in paths) else "line"

    cut = _paragraphs if unit == "paragraph" else _lines

    def build(files: list[Path]) -> Part:
        def records() -> Iterator[Record]:
            for path in files:
                for number, (content, ends) in enumerate(cut(path), 1):
                    yield {field: content, "name": f"{path.name} {unit} {number}", "ends": ends}

        return Part(sum(sum(1 for _ in cut(path)) for path in files), records)

    parts = {part: build(files) for part, files in sort_parts(grouped).items()}
    rows = sum(part.rows or 0 for part in parts.values())
    if not rows:
        raise UserError(f"{where} holds no text; give a file with at least one line")
    said = f"{rows:,} {unit}s of {len(paths)} text file{'s' if len(paths) > 1 else ''} in {where}"
    if len(parts) > 1:
        said += " (" + ", ".join(f"{name} {part.rows:,}" for name, part in parts.items()) + ")"
    facts = [fact for path in paths for fact in file_facts(path)]
    return Source(said, parts, None, fingerprint([*facts, unit, list(parts)]))


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _has_blank_lines(path: Path) -> bool:
    with _reading(path), _open(path) as file:
        head = file.read(LOOKED).replace(b"\r", b"")
    return b"\n\n" in head.strip()


def _pieces(file: Any) -> Iterator[bytes]:
    """Lines with their ends; an endless one in pieces, between characters of UTF-8."""
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
    """How many bytes at the end belong to a character of UTF-8 that is not whole."""
    for back in range(1, min(4, len(piece)) + 1):
        byte = piece[-back]
        if byte >= 0xC0:  # the first of a character: of 2, 3 or 4 bytes
            whole = 2 + (byte >= 0xE0) + (byte >= 0xF0)
            return back if back < whole else 0
        if byte < 0x80:
            return 0
    return 0


def _lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Each line without its end; an endless one in pieces, of which the last ends the document."""
    waiting: bytes | None = None  # a piece, until it is known whether the line goes on
    with _reading(path), _open(path) as file:
        for piece in _pieces(file):
            whole = piece.endswith(b"\n")
            content = piece.rstrip(b"\r\n") if whole else piece
            if content.strip():
                if waiting is not None:
                    yield waiting, False
                waiting = content
            if whole and waiting is not None:
                yield waiting, True
                waiting = None
    if waiting is not None:
        yield waiting, True


def _paragraphs(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Stretches of lines up to a line that is not blank behind a blank one, with all line ends; the last ends the document."""
    held: list[bytes] = []
    size = 0
    blank = filled = False
    with _reading(path), _open(path) as file:
        for piece in _pieces(file):
            if (filled and blank and piece.strip()) or (held and size + len(piece) > PIECE):
                yield b"".join(held), False
                held, size, filled = [], 0, False
            held.append(piece)
            size += len(piece)
            blank = not piece.strip()
            filled |= not blank
    if held:
        yield b"".join(held), True


class _reading:
    """A damaged or vanished file is a UserError that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError | EOFError):
            raise UserError(f"{self.path} can't be read as text: {getattr(error, 'strerror', None) or error}") from error
