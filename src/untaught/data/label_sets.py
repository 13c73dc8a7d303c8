"""Several classes a sample (multi-label): lists of class names, separated text, or several 0/1 columns, as one column of lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

import numpy as np

from untaught.core import UserError
from untaught.data.delimited import SEPARATORS
from untaught.data.labels import Naming, class_name, sort_classes
from untaught.data.parts import Broken
from untaught.data.table import Table, rows_of

OPTION = "label_separator"  # in --columns
LIKELY = (";", "|", ",")  # separators that are pointed out, never assumed
LOOKED = 100  # first rows in which a label is looked at
MANY = 10_000  # classes at most
PRESENT, ABSENT = {"1", "true", "yes", "1.0"}, {"0", "false", "no", "0.0"}


def is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset) or (isinstance(value, np.ndarray) and value.ndim == 1)


def is_absent(value: Any) -> bool:
    """Whether a label is missing: None, NaN, a blank cell. An empty list is a label: none of the classes."""
    return not is_list(value) and class_name(value) is None


def holds_lists(tables: Sequence[Table], column: str) -> bool:
    """Whether the first value of a column that is not missing is a list."""
    for table in tables:
        with suppress(Broken):  # reported when all data are read
            for row in islice(rows_of(table, [column], patient=False), LOOKED):
                if not is_absent(row[column]):
                    return is_list(row[column])
    return False


def split_labels(table: Table, column: str, separator: str) -> Table:
    """The table with the text of a column cut at the separator: lists of class names, None for a blank cell."""
    sign = SEPARATORS.get(separator, separator)

    def names(value: Any) -> Any:
        if not isinstance(value, str):
            return value if is_absent(value) or is_list(value) else [value]
        return [part.strip() for part in value.split(sign) if part.strip()] or None

    def read(columns: Sequence[str], *start: int) -> Iterator[dict[str, Any]]:
        for row in table.read(columns, *start):
            yield {**row, column: names(row[column])} if column in row else row

    return replace(table, read=read) if column in table.columns else table


def indicator_columns(label: str, table: Table) -> list[str]:
    """The columns that --label names as a list or pattern (dog,beach or is_*); [] if it is the name of one column, or of none.

    Raises UserError if one of several does not exist.
    """
    if label in table.columns or not any(sign in label for sign in ",*"):
        return []
    found: list[str] = []
    for pattern in map(str.strip, label.split(",")):
        matching = [pattern] if pattern in table.columns else [column for column in table.columns if fnmatchcase(column, pattern)]
        if not matching:
            raise UserError(f"--label {label}: {table.name} has no column {pattern}; its columns are {', '.join(table.columns[:40])}")
        found += [column for column in matching if column not in found]
    if len(found) < 2:
        raise UserError(f"--label {label} names a single column, {found[0]}; give at least two 0/1 columns, or --label {found[0]}")
    return found


def join_indicators(table: Table, columns: list[str], name: str) -> Table:
    """The table with a column `name`: the list of those 0/1 columns that are 1; None if one of them is missing."""

    def read(asked: Sequence[str], *start: int) -> Iterator[dict[str, Any]]:
        own = [column for column in asked if column != name]
        if name not in asked:
            yield from table.read(own, *start)
            return
        for row in table.read(list(dict.fromkeys([*own, *columns])), *start):
            flags = [_flag(row[column], column, table) for column in columns]
            present = None if None in flags else [column for column, flag in zip(columns, flags, strict=True) if flag]
            yield {**{column: row[column] for column in own}, name: present}

    if absent := [column for column in columns if column not in table.columns]:
        raise UserError(f"{table.name} has no column {absent[0]}, unlike the first file; give files with the same columns")
    return replace(table, columns=(*table.columns, name), read=read)


def _flag(value: Any, column: str, table: Table) -> bool | None:
    """Whether a 0/1 cell is 1; None if it is missing. Raises UserError for another value."""
    text = class_name(value)
    if text is None or text.strip().lower() in PRESENT | ABSENT:
        return None if text is None else text.strip().lower() in PRESENT
    raise UserError(f"column {column} of {table.name} holds {text[:40]!r}; of several label columns, each must hold 0 or 1")


def name_label_sets(labels: Iterable[Any], classes: Sequence[str] = (), where: str = "the labels") -> Naming:
    """Lists of class names or numbers (None: missing) -> how they are read: sets of `classes`, or of the names that occur, sorted.

    Lists of equal length of 0 and 1 in which a value is repeated are indicators, one per class: no set holds a value twice.
    Raises UserError for lists of anything else.
    """
    counts: Counter[str] = Counter()
    rows = total = 0
    lengths: set[int] = set()
    binary, repeated = True, False
    for label in labels:
        if is_absent(label):
            continue
        items = list(label) if is_list(label) else [label]
        names = [_item(item, where) for item in items]
        rows, total = rows + 1, total + len(set(names))
        lengths.add(len(items))
        binary = binary and all(not isinstance(item, str | bytes) and item in (0, 1) for item in items)
        repeated = repeated or len(set(names)) < len(names)
        counts.update(set(names))
    if not classes and binary and repeated and len(lengths) == 1:
        size = lengths.pop()
        numbers = {str(number): number for number in range(size)}
        return Naming(tuple(numbers), numbers, f"lists of {size} values of 0 and 1 are read as one indicator per class", "indicators")
    names = list(classes) or sort_classes(set(counts))
    if len(names) > MANY:
        raise UserError(f"{where} hold {len(names):,} different classes; at most {MANY:,} are allowed: is this column a label?")
    note = f"several classes per sample, {total / max(rows, 1):.1f} of {len(names)} on average"
    return Naming(tuple(names), {name: number for number, name in enumerate(names)}, note, "names")


def _item(value: Any, where: str) -> str:
    name = None if is_list(value) or isinstance(value, dict) else class_name(value)
    number = value.item() if isinstance(value, np.generic) else value
    if name is None or (isinstance(number, float) and not number.is_integer()):
        raise UserError(f"{where} hold a list with {str(value)[:40]!r}; lists of class names or class numbers are allowed")
    return name


def unsplit(classes: Sequence[str]) -> str:
    """A hint if most class names look like several names: separated, with fewer different parts than classes; else ""."""
    for sign in LIKELY:
        cut = [name for name in classes if sign in name]
        parts = {part.strip() for name in classes for part in name.split(sign)}
        if 2 * len(cut) > len(classes) and len(parts) < len(classes):
            shown = {value: key for key, value in SEPARATORS.items()}.get(sign, sign)
            return f"labels such as {cut[0][:60]!r} are read as one class each; to read several, give --columns {OPTION}={shown}"
    return ""


def number_label_sets(labels: Sequence[Any], classes: tuple[str, ...] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels of which some are lists -> (N,K) int8 and class names. classes: what the lists are numbers of; None: raw labels."""
    if classes is None:
        naming = name_label_sets(labels)
        classes, labels = naming.classes or (), [naming(label) for label in labels]
    return label_matrix(labels, len(classes)), classes


def label_matrix(labels: Sequence[Any], classes: int) -> np.ndarray:
    """Class numbers per sample (None: missing) -> (N, classes) int8: 1 present, 0 absent; a row of -1 if missing."""
    matrix = np.zeros((len(labels), classes), np.int8)
    for row, label in enumerate(labels):
        if label is None:
            matrix[row] = -1
        else:
            matrix[row, list(label)] = 1
    return matrix


def is_matrix(labels: np.ndarray) -> bool:
    """Whether an array holds label sets as (N, classes) of 0 and 1; -1 is missing. One 1 in every row may be one class each: ambiguous."""
    flags = labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "uifb" and bool(np.isin(labels, (-1, 0, 1)).all())
    return flags and not (labels.sum(1) == 1).all()
