"""Faults that the user can fix."""

from __future__ import annotations


class UserError(ValueError):
    """A fault that the user can fix. One line: what was given, what is allowed, what to do."""


def reason(error: BaseException) -> str:
    """One line: why something can't be read."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
