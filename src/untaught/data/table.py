"""Tables: rows with named columns, re-readable in bounded memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from untaught.data.decoding import FAULTS_OF_OURS
from untaught.data.parts import Broken

ROWS, BYTES = 256, 4 << 20  # maximum read at once

PAUSES = (0.1, 1.0, 5.0)  # seconds before each retry of an unreadable shard

INDEX = re.compile(r"__index_level_\d+__")  # row labels without a name, as pandas writes them to parquet: no column of the user's


@dataclass
class Table:
    name: str  # for messages and the names of rows
    columns: tuple[str, ...]
    rows: int | None
    read: Callable[..., Iterator[dict[str, Any]]]  # (columns): rows; for a shard (columns, start): rows from `start` on
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)  # column -> class names of its integers
    sequences: dict[str, tuple[str, ...]] = field(default_factory=dict)  # column of integer lists -> names of the integers
    media: tuple[str, ...] = ()  # columns of encoded files
    folder: Path | None = None  # base of relative paths
    scan: bool = True  # False: reading a full column is expensive (a remote stream)
    count: Callable[[], int | None] | None = None  # for a shard (a file readable from any row): number of rows, once known
    bytes: int = 0  # size of a shard
    short: str | None = None  # why a shard's last rows are missing
    written: bool = False  # whether all cells are text (csv)
    note: str = ""  # how the file was read, if not as its name suggests
    joined: str = ""  # a column of lists that joins numbered columns, or of arrays that joins rows
    names: str = ""  # a column with names of the rows


def rows_of(table: Table, columns: list[str], start: int = 0, patient: bool = True) -> Iterator[dict[str, Any]]:
    """The rows of a table. An unreadable shard is retried after a pause from where it failed; finally Broken is raised.

    patient: whether to retry; False while the data are being opened.
    """
    if table.count is None:
        yield from table.read(columns)
        return
    row, tried = start, 0
    while True:
        try:
            for content in table.read(columns, row):
                yield content
                row, tried = row + 1, 0
            return
        except FAULTS_OF_OURS:
            raise
        except Exception as error:
            if tried == len(PAUSES) or not patient:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise Broken(f"{table.name} is damaged or unreachable after {row:,} rows ({reason}); download it again") from error
            time.sleep(PAUSES[tried])
            tried += 1
