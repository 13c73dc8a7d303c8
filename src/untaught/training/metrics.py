"""metrics.jsonl, the log of a run."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from untaught.core import Options, UserError
from untaught.storage.atomic import disk_fault, replacing
from untaught.storage.safe_open import open_file

LARGEST = 1 << 33  # bytes of the file, at most; our rows have a few hundred
LONGEST = 1 << 16  # bytes of a row, at most
BUDGET = 1 << 22  # bytes of rows read for a report, for training rows and for checks each: some ten thousand rows
RARE = (b'"health"', b'"knn', b'"held_out', b"_recall@")  # keys of the rows of health checks and evaluations


class Metrics:
    """One row per event, written atomically; truncated to a step on resume. Without a path, nothing is written."""

    def __init__(self, path: Path | None, step: int) -> None:
        self.path, self.file = path, None
        if path is None:
            return
        with replacing(path) as partial, open(partial, "wb") as file:
            if step and os.path.lexists(path):
                file.writelines(line + b"\n" for line in _lines(path) if (row := row_of(line)) and row["step"] <= step)
        self.file = open(path, "ab", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW))  # noqa: SIM115

    @staticmethod
    def rows(path: Path) -> Iterator[Options]:
        """All rows of such a file; none if it does not exist."""
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
            raise UserError(f"{self.path} can't be written: {fault}; fix that, then continue with --resume") from error

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def read_metrics(path: Path) -> list[Options]:
    """The complete rows of an untrusted file, in order; of a long file every second, fourth, ... and always the last.

    Rows of health checks and evaluations, which are few, are thinned separately from training rows. Raises UserError.
    """
    lines_of, last = {False: _Thinned(), True: _Thinned()}, b""
    for number, line in enumerate(_lines(path)):
        lines_of[any(word in line for word in RARE)].add(number, line)
        last = line or last
    lines = sorted([*lines_of[False].lines, *lines_of[True].lines])
    if last and (not lines or lines[-1][1] != last):
        lines.append((lines[-1][0] + 1 if lines else 0, last))
    return [row for _, line in lines if (row := row_of(line))]


def row_of(line: bytes) -> Options | None:
    """The row in a line, or None: a killed process leaves a truncated last line, and a damaged file may hold anything."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(step := row.get("step")) is int and 0 <= step < 1 << 63 else None


class _Thinned:
    """Lines of at most BUDGET bytes in total: beyond that, every second line is dropped and the sampling interval doubles."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, bytes]] = []
        self.each, self.seen, self.bytes = 1, 0, 0

    def add(self, number: int, line: bytes) -> None:
        if self.seen % self.each == 0:
            self.lines.append((number, line))
            self.bytes += len(line)
        self.seen += 1
        if self.bytes > BUDGET:
            self.lines, self.each = self.lines[::2], 2 * self.each
            self.bytes = sum(len(line) for _, line in self.lines)


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file without line endings; lines longer than LONGEST are skipped."""
    with open_file(path, LARGEST, path.parent) as file:
        while line := file.readline(LONGEST):
            if len(line) == LONGEST and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = file.readline(LONGEST)
                continue
            yield line.rstrip(b"\r\n")


def _rounded(value: Any) -> Any:
    """Rounds to seven significant digits, which keeps a learning rate of 3e-7."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return float(f"{value:.7g}") if isinstance(value, float) else value
