"""The folder of scored series: scores.csv, a picture of every series, report.html."""

from __future__ import annotations

import base64
import datetime
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from untaught.console import say
from untaught.core import Options, UserError
from untaught.data.clock import NUMBERS, ZONED
from untaught.data.recordings import Recording
from untaught.evaluation.evaluator import merge_rows
from untaught.evaluation.range_precision import ranges_of
from untaught.report.listing import Column, table, write_page
from untaught.storage.atomic import make_room, replacing
from untaught.storage.cells import plain_cells

if TYPE_CHECKING:
    import pyarrow
    from PIL import Image

WIDE, HEAD, HIGH, LOW, GAP = 1200, 18, 150, 60, 8  # pixels: width, title, panel of the series, panel of a score, gap
COLOURS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14), (23, 190, 207))
INK, SHADE, LINE = (23, 32, 43), (255, 214, 214), (90, 102, 117)


def table_of(
    recordings: Sequence[Recording], observed: Sequence[np.ndarray], scores: Mapping[str, Sequence[np.ndarray]]
) -> Iterator[pyarrow.Table]:
    """A table of each series: series, step, time (as a date where the data have dates), one column a detector, and anomaly where it is
    labelled. Steps without a value are left out."""
    import pyarrow as pa

    labelled = any(one.anomalous is not None for one in recordings)
    for number, (one, seen) in enumerate(zip(recordings, observed, strict=True)):
        steps = np.flatnonzero(seen)
        made: dict[str, Any] = {
            "series": pa.array([one.name] * len(steps), pa.string()),
            "step": steps,
            "time": _times(one).take(pa.array(steps)),
        }
        made |= {name: each[number][steps].astype(np.float32) for name, each in scores.items()}
        if labelled:
            marks = [None] * len(steps) if one.anomalous is None else one.anomalous[steps].tolist()
            made["anomaly"] = pa.array(marks, pa.bool_())
        yield pa.table(made)


def _times(one: Recording) -> pyarrow.Array:
    """Dates as such, in UTC if the data's have a time zone."""
    import pyarrow as pa

    if one.kind == NUMBERS:
        return pa.array(one.times)
    return pa.array((one.times * 1e6).round().astype(np.int64), pa.timestamp("us", "UTC" if one.kind == ZONED else None))


def draw(one: Recording, scores: Mapping[str, np.ndarray], titles: Mapping[str, str]) -> Image.Image:
    """The series and, under it, the scores by name (T,), each on its own scale; labelled ranges are shaded."""
    from PIL import Image as images
    from PIL import ImageDraw

    image = images.new("RGB", (WIDE, HEAD + HIGH + GAP + len(scores) * (LOW + HEAD + GAP) + HEAD), "white")
    pen = ImageDraw.Draw(image)
    steps = one.series.shape[1]
    shades = ranges_of(one.anomalous) if one.anomalous is not None else []

    def panel(top: int, high: int, title: str, lines: Sequence[np.ndarray], colours: Sequence[tuple[int, int, int]]) -> None:
        pen.text((4, top + 3), title, fill=INK)
        top += HEAD
        for first, last in shades:
            pen.rectangle((first * WIDE / steps, top, max((last + 1) * WIDE / steps, first * WIDE / steps + 1), top + high), fill=SHADE)
        pen.line((0, top + high, WIDE, top + high), fill=LINE)
        known = np.concatenate([line[np.isfinite(line)] for line in lines])
        if len(known):
            for line, colour in zip(lines, colours, strict=False):
                _plot(pen, line, top, high, (float(known.min()), float(known.max())), colour)

    marks = f", {len(shades)} labelled range{'s' * (len(shades) != 1)} shaded" if shades else ""
    panel(
        0,
        HIGH,
        f"{one.name}: {steps:,} time steps from {_when(one, 0)} to {_when(one, -1)}{marks}",
        list(one.series[: len(COLOURS)]),
        COLOURS,
    )
    top = HEAD + HIGH + GAP
    for name, values in scores.items():
        panel(top, LOW, titles[name], [values], [INK])
        top += LOW + HEAD + GAP
    return image


def _when(one: Recording, step: int) -> str:
    if one.kind != NUMBERS:
        moment = datetime.datetime.fromtimestamp(float(one.times[step]), datetime.timezone.utc)
        return f"{moment:%Y-%m-%d %H:%M}"
    return f"{one.times[step]:g}"


def _plot(pen: Any, line: np.ndarray, top: int, high: int, limits: tuple[float, float], colour: tuple[int, int, int]) -> None:
    """For every column of pixels the range from the lowest to the highest value, so that a spike of one step is seen."""
    low, span = limits[0], max(limits[1] - limits[0], 1e-12)
    place = (np.arange(len(line)) * WIDE // len(line)).astype(int)
    level = top + (1 - (line - low) / span) * (high - 2)
    before: float | None = None
    for column in range(WIDE):
        own = level[np.searchsorted(place, column) : np.searchsorted(place, column, side="right")]
        own = own[np.isfinite(own)]
        if not len(own):
            if len(line) >= WIDE:
                before = None
            continue
        ends = [float(own.min()), float(own.max())] + ([before] if before is not None else [])
        pen.line((column, min(ends), column, max(ends)), fill=colour)
        before = float(own[-1])


METRICS = {"vus_pr": "VUS-PR", "auc_pr": "AUC-PR"}
NOTES = {
    "vus_pr": "Higher is better, 1 at best; scores that are somewhat early or late are tolerated (Paparrizos et al. 2022).",
    "auc_pr": "Higher is better, 1 at best; every time step counts alone.",
}
MEAN = "mean"


def measures(rows: Sequence[Options], titles: Mapping[str, str], metric: str) -> tuple[list[Column], list[Options]]:
    """Columns and rows of a table of a metric: a detector per column, a line per series, and the mean of several."""
    detectors = [name for name in titles if any(row["features"] == name for row in rows)]
    lines: dict[str, Options] = {}
    for row in rows:
        if row["metric"] == metric:
            line = lines.setdefault(row.get("group", MEAN), {"series": row.get("group", MEAN)})
            line[row["features"]] = round(row["mean"], 3)
    ordered = [line for name, line in lines.items() if name != MEAN]
    columns = [Column("series", "series"), *(Column(name, titles[name]) for name in detectors)]
    return columns, ordered + ([lines[MEAN]] if len(ordered) > 1 else [])


def as_text(rows: Sequence[Options], titles: Mapping[str, str]) -> str:
    """The measures as text, a table of each metric."""
    parts = []
    for metric, title in METRICS.items():
        (_, *own), lines = measures(rows, titles, metric)
        cells = [[title, *(column.title for column in own)]]
        cells += [[line["series"], *(f"{line[column.key]:.3f}" if column.key in line else "" for column in own)] for line in lines]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        text = ("  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]) for row in cells)
        parts.append("\n".join(line.rstrip() for line in text))
    return "\n\n".join(parts)


def write_folder(
    out: Path,
    recordings: Sequence[Recording],
    observed: Sequence[np.ndarray],
    scores: Mapping[str, Sequence[np.ndarray]],
    rows: Sequence[Options],
    titles: Mapping[str, str],
    said: Sequence[str],
    about: str,
    stems: Sequence[str],
) -> None:
    """Writes scores.csv, a picture of each series, evaluation.json and report.html to a new folder, atomically. Raises UserError."""
    from pyarrow import csv

    make_room(out)
    if os.path.lexists(out):
        raise UserError(f"{out} already exists; choose another --out")
    figures = []
    with replacing(out) as partial:
        partial.mkdir(parents=True)
        tables = map(plain_cells, table_of(recordings, observed, scores))
        first = next(tables)
        with csv.CSVWriter(str(partial / "scores.csv"), first.schema) as writer:
            writer.write_table(first)
            for own in tables:
                writer.write_table(own)
        for number, one in enumerate(recordings):
            image = draw(one, {name: each[number] for name, each in scores.items()}, titles)
            image.save(partial / f"{stems[number]}.png")
            held = io.BytesIO()
            image.save(held, "PNG")
            encoded = base64.b64encode(held.getvalue()).decode()
            figures.append({"title": one.name, "picture": f"data:image/png;base64,{encoded}"})
        sections: list[Options] = []
        if rows:
            merge_rows(partial / "evaluation.json", list(rows))
            for metric, title in METRICS.items():
                sections.append({"title": title, "note": NOTES[metric], "table": table(*measures(rows, titles, metric))})
        write_page(partial / "report.html", out.name, about, said, [], [*sections, *figures])
    say(f"wrote     scores.csv, {len(recordings):,} picture{'s' * (len(recordings) != 1)}, report.html to {out}")
