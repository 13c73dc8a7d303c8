"""Tables of several forms as tables with one row per record: time steps, numbered columns, whole rows, events, rows of one file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice

from untaught.core import Modality, UserError
from untaught.data.column_matching import asked_column, choose_column, extra_columns, find_column, join_numbered, lists_files
from untaught.data.event_rows import EventColumns, grouped_events
from untaught.data.grouped_rows import grouped_rows
from untaught.data.label_column import COMPARED, LABELS, find_labels
from untaught.data.label_sets import OPTION, indicator_columns, join_indicators, split_labels
from untaught.data.labels import Naming
from untaught.data.parts import GROUP, Choice
from untaught.data.row_filter import OPTION as WITHOUT
from untaught.data.step_rows import ID, TIME, join_steps
from untaught.data.table import Table, rows_of
from untaught.data.whole_rows import join_rows, split_doubts, takes_whole_rows

Tables = dict[str, list[Table]]  # by split


@dataclass
class Layout:
    """Tables with one row per record, and the meaning of their columns."""

    tables: Tables
    fields: dict[str, str]  # field, extra or group -> column
    label: str | None
    naming: Naming | None  # of the label's values; None: raw, or without labels
    split: str | None
    listings: set[str] = field(default_factory=set)  # columns of paths
    whole: bool = False  # whether a record is a row, as a mapping
    labelled: list[Table] = field(default_factory=list)  # the tables in which the label is compared with other columns
    doubts: list[str] = field(default_factory=list)  # for the user


def arrange(tables: Tables, modality: Modality, choice: Choice, where: str) -> Layout:
    """The tables with a row per record, by the modality's kind of rows and the user's choice of columns. Raises UserError."""
    if modality.numbered:
        tables, choice = _series_rows(tables, modality, choice, where)
    split = asked_column(choice.split, "split", _first(tables), where)
    tables, label = _label_sets(tables, choice, where)
    group = asked_column(choice.columns.get(GROUP), GROUP, _first(tables), where)
    if takes_whole_rows(modality):
        return _whole_rows(tables, modality, choice, where, (label, split, group))
    fields = _fields(tables, modality, choice, where, split, group)
    if modality.grouped:
        own = tuple(column for column in (label, split, group) if column is not None)
        (item,), (time,) = modality.fields.keys() - {modality.grouped}, modality.extras
        events = EventColumns(fields[modality.grouped], fields[item], fields.get(time), own)
        tables = {part: [grouped_events(members, events)] for part, members in tables.items()}
    labelled = members = members_of(tables)
    listings = {column for name, column in fields.items() if name != GROUP and lists_files(members, column, modality)}
    many = [fields[name] for name in modality.fields if name in modality.several]
    if many and (keys := [column for column in fields.values() if column in listings and column not in many]):
        tables = {part: [grouped_rows(table, keys[0], many) for table in members] for part, members in tables.items()}
    naming, label = find_labels(members_of(tables), label, {*fields.values(), split})
    return Layout(tables, fields, label, naming, split, listings, labelled=labelled)


def _whole_rows(tables: Tables, modality: Modality, choice: Choice, where: str, asked: tuple[str | None, ...]) -> Layout:
    """A record is a row. asked: the columns of the label, the split and the group; the label is found first, it must not be a feature."""
    label, split, group = asked
    labelled, first = members_of(tables), _first(tables)
    naming, label = find_labels(labelled, label, {split, group})
    taken = {label, split, group}
    head = list(islice(rows_of(first, list(first.columns), patient=False), COMPARED)) if first.scan else []
    doubts = split_doubts(first, taken, head)
    tables = {part: [join_rows(table, taken, where) for table in members] for part, members in tables.items()}
    fields = _fields(tables, modality, choice, where, split, group)
    return Layout(tables, fields, label, naming, split, whole=True, labelled=labelled, doubts=doubts)


def _series_rows(tables: Tables, modality: Modality, choice: Choice, where: str) -> tuple[Tables, Choice]:
    """Rows of one time step joined to series, or numbered columns to one column; and the choice of columns that is left to make."""
    tables = {part: [join_steps(table, modality, choice, where) for table in members] for part, members in tables.items()}
    stepwise = any(table.names or table.joined for table in members_of(tables))
    used = {ID, TIME, *(modality.fields if stepwise else ())}
    choice = replace(choice, columns={key: value for key, value in choice.columns.items() if key not in used})
    if not choice.columns.keys() - {GROUP, WITHOUT}:
        taken = {choice.label, choice.split, choice.columns.get(GROUP)}
        tables = {part: [join_numbered(table, modality, taken) for table in members] for part, members in tables.items()}
    return tables, choice


def _fields(tables: Tables, modality: Modality, choice: Choice, where: str, split: str | None, group: str | None) -> dict[str, str]:
    """Field, extra or group -> column. Raises UserError if a column has two uses, or a table lacks one."""
    first = _first(tables)
    fields = {name: choose_column(name, first, modality, choice.columns) for name in modality.fields}
    fields |= extra_columns(first, modality, choice.columns) | ({GROUP: group} if group is not None else {})
    for name, column in fields.items():
        if other := next((one for one, same in fields.items() if same == column and one != name), None):
            raise UserError(f"column {column} of {where} would be both the {other} and the {name}; give --columns {name}=NAME")
    for table in members_of(tables):  # a test split may be unlabelled
        if missing := {*fields.values(), *([split] if split else [])} - set(table.columns):
            raise UserError(f"{table.name} has no column {sorted(missing)[0]}, unlike {first.name}; give files with the same columns")
    return fields


def _label_sets(tables: Tables, choice: Choice, where: str) -> tuple[Tables, str | None]:
    """The tables with the label columns that hold several classes as one column of lists, and the label column that was asked for."""
    first = _first(tables)
    if choice.label and (columns := indicator_columns(choice.label, first)):
        name = f"{len(columns)} columns ({', '.join(columns[:4])}{' ...' if len(columns) > 4 else ''})"
        return {part: [join_indicators(table, columns, name) for table in members] for part, members in tables.items()}, name
    label = asked_column(choice.label, "label", first, where)
    if (separator := choice.reading.get(OPTION)) is None:
        return tables, label
    label = label or next((found for name in LABELS if (found := find_column(name, first))), None)
    if label is None:
        raise UserError(f"--columns {OPTION}={separator}: no column of {where} has the name of a label; give --label NAME too")
    return {part: [split_labels(table, label, separator) for table in members] for part, members in tables.items()}, label


def members_of(tables: Tables) -> list[Table]:
    """The tables of all splits."""
    return [table for members in tables.values() for table in members]


def _first(tables: Tables) -> Table:
    return next(iter(tables.values()))[0]
