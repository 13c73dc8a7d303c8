"""Tables in memory: Hugging Face `datasets`, pandas, polars, pyarrow, and plain columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from untaught.core import UserError
from untaught.data.labels import is_missing
from untaught.data.parts import TRAIN, part_of
from untaught.data.table import INDEX, ROWS, Table


def of_dataset(dataset: Any, name: str) -> Table:
    """A `datasets.Dataset` or `IterableDataset`. Images and audio stay encoded: the modality decodes them."""
    from dataclasses import replace

    features = dataset.features
    if features is None:
        head = next(iter(dataset), None)
        if head is None:
            raise UserError(f"{name} has no rows; give a table with at least one")
        columns, kinds = tuple(head), {}
    else:
        columns, kinds = tuple(features), dict(features)
    media = tuple(column for column, kind in kinds.items() if hasattr(kind, "decode_example") and hasattr(kind, "decode"))
    classes = {column: tuple(kind.names) for column, kind in kinds.items() if type(kind).__name__ == "ClassLabel"}
    inner: dict[str, Any] = {column: getattr(kind, "feature", None) for column, kind in kinds.items()}
    sequences = {column: tuple(kind.names) for column, kind in inner.items() if type(kind).__name__ == "ClassLabel"}
    dataset = dataset.with_format(None)
    for column in media:
        dataset = dataset.cast_column(column, replace(kinds[column], decode=False))
    known = hasattr(dataset, "__len__")
    return Table(
        name,
        columns,
        len(dataset) if known else None,
        lambda wanted: iter(dataset.select_columns(list(wanted))),
        classes,
        sequences,
        media,
        scan=known,
    )


def of_datasets(data: Any, name: str) -> dict[str, list[Table]]:
    """A dataset, or a dictionary by split. Unknown splits ("unsupervised") are added to the training rows."""
    if not isinstance(data, dict):
        return {"all": [of_dataset(data, name)]}
    tables: dict[str, list[Table]] = {}
    for split, dataset in data.items():
        tables.setdefault(part_of(str(split)) or TRAIN, []).append(of_dataset(dataset, f"{name} {split}"))
    return tables


def of_frame(frame: Any, name: str, field: str) -> Table:
    """A pandas, polars or pyarrow table, read in slices, or a single column, which is the field. None of them is imported."""
    if hasattr(frame, "collect") and not hasattr(frame, "__len__"):  # polars' LazyFrame
        frame = frame.collect()
    if hasattr(frame, "iloc"):
        names = frame.columns if hasattr(frame, "columns") else [field]
        column = (lambda piece, i: piece.iloc[:, i]) if hasattr(frame, "columns") else (lambda piece, i: piece)
    elif hasattr(frame, "schema") and hasattr(frame, "slice"):  # polars' and pyarrow's tables
        names = getattr(frame.schema, "names", None)
        names = list(frame.schema) if names is None or callable(names) else names
        column = lambda piece, i: piece.column(i) if hasattr(piece, "column") else piece.to_series(i)  # noqa: E731
    elif hasattr(frame, "slice") and hasattr(frame, "__len__"):  # their columns
        names, column = [field], lambda piece, i: piece
    else:
        raise UserError(f"got a {type(frame).__module__.split('.')[0]} {type(frame).__name__}; give the table itself")
    names = tuple(map(str, names))

    def values(piece: Any) -> list[Any]:
        convert = getattr(piece, "to_pylist", None) or getattr(piece, "to_list", None)
        assert convert is not None
        return [None if is_missing(value) else value for value in convert()]

    def read(wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
        places = [names.index(column_name) for column_name in wanted]
        for start in range(0, len(frame), ROWS):
            piece = frame.iloc[start : start + ROWS] if hasattr(frame, "iloc") else frame.slice(start, ROWS)
            yield from (dict(zip(wanted, row, strict=True)) for row in zip(*(values(column(piece, i)) for i in places), strict=True))

    return Table(name, tuple(column for column in names if not INDEX.fullmatch(column)), len(frame), read)


def of_column(values: Sequence[Any], name: str, field: str) -> Table:
    """A table whose only column is the field."""
    return Table(name, (field,), len(values), lambda wanted: ({field: values[i]} for i in range(len(values))))


def of_columns(arrays: dict[str, Any], name: str) -> Table:
    """A table of one-dimensional arrays by column. Raises UserError if they differ in length or shape."""
    shapes = {column: np.shape(values) for column, values in arrays.items()}
    if any(len(shape) != 1 for shape in shapes.values()) or len(set(shapes.values())) > 1:
        raise UserError(f"{name} has arrays of shapes {', '.join(f'{c} {s}' for c, s in shapes.items())}; give one value per row in each")
    (rows,) = next(iter(shapes.values()))
    columns = {column: np.asarray(values) for column, values in arrays.items()}

    def read(wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
        for start in range(0, rows, ROWS):
            parts = (columns[column][start : start + ROWS] for column in wanted)
            lists = (part if part.dtype.kind in "Mm" else part.tolist() for part in parts)  # nanoseconds would become integers
            yield from (dict(zip(wanted, row, strict=True)) for row in zip(*lists, strict=True))

    return Table(name, tuple(columns), rows, read)
