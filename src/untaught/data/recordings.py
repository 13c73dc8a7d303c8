"""Long series with the time of every step, and labelled ranges of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from untaught.core import Modality, UserError, reason
from untaught.data import folders, frames, table_files
from untaught.data.addresses import Address, address_name, expand
from untaught.data.clock import NUMBERS, seconds
from untaught.data.column_matching import asked_column
from untaught.data.parts import Choice
from untaught.data.sources import open_source
from untaught.data.step_rows import find_steps, read_steps, with_times
from untaught.data.table import Table, rows_of

TABLES = ("csv", "parquet", "json")
FRAMES = ("pandas", "polars", "pyarrow")
Ranges = list[tuple[float, float]]  # first and last time


class Recording(NamedTuple):
    """A series with its times."""

    name: str
    series: np.ndarray  # (C,T), NaN where missing
    times: np.ndarray  # (T,) float64: seconds since 1970 for dates, the numbers of the time column, else the steps from 0
    kind: int = NUMBERS  # of the times, see `clock`
    anomalous: np.ndarray | None = None  # (T,) bool, if it is labelled
    channels: tuple[str, ...] = ()  # columns, where they have names


def open_recordings(
    data: Any, modality: Modality, columns: dict[str, str] | None = None, label: str | None = None, labelled: bool = True
) -> list[Recording]:
    """Tables with one row per time step, one or many recordings each; or any other data of the modality, as for `open_source`, whose times
    are the steps. A recording is named by its id, else by its file. label: column of 0 and 1 for each time step, which is no channel;
    labelled: whether it must be there and is read.

    Raises UserError for data that can't be read.
    """
    found: list[Recording] = []
    data, columns = with_times(data, modality, dict(columns or {}))
    tables = _tables(data)
    for name, table in tables:
        choice = Choice(dict(columns), label)
        steps = find_steps(table, modality, choice, table.name)
        if steps is None:
            break
        marks = asked_column(label, "label", table, table.name) if labelled else None
        if next(iter(rows_of(table, [steps.time])), None) is None:
            raise UserError(f"{table.name} has no rows; give a table with at least one")
        given = steps._replace(channels=[*steps.channels, marks]) if marks else steps
        for key, _, times, kind, values in read_steps(table, given):
            title = " ".join(filter(None, (name if len(tables) > 1 or not key else "", key)))
            series, anomalous = (values[:-1], np.nan_to_num(values[-1]) > 0) if marks else (values, None)
            found.append(Recording(title, series, times, kind, anomalous, tuple(steps.channels)))
    if found:
        return found
    if label and labelled:
        raise UserError(f"--label {label} needs tables with one row per time step and a column of 0 and 1 for each; give labelled ranges")
    source = open_source(data, modality, columns=columns)
    (field, *_) = modality.fields
    for part in source.parts.values():
        for record in part:
            series = np.atleast_2d(np.asarray(record[field], np.float64))
            found.append(Recording(str(record["name"]), series, np.arange(series.shape[-1], dtype=float)))
    return found


def _tables(data: Any) -> list[tuple[str, Table]]:
    """The tables of a file, a folder, a pattern, a list of files or a frame, each with a name; [] for anything else."""
    if type(data).__module__.split(".")[0] in FRAMES:
        return [("the table", frames.of_frame(data, "the table", ""))]
    many = [data] if isinstance(data, str | Path) else data if isinstance(data, list | tuple) else []
    if not many or not all(isinstance(one, str | Path) for one in many) or any(str(one).startswith(("builtin:", "hf:")) for one in many):
        return []
    addresses: list[Address] = []
    for one in many:
        path = Path(one).expanduser()
        if path.is_dir():
            addresses += [path / member.name for member in folders.list_folder(path).members]
        elif path.exists() or any(sign in str(one) for sign in "*?[{"):
            addresses += expand(str(path))
        else:
            raise UserError(f"{one} not found; give a table with one row per time step, a folder or pattern of them, .npy, .npz or .ts")
    kinds = {address: table_files.kind_of(address) for address in addresses}
    kind = next((one for one in TABLES if one in kinds.values()), None)
    found = []
    for address in (one for one in addresses if kinds[one] == kind and kind):
        for tables in table_files.read_files([address], ())[0].values():
            found += [(stem(address_name(address)), table) for table in tables]
    return found


def stem(name: str) -> str:
    """The name of a file without folders and suffixes: "a/b.csv.gz" -> "b"."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return next((last[: -len(end)] for kind in table_files.KINDS.values() for end in kind if last.lower().endswith(end)), last)


def label_ranges(recordings: Sequence[Recording], path: Path) -> list[Recording]:
    """The recordings with the labels of a file: .json {"name": [[start, end], ...]}, as of NAB, or .csv with the columns name, start, end
    (for a single recording without name). Both ends are in the range; they are dates, or numbers as those of the time column.

    Recordings that the file does not name stay as they are. Raises UserError for a file that names none of them.
    """
    ranges: dict[str, Ranges] = {}
    for name, start, end in _rows(path):
        ends = tuple(_time(cell, name, path) for cell in (start, end))
        if ends[1] < ends[0]:
            raise UserError(f"{path}: the range {start} to {end} of {name} ends before it starts; exchange the two")
        ranges.setdefault(stem(name), []).append((ends[0], ends[1]))
    if len(recordings) == 1 and [*ranges] == [""]:
        ranges = {recordings[0].name: ranges[""]}
    named = {recording.name for recording in recordings} & ranges.keys()
    if not named:
        raise UserError(
            f"{path} labels {', '.join(list(ranges)[:3]) or 'nothing'}, none of the series {', '.join(one.name for one in recordings[:3])}"
        )
    found = []
    for one in recordings:
        if one.name in ranges:
            inside = np.any([(one.times >= start) & (one.times <= end) for start, end in ranges[one.name]], axis=0)
            one = one._replace(anomalous=inside)
        found.append(one)
    return found


def _rows(path: Path) -> Iterator[tuple[str, Any, Any]]:
    """(name, start, end) of every range."""
    try:
        text = path.read_text("utf-8")
        if path.suffix == ".json":
            for name, spans in json.loads(text).items():
                for start, end in spans:
                    yield name, start, end
            return
        rows = csv.DictReader(text.splitlines())
        if not {"start", "end"} <= set(rows.fieldnames or ()):
            raise ValueError("its columns must be name, start, end")
        for row in rows:
            yield row.get("name") or "", row["start"], row["end"]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        shape = '.json {"name": [[start, end], ...]} or .csv with the columns name, start, end'
        raise UserError(f"{path} can't be read as labelled ranges ({reason(error)}); give {shape}") from error


def _time(cell: Any, name: str, path: Path) -> float:
    try:
        return seconds(cell)
    except (ValueError, TypeError):
        raise UserError(
            f"{path}: {str(cell)[:30]!r} of {name} is neither a number nor a date; write it as 2026-01-31 or a number"
        ) from None
