"""A self-contained page of plots and sortable tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from untaught.console import escaped
from untaught.core import Options
from untaught.evaluation.metrics import metric_of
from untaught.report.charts import WIDTH, Curve, chart, number
from untaught.storage.atomic import write_text
from untaught.storage.ownership import check_replaceable


class Column(NamedTuple):
    key: str
    title: str


def write_page(path: Path, name: str, subtitle: str, sentences: Sequence[str], notes: Sequence[str], sections: Sequence[Options]) -> Path:
    """Writes the page. sections: dicts with "title", "note", and "table" (see `table`), "plots" (see `drawn`) or "picture" (a data
    URI). All text is escaped.

    Raises UserError if something else is at the path.
    """
    from jinja2 import Environment, FileSystemLoader

    check_replaceable(path, "move it away")
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    content = {"name": name, "subtitle": subtitle, "sentences": sentences, "notes": notes, "sections": sections, "chart_width": WIDTH}
    write_text(path, escaped(environment.get_template("listing.html").render(content), kept="\n"))
    return path


def table(columns: Sequence[Column], rows: Sequence[Options]) -> Options:
    """ "columns", and "rows" of cells (text, what it is sorted by). A row may have a "link" for its first cell."""
    found = [{"link": row.get("link"), "cells": [_cell(row.get(column.key)) for column in columns]} for row in rows]
    return {"columns": columns, "rows": found}


def _cell(value: Any) -> tuple[str, str]:
    if value is None or value == "":
        return "", ""
    return (number(value), repr(float(value))) if isinstance(value, int | float) else (str(value), str(value))


def drawn(title: str, curves: Sequence[Curve], x_name: str, metric: str = "") -> tuple[str, Any, Sequence[Curve]] | None:
    """(title, SVG, curves for the legend); None without points. metric: of y, for its unit."""
    curves = [curve for curve in curves if curve.points]
    svg = chart(title, curves, x_name, as_percent=metric_of(metric).share)
    return (title, svg, curves if len(curves) > 1 else []) if svg else None
