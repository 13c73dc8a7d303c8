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
        kept = []
        if step and path.exists():
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
                except (ValueError, KeyError):
                    continue  # the last line of a process that was killed
        write_text(path, "".join(line + "\n" for line in kept))
        self.path, self.file = path, open(path, "ab", buffering=0)  # noqa: SIM115

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
