"""What a method's knobs may be: a UserError in one line names the first that is out of range."""

from __future__ import annotations

from untaught.core import UserError


def shares(**knobs: float) -> None:
    """Each lies from 0 to 1."""
    for name, value in knobs.items():
        if not 0 <= value <= 1:
            raise UserError(f"{name}={value}: must lie from 0 to 1")


def positive(**knobs: float | tuple[float, ...]) -> None:
    """Each, and each part of one, is greater than 0 and finite."""
    for name, value in knobs.items():
        if not all(0 < part < float("inf") for part in (value if isinstance(value, tuple) else (value,))):
            raise UserError(f"{name}={value}: must be greater than 0, and finite")


def sizes(**knobs: int) -> None:
    """Each is 1 or greater."""
    for name, value in knobs.items():
        if value < 1:
            raise UserError(f"{name}={value}: must be 1 or greater")


def begins(**knobs: float) -> None:
    """Each is a share of the training that leaves some of it: from 0 to less than 1."""
    for name, value in knobs.items():
        if not 0 <= value < 1:
            raise UserError(f"{name}={value}: is a share of the training, from 0 to less than 1")


def weights(**knobs: float) -> None:
    """Each is 0 or greater, and finite."""
    for name, value in knobs.items():
        if not 0 <= value < float("inf"):
            raise UserError(f"{name}={value}: must be 0 or greater, and finite")
