"""A pickle that leaves a mark."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Harm:
    """What a pickle can do: leaves a file behind when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)
