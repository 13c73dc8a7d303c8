"""Cells of tables that people open: a spreadsheet computes none of them, a terminal obeys none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from untaught.engine.log import escaped

if TYPE_CHECKING:
    import pyarrow

FORMULA = r"^[=+\-@\t\r\n\x{ff1d}\x{ff0b}\x{ff0d}\x{ff20}]"  # what a cell begins with that is computed (OWASP, CSV injection)
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def plain_cells(table: pyarrow.Table) -> pyarrow.Table:
    """The table for a csv file: text that a spreadsheet would compute gets an apostrophe in front, and controls are escaped. Numbers, as text
    too, stay as they are."""
    import pyarrow as pa

    columns = [_plain(column) if pa.types.is_string(column.type) else column for column in table.columns]
    return pa.table(columns, names=[escaped(name) for name in table.column_names])


def _plain(column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    formula: Any = pc.and_not(pc.match_substring_regex(column, FORMULA), pc.match_substring_regex(column, NUMBER))
    column = pc.if_else(formula, pc.binary_join_element_wise("'", column, ""), column)
    return pa.array([None if text is None else escaped(text) for text in column.to_pylist()], pa.string())
