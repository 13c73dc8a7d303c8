"""Options of views with a corrupted input."""

from __future__ import annotations

from untaught.core import Options


def corruption_fault(options: Options, allowed: tuple[str, ...]) -> str | None:
    """The fault of `corruption` and `level` in a view's options, or None."""
    kind = options.get("corruption", allowed[0])
    if kind not in allowed:
        return f"corruption={kind}: must be one of {', '.join(allowed)}"
    if kind != "gaussian" and options.get("level", 0) > 1:
        return f"level={options['level']:g}: must be from 0 to 1, the share of values that {kind} destroys"
    return None
