"""A first look at records: what of them can be read, or why nothing can."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from untaught.core import Record, UserError, reason

T = TypeVar("T")


def readable(records: list[Record], noun: str, read: Callable[[Record], T]) -> list[T]:
    """What `read` makes of the records that it can read; packing names the others. UserError with the reason where there are none."""
    found: list[T] = []
    faults: list[str] = []
    for record in records:
        try:
            found.append(read(record))
        except UserError:  # of the wishes, not of the record
            raise
        except (ValueError, OSError) as error:
            faults.append(f"{record.get('name', 'the first')} ({reason(error)})")
    if not found:
        raise UserError(f"none of the first {len(records)} {noun} can be read: {faults[0] if faults else 'there are none'}")
    return found
