"""Delimited text (csv, tsv, also gzipped): cells are text as written; empty cells are missing.

Separator, quoting, header and encoding are detected, or given: `--columns separator=semicolon,quote=none`. Quoted cells may contain
separators and line breaks. An opening quote that is not closed before a separator or line end is read as text, so that it never
swallows rows.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import islice
from typing import Any

from untaught.core import UserError
from untaught.data.addresses import Address, address_name
from untaught.data.lines import UNDECODED, encoding_of, open_lines

SEPARATORS = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|", "space": " ", "none": "\U0010ffff"}  # the last is no character
OPTIONS: dict[str, tuple[str, ...]] = {  # reading options in --columns besides the fields
    "separator": tuple(SEPARATORS),
    "quote": ("double", "none"),
    "header": ("yes", "no"),
    "encoding": ("utf-8", "utf-16", "cp1252"),
    "label_separator": ("semicolon", "pipe", "comma", "space"),  # of several classes in one cell; also for other tables than csv
}
MORE = {"separator": ", or one character", "encoding": ", or any Python codec", "label_separator": ", or any text"}
LOOKED = 100  # lines used to detect the separator
LONGEST = 1 << 26  # maximum characters of a row with quoted cells
SWALLOWED = 8  # a quoted cell that spans more lines, each a complete row by itself, is an unclosed quote
HEADER_WORDS = 3  # a first line with a longer cell and a numeric one is data, not a header
OPEN = re.compile(r'"[^"]*(?:""[^"]*)*\Z')  # a quoted cell not closed on its line
CLOSE = re.compile(r'[^"]*(?:""[^"]*)*"(?!")')  # the rest of a quoted cell up to its closing quote


class Delimited:
    """One file: its `columns`, number of `rows`, and `note`, a note for the user on how it is read.

    Raises UserError for invalid options, and if the file is not in the detected encoding.
    """

    def __init__(self, address: Address, options: Mapping[str, str], suffixes: Collection[str] = ()) -> None:
        self.address, self.name = address, address_name(address)
        self.encoding, self.quoted = encoding_of(address, options.get("encoding")), options.get("quote") != "none"
        self.skipped, self.width, self.spaced = 0, 0, False
        usual = "\t" if ".tsv" in self.name.lower() else ","
        head = self._head()
        if "separator" in options:
            self.separator = SEPARATORS.get(options["separator"], options["separator"])
        elif head and (found := re.fullmatch("sep=(.)", head[0].rstrip("\r\n"))):  # as Excel writes it
            self.skipped, self.separator, head = 1, found[1], head[1:]
        else:
            self.separator = self._find_separator(usual)
        self.spaced = _is_spaced(head, self.separator)
        first = next((cells for _, cells in self._records()), [])
        if isinstance(first, Exception):
            raise UserError(f"{self.name}: {first}")
        self.width = len(first)
        numbered = tuple(f"column{number}" for number, _ in enumerate(first, 1))
        sentence = any(map(str.isdigit, first)) and any(len(cell.split()) > HEADER_WORDS for cell in first)
        path = any(cell.lower().endswith(tuple(suffixes)) for cell in first)
        self.header = options["header"] == "yes" if "header" in options else not (sentence or path)
        self.columns = tuple(cell.strip() or name for cell, name in zip(first, numbered, strict=True)) if self.header else numbered
        tally: Counter[str] = Counter()
        self.rows = self._count(tally)
        self.note = self._describe(tally, usual)

    def read(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The rows of these columns; for an unreadable line, every cell is the reason (an exception)."""
        places = [self.columns.index(column) for column in columns]
        for number, cells in islice(self._records(), int(self.header), None):
            if isinstance(cells, Exception):
                yield dict.fromkeys(columns, cells)
                continue
            if len(cells) < self.width:  # missing cells at the end of a line are empty
                cells += [""] * (self.width - len(cells))
            if len(cells) == self.width:
                yield {column: cells[place] or None for column, place in zip(columns, places, strict=True)}
            else:
                reason = f"line {number} has {len(cells)} cells, the first line {self.width}: quote cells that contain separators"
                yield dict.fromkeys(columns, ValueError(reason))

    def _count(self, tally: Counter[str]) -> int:
        """The number of rows, from a first pass over the file."""
        rows = undecoded = 0
        for _, cells in islice(self._records(tally), int(self.header), None):
            rows += 1
            undecoded += isinstance(cells, Exception)
        if undecoded and not any(isinstance(cells, list) and not all(map(str.isascii, cells)) for _, cells in self._records()):
            raise UserError(
                f"{self.name} is not UTF-8: {undecoded:,} of {rows:,} rows cannot be decoded, and all others are ASCII; "
                "give its encoding, e.g. --columns encoding=cp1252"
            )
        return rows

    def _describe(self, tally: Counter[str], usual: str) -> str:
        """How the file is read, if not as its name suggests."""
        note = [] if self.separator in (usual, SEPARATORS["none"]) else [f"separated by {_name(self.separator)}"]
        note += [] if self.encoding in ("utf-8", "utf-8-sig") else [self.encoding]
        note += [] if self.header else ["no header"]
        note += [f"quoted rows of several lines: {tally['several']:,}"] if tally["several"] else []
        note += [f"rows with an unclosed quote, read as text: {tally['stray']:,}"] if tally["stray"] else []
        return ", ".join(note)

    def _head(self) -> list[str]:
        """The first non-blank lines."""
        with open_lines(self.address, self.encoding) as lines:
            return list(islice((line for line in lines if line.strip()), LOOKED))

    def _find_separator(self, usual: str) -> str:
        """The separator that splits most of the first rows into as many cells as the first row, with a preference for the usual one."""
        best, most = SEPARATORS["none"], 0.0
        for self.separator in dict.fromkeys((usual, ",", "\t", ";", "|")):
            self.width = 0
            widths = []
            for _, cells in islice(self._records(), LOOKED):
                widths.append(0 if isinstance(cells, Exception) else len(cells))
                self.width = self.width or widths[0]
            share = widths.count(widths[0]) / len(widths) if widths and widths[0] > 1 else 0
            share = share + 0.2 if share and self.separator == usual else share if share >= 0.9 else 0
            if share > most:
                best, most = self.separator, share
        self.width = 0
        return best

    def _records(self, tally: Counter[str] | None = None) -> Iterator[tuple[int, list[str] | Exception]]:
        """(number of its first line, cells) of every non-blank row, including the header. `tally` counts irregular rows."""
        tally = Counter() if tally is None else tally
        with open_lines(self.address, self.encoding) as lines:
            ahead = _Ahead(lines)
            for line in ahead:
                number, text = ahead.number, line.rstrip("\r\n")
                if number <= self.skipped or not text.strip(" "):
                    continue
                if self.quoted and '"' in text:
                    cells = self._marked(line, text, ahead, tally)
                else:
                    cells, _ = _cut(text, self.separator, False, self.spaced)
                if len(cells) > self.width > 0 and not any(cells[self.width :]):
                    del cells[self.width :]  # separators at the end of a line
                if not all(map(str.isascii, cells)) and any(map(UNDECODED.search, cells)):
                    yield number, ValueError(f"line {number} is not UTF-8; fix it, or give its encoding, e.g. --columns encoding=cp1252")
                else:
                    yield number, cells

    def _marked(self, line: str, text: str, ahead: _Ahead, tally: Counter[str]) -> list[str]:
        """The cells of a row with quotes, which may span several lines."""
        cells, stray = _cut(text, self.separator, True, self.spaced)
        if stray is None:
            return cells
        if OPEN.match(text, stray) and (found := self._over_lines(line, len(cells), ahead)):
            tally["several"] += 1
            return found
        if '\\"' in text:  # as MySQL writes it
            escaped, left = _cut(text, self.separator, True, self.spaced, ESCAPED)
            if left is None and len(escaped) == (self.width or len(escaped)):
                return escaped
        tally["stray"] += 1
        return cells

    def _over_lines(self, line: str, width: int, ahead: _Ahead) -> list[str] | None:
        """The cells of a row that continues on the next lines; None, with nothing consumed, if its quote is not closed."""
        taken, size = [line], len(line)
        rows = width == self.width > 1  # whether every line is a complete row by itself
        for further in ahead.look():
            taken.append(further)
            size += len(further)
            if size > LONGEST:
                return None
            rows = rows and len(_cut(further.rstrip("\r\n"), self.separator, True, self.spaced)[0]) == self.width
            if '"' not in further or (closed := CLOSE.match(further)) is None:
                continue
            if closed.end() < len(further) and not further.startswith((self.separator, "\r", "\n"), closed.end()):
                return None
            cells, stray = _cut("".join(taken).rstrip("\r\n"), self.separator, True, self.spaced)
            if stray is None:
                if len(cells) != (self.width or len(cells)) or (rows and (self.separator == "\t" or len(taken) > SWALLOWED)):
                    return None
                ahead.skip(len(taken) - 1)
                return cells
        return None


class _Ahead:
    """Numbered lines with lookahead."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines, self.waiting, self.number = lines, deque[str](), 0

    def __iter__(self) -> Iterator[str]:
        while True:
            line = self.waiting.popleft() if self.waiting else next(self.lines, None)
            if line is None:
                return
            self.number += 1
            yield line

    def look(self) -> Iterator[str]:
        """The next lines, without consuming them."""
        yield from self.waiting
        for line in self.lines:
            self.waiting.append(line)
            yield line

    def skip(self, count: int) -> None:
        self.number += count
        for _ in range(count):
            self.waiting.popleft()


QUOTED = r'"([^"]*(?:""[^"]*)*)"'
ESCAPED = r'"([^"\\]*(?:\\.[^"\\]*)*)"'


def _cut(text: str, separator: str, quoted: bool, spaced: bool = False, form: str = QUOTED) -> tuple[list[str], int | None]:
    """The cells of a row, and the position of the first opening quote that is not closed, if any."""
    if not quoted or '"' not in text:
        cells = text.split(separator)
        return [cell.removeprefix(" ") for cell in cells] if spaced else cells, None
    whole = _whole(form, separator)
    cells: list[str] = []
    place, stray = 0, None
    while True:
        if spaced and cells and text.startswith(" ", place):
            place += 1
        if found := whole.match(text, place):
            cells.append(found[1].replace('""', '"') if form == QUOTED else re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL))
            place = found.end()
        else:
            end = text.find(separator, place)
            end = len(text) if end < 0 else end
            if stray is None and text.startswith('"', place):
                stray = place
            cells.append(text[place:end])
            place = end
        if place == len(text):
            return cells, stray
        place += len(separator)


@cache
def _whole(form: str, separator: str) -> re.Pattern[str]:
    """A quoted cell followed by a separator or the end."""
    return re.compile(form + rf"(?={re.escape(separator)}|\Z)", re.DOTALL)


def _is_spaced(head: list[str], separator: str) -> bool:
    """Whether every separator is followed by a space, which is then not part of the cell."""
    rest = [] if separator in "\t " else [cell for line in head for cell in line.rstrip("\r\n").split(separator)[1:]]
    return bool(rest) and all(cell.startswith(" ") for cell in rest)


def _name(separator: str) -> str:
    return next((name for name, sign in SEPARATORS.items() if sign == separator), separator)


def check_options(options: Mapping[str, str]) -> None:
    """Raises UserError for invalid reading options."""
    for key, value in options.items():
        allowed = value in OPTIONS[key]
        if key == "separator":
            allowed = allowed or (len(value) == 1 and value not in '"\r\n')
        elif key == "label_separator":
            allowed = bool(value)
        elif key == "encoding":
            with suppress(LookupError, ValueError):
                allowed = codecs.lookup(value)._is_text_encoding  # type: ignore[attr-defined]
        if not allowed:
            raise UserError(f"--columns {key}={value}: allowed are {', '.join(OPTIONS[key])}{MORE.get(key, '')}")
