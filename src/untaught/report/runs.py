"""A list of the runs in a folder: as rows, a table in text, csv or a page."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from untaught.config.overrides import unknown
from untaught.console import escaped
from untaught.core import Options, UserError
from untaught.evaluation.metrics import LEADING, metric_of, shown
from untaught.report.listing import Column, table, write_page
from untaught.report.run_summary import RunSummary, gather
from untaught.storage.atomic import make_room, write_text
from untaught.storage.cells import plain_cell
from untaught.storage.ownership import check_replaceable
from untaught.storage.run_dir import name_of

COLUMNS = ("run", "data", "method", "encoder", "steps", "minutes", "score", "probe", "random_init", "raw", "health", "state")
TITLES = {"random_init": "random init", "raw": "raw data"}
SIGNS = ("run.yaml", "metrics.jsonl")  # one of them makes a folder a run
INSIDE = ("checkpoints", "encoder", "heads", "method", "finetuned")  # folders of a run, not searched for others
DEEPEST = 4  # levels of folders that are searched
ENDINGS = (".csv", ".html")


def list_runs(folder: Path, sort: str | None = None) -> list[Options]:
    """A row for each run folder inside `folder`, with COLUMNS and "metric" of the scores; complete, unfinished or damaged ("state").

    score: of the first probe of LEADING that was measured, with all labels, beside random init and raw data. minutes: of training. sort: a
    column, text from a to z and numbers from the largest; by default the path. Raises UserError: no such folder, no run in it, no such
    column.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one with runs of untaught pretrain")
    if sort is not None and sort not in COLUMNS:
        raise unknown("column", sort, COLUMNS)
    rows = [_row(place, folder) for place in _places(folder, 0)]
    if not rows:
        raise UserError(f"{folder} has no runs, to {DEEPEST} levels of folders; give a folder with runs of untaught pretrain")
    if sort is not None:
        rows.sort(key=lambda row: (row[sort] is None, -row[sort] if isinstance(row[sort], int | float) else row[sort]))
    return rows


def _places(folder: Path, level: int) -> Iterator[Path]:
    """Run folders in order of name, those of unreadable folders included: their fault is their state."""
    if any(os.path.lexists(folder / name) for name in SIGNS) and not _is_model(folder):
        yield folder
    try:
        inner = sorted(place for place in folder.iterdir() if place.is_dir() and not place.is_symlink())
    except OSError:
        if level:
            yield folder
        return
    for place in inner if level < DEEPEST else ():
        if place.name not in INSIDE and not place.name.startswith("."):
            yield from _places(place, level + 1)


def _is_model(folder: Path) -> bool:
    """Whether a folder holds a fine-tuned model, which has metrics too."""
    return (folder / "config.json").exists() and not os.path.lexists(folder / "run.yaml")


def _row(place: Path, folder: Path) -> Options:
    row: Options = dict.fromkeys(COLUMNS) | {"run": escaped(os.path.relpath(place, folder)), "metric": ""}
    row |= dict.fromkeys(("data", "method", "encoder", "probe", "health"), "")
    try:
        summary = gather(place, drawn=False)
    except (UserError, OSError) as error:
        return row | {"state": f"can't be read: {error}"}
    last = summary.last
    if run := summary.run:
        encoder = run["encoder"]
        each = ", ".join(f"{role} {name}" for role, name in encoder.items()) if isinstance(encoder, dict) else str(encoder)
        row |= {"data": name_of(run), "method": run["method"], "encoder": each}
    row |= {"steps": last.get("step"), "minutes": round(last["seconds"] / 60, 2) if "seconds" in last else None}
    row |= _score(summary)
    if summary.health:
        row["health"] = str(summary.health[-1][1].get("verdict", ""))
    return row | {"state": _state(summary)}


def _state(summary: RunSummary) -> str:
    if summary.ended and summary.run and summary.last:
        return "finished"
    faults = [text.rstrip(".") for text in summary.missing if "Continue with" not in text]
    if not summary.ended:
        faults.insert(0, f"not finished, at step {summary.last['step']:,}" if summary.last else "not finished")
    return "; ".join(faults)


def _score(summary: RunSummary) -> Options:
    for probe in LEADING:
        if own := summary.score("encoder", probe):
            found: Options = {"score": own["mean"], "probe": probe, "metric": own["metric"]}
            for name in ("random_init", "raw"):
                if other := summary.baseline(own, name):
                    found[name] = other["mean"]
            return found
    return {}


# ---------------------------------------------------------------------------------------------------------------- written


def as_text(rows: Sequence[Options], width: int | None) -> str:
    """A table; a paragraph for each run if its lines would be longer than `width` (None: any length is allowed)."""
    cells = [[_text(row, name) for name in COLUMNS] for row in rows]
    used = [i for i in range(len(COLUMNS)) if any(row[i] for row in cells)]
    titles = [_title(name) for name in COLUMNS]
    lines = [[titles[i] for i in used], *([row[i] for i in used] for row in cells)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if width is None or sum(widths) + 2 * (len(widths) - 1) <= width:
        return "\n".join("  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in lines)
    return "\n".join(f"{row[0]}\n  " + "\n  ".join(f"{titles[i]}: {row[i]}" for i in used[1:] if row[i]) for row in cells)


def _title(name: str) -> str:
    return TITLES.get(name, name)


def _text(row: Options, name: str) -> str:
    value = row[name]
    if value is None:
        return ""
    if name in ("score", "random_init", "raw"):
        return shown(row["metric"], value)
    if name == "probe":
        metric = "" if row["metric"] in ("accuracy", "") else f" {metric_of(row['metric']).title}"
        return f"{value}{metric}"
    if name == "minutes":
        return f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else escaped(str(value))


def write(rows: Sequence[Options], folder: Path, out: Path) -> Path:
    """Writes the rows to a .csv, or to an .html page with sortable columns and links to the reports -> its path. Raises UserError."""
    if out.suffix not in ENDINGS:
        raise UserError(f"{out} has the ending {out.suffix or 'none'}; allowed: {' and '.join(ENDINGS)}")
    make_room(out)
    if out.suffix == ".html":
        columns = [Column(name, _title(name)) for name in COLUMNS]
        shown_rows = [_linked(row, folder, out) for row in rows]
        return write_page(out, f"{folder.resolve().name}: runs", f"{len(rows):,} runs", [], [], [_section(columns, shown_rows)])
    check_replaceable(out, "move it away, or choose another name")
    text = io.StringIO()
    names = ("run", "data", "method", *COLUMNS[3:8], "metric", *COLUMNS[8:])
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([plain_cell(value) if isinstance(value, str) else value for value in (row[name] for name in names)] for row in rows)
    write_text(out, text.getvalue())
    return out


def _section(columns: Sequence[Column], rows: Sequence[Options]) -> Options:
    note = "Scores are of held-out samples with all labels; click a heading to sort by it."
    found = table(columns, rows)
    for cells, row in zip(found["rows"], rows, strict=True):  # scores are sorted as numbers and shown in their unit
        for place, column in enumerate(columns):
            if column.key in ("score", "random_init", "raw", "probe", "steps", "minutes"):
                cells["cells"][place] = (_text(row, column.key), cells["cells"][place][1])
    return {"title": "Runs", "note": note, "table": found}


def _linked(row: Options, folder: Path, out: Path) -> Options:
    report = folder / row["run"] / "report.html"
    with suppress(OSError, ValueError):
        if report.is_file():
            return row | {"link": quote(Path(os.path.relpath(report, out.parent)).as_posix())}
    return row
