"""metrics.jsonl, the diary of a run."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from untaught.core import Options, UserError
from untaught.storage.atomic import disk_fault, whole
from untaught.storage.safe_open import open_file

LARGEST = 1 << 33  # bytes of the file; of a row a few hundred are ours
LONGEST = 1 << 16  # bytes of a row
KEPT = 1 << 22  # bytes of the rows that a page is drawn from, training and looks at it each: some ten thousand rows
RARE = (b'"health"', b'"knn', b'"held_out')  # what few rows hold


class Metrics:
    """One row an event, there whole or not at all; cut back to a step on resume. Without a path, rows are written nowhere."""

    def __init__(self, path: Path | None, step: int) -> None:
        self.path, self.file = path, None
        if path is None:
            return
        with whole(path) as partial, open(partial, "wb") as file:
            if step and os.path.lexists(path):
                file.writelines(line + b"\n" for line in _lines(path) if (row := row_of(line)) and row["step"] <= step)
        self.file = open(path, "ab", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW))  # noqa: SIM115

    @staticmethod
    def rows(path: Path) -> Iterator[Options]:
        """All rows of such a file; none where there is no file."""
        return (row for line in _lines(path) if (row := row_of(line))) if os.path.lexists(path) else iter(())

    def write(self, row: dict[str, Any]) -> None:
        if self.file is None:
            return
        line, end = (json.dumps(_rounded(row)) + "\n").encode(), self.file.seek(0, os.SEEK_END)
        try:
            if self.file.write(line) < len(line):
                raise OSError(errno.ENOSPC, "no space left")
        except OSError as error:
            self.file.truncate(end)
            fault = disk_fault(error, self.path or Path())
            raise UserError(f"{self.path} can't be written: {fault}; go on with --resume when it can") from error

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def read_metrics(path: Path) -> list[Options]:
    """The whole rows of a file that may come from anyone, in order; of a long one every second, fourth ... and always the last.

    Rows of looks at the run (health, kNN), of which there are few, are thinned apart from those of training. Raises UserError.
    """
    kept, last = {False: _Thinned(), True: _Thinned()}, b""
    for number, line in enumerate(_lines(path)):
        kept[any(word in line for word in RARE)].add(number, line)
        last = line or last
    lines = sorted([*kept[False].lines, *kept[True].lines])
    if last and (not lines or lines[-1][1] != last):
        lines.append((lines[-1][0] + 1 if lines else 0, last))
    return [row for _, line in lines if (row := row_of(line))]


def row_of(line: bytes) -> Options | None:
    """The row that a line holds, or None: the last line of a process that was killed is cut, and a damaged file may hold anything."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(step := row.get("step")) is int and 0 <= step < 1 << 63 else None


class _Thinned:
    """Lines of at most KEPT bytes: where there are more, every second one goes, and from then on only so many are looked at."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, bytes]] = []
        self.each, self.seen, self.bytes = 1, 0, 0

    def add(self, number: int, line: bytes) -> None:
        if self.seen % self.each == 0:
            self.lines.append((number, line))
            self.bytes += len(line)
        self.seen += 1
        if self.bytes > KEPT:
            self.lines, self.each = self.lines[::2], 2 * self.each
            self.bytes = sum(len(line) for _, line in self.lines)


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file without their ends; one that is longer than LONGEST is passed over."""
    with open_file(path, LARGEST, path.parent) as file:
        while line := file.readline(LONGEST):
            if len(line) == LONGEST and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = file.readline(LONGEST)
                continue
            yield line.rstrip(b"\r\n")


def _rounded(value: Any) -> Any:
    """Seven digits from the first that is not 0: a rate of learning of 3e-7 is one."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return float(f"{value:.7g}") if isinstance(value, float) else value
