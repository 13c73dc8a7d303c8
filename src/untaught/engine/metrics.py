"""metrics.jsonl, the diary of a run."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from untaught.core import UserError
from untaught.engine.writing import disk_fault, write_text


class Metrics:
    """One row an event, there whole or not at all; cut back to a step on resume."""

    def __init__(self, path: Path, step: int) -> None:
        kept = [row for row in self.rows(path) if row["step"] <= step] if step else []
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self.path, self.file = path, open(path, "ab", buffering=0)  # noqa: SIM115

    @staticmethod
    def rows(path: Path) -> list[dict[str, Any]]:
        """All rows of such a file; none where there is no file."""
        rows = []
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            try:
                row = json.loads(line)
                row["step"] += 0  # a number
                rows.append(row)
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a process that was killed
        return rows

    def write(self, row: dict[str, Any]) -> None:
        line, end = (json.dumps(_rounded(row)) + "\n").encode(), self.file.seek(0, os.SEEK_END)
        try:
            if self.file.write(line) < len(line):
                raise OSError(errno.ENOSPC, "no space left")
        except OSError as error:
            self.file.truncate(end)
            raise UserError(f"{self.path} can't be written: {disk_fault(error, self.path)}; go on with --resume when it can") from error

    def close(self) -> None:
        self.file.close()


def _rounded(value: Any) -> Any:
    """Seven digits from the first that is not 0: a rate of learning of 3e-7 is one."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return float(f"{value:.7g}") if isinstance(value, float) else value
