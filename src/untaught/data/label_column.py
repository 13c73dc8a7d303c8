"""Finding the label column of a table, interpreting its values, and warnings if it does not look like a label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np

from untaught.core import UserError
from untaught.data.label_sets import holds_lists, name_label_sets, unsplit
from untaught.data.labels import NUMBER, Naming, class_name, is_missing, name_labels
from untaught.data.parts import Broken
from untaught.data.table import Table, rows_of

LABELS = ("label", "labels", "class", "target", "fine_label", "cls")
FEW = 5  # rows whose labels may all differ without a warning
MANY = 100  # classes that are numbers, beyond which they may be quantities
COMPARED = 1000  # rows in which the label column is compared with other columns


def find_labels(tables: list[Table], label: str | None, taken: set[str | None]) -> tuple[Naming | None, str | None]:
    """The label values and their column. If not given by the user, a column must have a usual name and few distinct values."""
    asked = label is not None
    there = {column for table in tables for column in table.columns} - taken
    known = {column.strip().lower(): column for column in sorted(there)}
    for column in [label] if label is not None else [known[name] for name in LABELS if name in known]:
        holders = [table for table in tables if column in table.columns]
        named = [table.classes[column] for table in holders if column in table.classes]
        others = [table for table in holders if column not in table.classes]
        if holds_lists([table for table in holders if table.scan], column):
            if not all(table.scan for table in tables):
                return None, column
            if (found := _set_naming(holders, column, asked)) is not None:
                return found, column
            continue
        if others and not all(table.scan for table in tables):
            return None, column  # raw values, numbered once all have been read
        counts = Counter(count_values(others, column))
        if len(set(named)) == 1 and {class_name(value) for value in counts} <= {None, *named[0]}:
            return Naming(named[0], {name: number for number, name in enumerate(named[0])}), column
        counts.update({name: 0 for names in named for name in names})
        naming = name_labels(counts, all(table.written for table in holders))
        if naming is None or (naming.classes is None and not asked):  # no labels, or numeric ones
            continue
        if asked or named or naming.classes is None or len(naming.classes) <= max(20, sum(counts.values()) // 2):
            return naming, column
    return None, None


def _set_naming(tables: list[Table], column: str, asked: bool) -> Naming | None:
    """The interpretation of a column of lists; None if its lists are no classes and it was not asked for."""
    named = {table.sequences.get(column, ()) for table in tables}
    classes = named.pop() if len(named) == 1 else ()
    labels = (set_names(row[column], table, column) for table in tables for row in rows_of(table, [column]))
    try:
        return name_label_sets(labels, classes, f"column {column} of {tables[0].name}")
    except UserError:
        if asked:
            raise
        return None


def set_names(value: Any, table: Table, column: str) -> Any:
    """A list of numbers of named classes as names; other values as they are."""
    names = table.sequences.get(column)
    if not names or not isinstance(value, list):
        return value
    if any(not isinstance(number, int) or not 0 <= number < len(names) for number in value):
        return None
    return [names[number] for number in value]


def number_of(table: Table, label: str | None, naming: Naming | None) -> Callable[[Any], Any]:
    """A function from raw labels of this table to their numbers; the identity if not all values have been read."""
    own = table.classes.get(label or "")
    if naming is None:
        return lambda value: None if isinstance(value, Exception) else set_names(value, table, label or "")
    if naming.several and table.sequences.get(label or ""):
        return lambda value: naming(set_names(value, table, label or ""))
    if own and own == naming.classes:  # already numbers of these names
        return lambda value: None if is_missing(value) or isinstance(value, Exception) else value
    if own:  # numbers of names in another order
        return lambda value: naming(own[value]) if isinstance(value, int) and 0 <= value < len(own) else None
    return naming


def count_values(tables: list[Table], column: str) -> dict[Any, int]:
    """Counts of each value in a column of these tables. Raises UserError for lists and objects."""
    counts: dict[Any, int] = {}
    for table in tables:
        with suppress(Broken):  # reported when all data are read
            for row in rows_of(table, [column]) if column in table.columns else ():
                value = row[column]
                if isinstance(value, (list, dict, np.ndarray)):
                    raise UserError(
                        f"column {column} of {table.name} holds {type(value).__name__} values; a label or split must be a number or word"
                    )
                counts[value] = counts.get(value, 0) + 1
    return counts


def label_doubts(tables: list[Table], label: str, naming: Naming) -> list[str]:
    """Warnings if a label column equals another column in the rows with a label, value by value or renamed, if its classes differ in every
    row, or if they are very many numbers."""
    if naming.several or not all(table.scan for table in tables):
        return []
    table = next(table for table in tables if label in table.columns)
    others = [column for column in table.columns if column not in (label, *table.media)]
    seen: dict[str, list[str | None]] = {column: [] for column in (label, *others)}
    with suppress(Broken):
        for row in islice(rows_of(table, list(seen), patient=False), COMPARED):
            for column, values in seen.items():
                values.append(class_name(row[column]) if isinstance(row[column], (str, int, float)) else None)
    known = [number for number, name in enumerate(seen[label]) if name is not None]
    seen = {column: [values[number] for number in known] for column, values in seen.items()}
    own = seen[label]
    if len(set(own)) < 2:
        return []
    note = [hint] if naming.classes and (hint := unsplit(naming.classes)) else []
    note += [f"the label column {label} equals column {column}: is it a label?" for column in others if seen[column] == own]
    if len(set(own)) < len(own):
        same = [column for column in others if seen[column] != own and _renamed(seen[column], own)]
        note += [f"column {column} has one value per value of the label column {label}: does it leak the label?" for column in same]
    if naming.classes and len(own) > FEW and len(set(own)) == len(own) and len(naming.classes) > sum(one.rows or 0 for one in tables) / 2:
        note.append(f"the label column {label} has a different value in every row, like an id: scores need several rows per class")
    elif naming.classes and len(naming.classes) > MANY and all(NUMBER.fullmatch(name) for name in naming.classes):
        note.append(f"the label column {label} has {len(naming.classes):,} numbers as classes; if they are quantities, use --task regress")
    return note


def _renamed(values: list[str | None], labels: list[str | None]) -> bool:
    """Whether values and labels determine each other in every row."""
    pairs = set(zip(values, labels, strict=True))
    return None not in set(values) and len(pairs) == len(set(values)) == len(set(labels))
