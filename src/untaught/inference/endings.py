"""File suffixes of outputs, checked before heavy imports."""

from __future__ import annotations

from pathlib import Path

from untaught.core import UserError


def check_ending(out: Path, endings: tuple[str, ...]) -> None:
    """Raises UserError for any other suffix."""
    if out.suffix not in endings:
        raise UserError(f"{out}: the suffix sets the format; allowed: {', '.join(endings)}")
