"""JSON tables, also gzipped: one object per line (.jsonl), a list of objects, or an object of columns. Values keep their types."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from untaught.core import UserError
from untaught.data.addresses import Address, address_name
from untaught.data.lines import UNDECODED, encoding_of, open_lines

Row = dict[str, Any]
BAD = (ValueError, RecursionError)  # exceptions of json


class Objects:
    """One file: its `columns` (all keys in order of first occurrence) and number of `rows`. Keys missing in a row are None.

    Raises UserError with the first reason if no row can be read.
    """

    def __init__(self, address: Address, encoding: str | None = None) -> None:
        self.address, self.name = address, address_name(address)
        self.encoding = encoding_of(address, encoding)
        self.in_lines = self._is_in_lines()
        self.rows, reason = 0, None
        columns: dict[str, None] = {}
        for row in self._rows():
            self.rows += 1
            if isinstance(row, Exception):
                reason = reason or row
            else:
                columns.update(dict.fromkeys(row))
        self.columns = tuple(columns)
        self.note = "" if self.encoding in ("utf-8", "utf-8-sig") else self.encoding
        if reason is not None and not columns:
            raise UserError(f"{self.name} cannot be read as json ({reason}); give one object per line, or a list of objects")

    def read(self, columns: Sequence[str]) -> Iterator[Row]:
        """The rows of these columns; for an unreadable line, every value is the reason (an exception)."""
        for row in self._rows():
            yield dict.fromkeys(columns, row) if isinstance(row, Exception) else {column: row.get(column) for column in columns}

    def _is_in_lines(self) -> bool:
        """Whether every line is one JSON value, i.e. the first line does not open a list or an object that continues on other lines."""
        with open_lines(self.address, self.encoding) as lines:
            head = list(islice((line.strip() for line in lines if line.strip()), 2))
        if not head or head[0].startswith("["):
            return False
        if ".jsonl" in self.name.lower():
            return head[0] != "{"
        return len(head) > 1 and any(isinstance(_parse(line), dict) for line in head)

    def _rows(self) -> Iterator[Row | Exception]:
        with open_lines(self.address, self.encoding) as lines:
            if not self.in_lines:
                yield from _rows_of(json.loads("".join(lines)), self.name)
                return
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                if not line.isascii() and UNDECODED.search(line):
                    yield ValueError(f"line {number} is not UTF-8; fix it, or give its encoding, e.g. --columns encoding=cp1252")
                elif isinstance(row := _parse(line), Exception):
                    yield ValueError(f"line {number} is not JSON: {row}")
                else:
                    yield row if isinstance(row, dict) else ValueError(f"line {number} has type {type(row).__name__}, not object")


def _parse(text: str) -> Any:
    """The value, or the exception."""
    try:
        return json.loads(text)
    except BAD as error:
        return error


def _rows_of(value: Any, name: str) -> list[Row | Exception]:
    """Rows from a list of objects, columns by name, objects by number, or a list of objects among other entries ("data": [...])."""
    if isinstance(value, dict):
        inner = list(value.values())
        lists = [rows for rows in inner if isinstance(rows, list)]
        rows_alone = len(lists) == 1 and all(isinstance(row, dict) for row in lists[0])
        if lists and len(lists) == len(inner) and len(set(map(len, lists))) == 1 and not rows_alone:  # columns
            return [dict(zip(value, row, strict=True)) for row in zip(*lists, strict=True)]
        if rows_alone and lists[0]:
            return list(lists[0])
        if inner and all(isinstance(rows, dict) for rows in inner):  # pandas' formats: columns of rows by number, or rows by number
            if all(key.isdigit() for key in value):
                return list(inner)
            if all(key.isdigit() for rows in inner for key in rows):
                numbers = dict.fromkeys(key for rows in inner for key in rows)
                return [{column: value[column].get(number) for column in value} for number in numbers]
        if inner and not any(isinstance(rows, (list, dict)) for rows in inner):
            return [value]
    if not isinstance(value, list):
        raise UserError(
            f"{name} holds neither rows nor columns; give a list of objects, one object per line, or an object of lists of equal length"
        )
    odd = lambda number, row: ValueError(f"entry {number} has type {type(row).__name__}, not object")  # noqa: E731
    return [row if isinstance(row, dict) else odd(number, row) for number, row in enumerate(value, 1)]
