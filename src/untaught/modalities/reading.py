"""Reading a sample of records to plan with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from untaught.core import Record, UserError, reason

T = TypeVar("T")


def readable(records: list[Record], noun: str, read: Callable[[Record], T]) -> list[T]:
    """`read` of every readable record; packing reports the others. Raises UserError with the first reason if none is readable."""
    found: list[T] = []
    faults: list[str] = []
    for record in records:
        try:
            found.append(read(record))
        except UserError:  # about the user's settings, not the record
            raise
        except (ValueError, OSError) as error:
            faults.append(f"{record.get('name', 'the first')} ({reason(error)})")
    if not found:
        raise UserError(f"none of the first {len(records)} {noun} can be read: {faults[0] if faults else 'no records'}")
    return found
