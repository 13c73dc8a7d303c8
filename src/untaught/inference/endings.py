"""The ending of a file's name, by which its format is known before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from untaught.core import UserError


def check_ending(out: Path, endings: tuple[str, ...]) -> None:
    """Raises UserError for another ending than these."""
    if out.suffix not in endings:
        raise UserError(f"{out}: the ending says the format; {' and '.join(endings)} are known")
