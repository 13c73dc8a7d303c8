"""Safe table cells: no formulas in spreadsheets, no control characters in terminals."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from untaught.console import escaped

if TYPE_CHECKING:
    import pyarrow

FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # first characters of a formula (OWASP, CSV injection)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def plain_cell(text: str) -> str:
    """Prefixes formulas with an apostrophe and escapes control characters; numbers are unchanged."""
    formula = FORMULA.match(text) and not NUMBER.fullmatch(text)
    return ("'" if formula else "") + escaped(text)


def plain_cells(table: pyarrow.Table) -> pyarrow.Table:
    """The table for a csv file, with `plain_cell` applied to its text and column names."""
    import pyarrow as pa

    def plain(column: Any) -> Any:
        if not pa.types.is_string(column.type):
            return column
        return pa.array([None if text is None else plain_cell(text) for text in column.to_pylist()], pa.string())

    return pa.table([plain(column) for column in table.columns], names=[plain_cell(name) for name in table.column_names])
