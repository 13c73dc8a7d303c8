"""Tables as sources of a modality's records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from untaught.core import Modality, Record, UserError
from untaught.data.column_matching import asked_column, choose_column, extra_columns, find_column, join_numbered, lists_files
from untaught.data.event_rows import EventColumns, grouped_events
from untaught.data.grouped_rows import grouped_rows
from untaught.data.identity import change_time, content_hash, file_facts, fingerprint
from untaught.data.label_column import COMPARED, LABELS, count_values, find_labels, label_doubts, number_of
from untaught.data.label_sets import OPTION, indicator_columns, join_indicators, split_labels
from untaught.data.labels import Naming, class_name, is_missing
from untaught.data.parts import GROUP, PARTS, Choice, Part, Shard, Source, sort_parts
from untaught.data.row_filter import OPTION as WITHOUT
from untaught.data.row_filter import without
from untaught.data.step_rows import CHANNELS, CLOCK, ID, TIME, join_steps
from untaught.data.table import Table, rows_of
from untaught.data.whole_rows import join_rows, split_doubts, takes_whole_rows


def open_tables(
    tables: dict[str, list[Table]],
    modality: Modality,
    facts: Sequence[object] | None,
    where: str,
    choice: Choice,
) -> Source:
    """Tables by split -> a source of records. The chosen columns are listed in `what`.

    facts: metadata to fingerprint; None: the contents of the columns read. Raises UserError.
    """
    tables = sort_parts(tables)
    if left_out := choice.columns.get(WITHOUT):
        tables = without(tables, left_out, where)
    if modality.numbered:
        tables = {part: [join_steps(table, modality, choice, where) for table in members] for part, members in tables.items()}
        stepwise = any(table.names or table.joined for members in tables.values() for table in members)
        used = {ID, TIME, *(modality.fields if stepwise else ())}
        choice = replace(choice, columns={key: value for key, value in choice.columns.items() if key not in used})
    if modality.numbered and not choice.columns.keys() - {GROUP, WITHOUT}:
        taken = {choice.label, choice.split, choice.columns.get(GROUP)}
        tables = {part: [join_numbered(table, modality, taken) for table in members] for part, members in tables.items()}
    everything = [table for part in tables.values() for table in part]
    first = everything[0]
    split = asked_column(choice.split, "split", first, where)
    tables, label = _label_sets(tables, choice, where)
    everything = [table for part in tables.values() for table in part]
    first = everything[0]
    group = asked_column(choice.columns.get(GROUP), GROUP, first, where)
    doubts: list[str] = []
    naming: Naming | None = None
    unjoined, whole = everything, takes_whole_rows(modality)
    if whole:  # the label first: it must not be among the features
        naming, label = find_labels(everything, label, {split, group})
        taken = {label, split, group}
        doubts = split_doubts(
            first, taken, list(islice(rows_of(first, list(first.columns), patient=False), COMPARED)) if first.scan else []
        )
        tables = {part: [join_rows(table, taken, where) for table in members] for part, members in tables.items()}
        everything = [table for part in tables.values() for table in part]
        first = everything[0]
    chosen = {name: choose_column(name, first, modality, choice.columns) for name in modality.fields}
    chosen |= extra_columns(first, modality, choice.columns) | ({GROUP: group} if group is not None else {})
    for name, column in chosen.items():
        if other := next((one for one, same in chosen.items() if same == column and one != name), None):
            raise UserError(f"column {column} of {where} would be both the {other} and the {name}; give --columns {name}=NAME")
    for table in everything:  # a test split may be unlabelled
        if missing := {*chosen.values(), *([split] if split else [])} - set(table.columns):
            raise UserError(f"{table.name} has no column {sorted(missing)[0]}, unlike {first.name}; give files with the same columns")
    if modality.grouped:
        own = tuple(column for column in (label, split, group) if column is not None)
        (item,), (time,) = modality.fields.keys() - {modality.grouped}, modality.extras
        events = EventColumns(chosen[modality.grouped], chosen[item], chosen.get(time), own)
        tables = {part: [grouped_events(members, events)] for part, members in tables.items()}
        unjoined = everything = [table for part in tables.values() for table in part]
    listings = {column for name, column in chosen.items() if name != GROUP and not whole and lists_files(everything, column, modality)}
    many = [chosen[name] for name in modality.fields if name in modality.several]
    if many and (keys := [column for column in chosen.values() if column in listings and column not in many]):
        tables = {part: [grouped_rows(table, keys[0], many) for table in members] for part, members in tables.items()}
        everything = [table for part in tables.values() for table in part]
    stamps: dict[Path, tuple[str, int, int]] = {}  # metadata of the listed files
    if not whole:
        naming, label = find_labels(everything, label, {*chosen.values(), split})
    for column in (*chosen.values(), label, split):
        if column is not None and any(table.columns.count(column) > 1 for table in everything):
            raise UserError(f"column {column} occurs twice in {where}; rename one")
    names = naming.classes if naming else None

    def build(members: list[Table], within: dict[str, object] | None = None) -> Part:
        within = within or {}
        wanted: list[str] = list(
            dict.fromkeys([*chosen.values(), *([label] if label else []), *within, *(t.names for t in members if t.names)])
        )

        def records(table: Table, start: int = 0) -> Iterator[Record]:
            number = number_of(table, label, naming)
            for i, row in enumerate(rows_of(table, [column for column in wanted if column in table.columns], start), start):
                if any(row[column] != value for column, value in within.items()):
                    continue
                record: Record = {
                    name: row[column] if whole and name != GROUP else _value(_named(row[column], table, column), table, column in listings)
                    for name, column in chosen.items()
                }
                if (own := class_name(record.pop(GROUP, None))) is not None:
                    record[GROUP] = own
                if label is not None:
                    record["label"] = number(row.get(label))
                files = [row[column] for column in chosen.values() if column in listings or column in table.media]
                record["name"] = _name(files) or (str(row[table.names]) if table.names else f"{table.name} row {i}")
                linked = (_linked(table, row[column]) for column in listings)
                if known_files := [stamps[path] for path in linked if path in stamps]:
                    record["facts"] = known_files[0]
                yield record

        counts = [table.rows for table in members]
        shards = [Shard(table.name, table.count, partial(records, table), table.bytes) for table in members if table.count and not within]
        return Part(
            None if None in counts else sum(count or 0 for count in counts),
            lambda: (record for table in members for record in records(table)),
            shards=shards if len(shards) == len(members) else (),
        )

    parts: dict[str, Part] = {}
    if split is None:
        parts = {part: build(members) for part, members in tables.items()}
    else:
        for value, count in count_values(everything, split).items():
            if isinstance(value, Exception):
                raise UserError(f"{where} has a row without a split: {value}")
            part = PARTS.get(str(value).strip().lower())
            if part is None or part in parts:
                raise UserError(
                    f"column {split} holds {value!r}; allowed are train, val and test (or dev, validation, testing), one spelling each"
                )
            parts[part] = build(everything, {split: value})
            parts[part].rows = count
        parts = sort_parts(parts)

    listed = (
        (table, row[column]) for column in listings for table in everything if table.scan for row in rows_of(table, [column], patient=False)
    )
    stamps |= {path: file_facts(path) for table, value in listed if (path := _linked(table, value))}
    if facts is None:
        facts = [content_hash(_content(tables, [*chosen.values(), *filter(None, (label, split))]))]
    reading = [sorted(choice.reading.items())] if choice.reading else []
    facts = [*facts, *stamps.values(), *reading, *([WITHOUT, left_out] if left_out else [])]  # changes of these also change the fingerprint
    shown = [(name, column) for name, column in chosen.items() if column not in (CHANNELS, CLOCK)]
    note = ", ".join(f"{name} from column {column}" + (" (paths)" if column in listings else "") for name, column in shown)
    note += f", label from column {label}" if label else ", without labels"
    note += f" ({naming.note})" if naming and naming.note else ""
    note += "".join(f"; {table.name}: {table.note}" for table in everything if table.note)
    rows = None if any(part.rows is None for part in parts.values()) else sum(part.rows or 0 for part in parts.values())
    sizes = "" if rows is None or set(parts) == {"all"} else " (" + ", ".join(f"{name} {part.rows:,}" for name, part in parts.items()) + ")"
    if rows == 0:
        raise UserError(f"{where} has no rows; give a table with at least one")
    what = f"{f'{rows:,}' if rows is not None else 'a stream of'} {modality.noun} in {where}{sizes}: {note}"
    source = Source(what, parts, names, fingerprint([*facts, chosen, label, split, names, [table.rows for table in everything]]))
    source.changed = max(map(change_time, stamps), default=0)
    source.warnings += doubts
    if label is not None and naming is not None:
        source.warnings += label_doubts(unjoined, label, naming)
        source.warnings += [f"the label column {label} is also read as the {name}" for name, column in chosen.items() if column == label]
    return source


def _label_sets(tables: dict[str, list[Table]], choice: Choice, where: str) -> tuple[dict[str, list[Table]], str | None]:
    """The tables with the label columns that hold several classes as one column of lists, and the label column that was asked for."""
    first = next(iter(tables.values()))[0]
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


def _content(tables: dict[str, list[Table]], columns: list[str]) -> Iterator[object]:
    """Every value of these columns, by split, for hashing."""
    for part, members in tables.items():
        for table in members:
            there = [column for column in columns if column in table.columns]
            yield from (part, there)
            for row in table.read(there):
                yield from row.values()


def _value(value: Any, table: Table, listed: bool) -> Any:
    if isinstance(value, dict) and "bytes" in value:  # a Hugging Face file: bytes or path
        path, content = value.get("path"), value["bytes"]
        value = Path(path) if content is None and path else content
    elif isinstance(value, float) and value != value:  # pandas' missing text
        value = None
    elif listed and value and not isinstance(value, Exception):
        value = Path(str(value))
    elif isinstance(value, list):
        if any(isinstance(one, str) for one in value):  # where numpy would spell out a missing one: "nan"
            value = [None if is_missing(one) or (isinstance(one, float) and one != one) else one for one in value]
        value = np.asarray(value)
    return table.folder / value if isinstance(value, Path) and table.folder else value


def _named(value: Any, table: Table, column: str) -> Any:
    """A list of named integers as names."""
    names = table.sequences.get(column)
    if not names or not isinstance(value, list):
        return value
    if wrong := [number for number in value if not isinstance(number, int) or not 0 <= number < len(names)]:
        return ValueError(f"its {column} holds {wrong[0]}; integers from 0 to {len(names) - 1} are allowed")
    return [names[number] for number in value]


def _linked(table: Table, value: Any) -> Path | None:
    """The file that a listing's value refers to."""
    found = _value(value, table, listed=True)
    return found if isinstance(found, Path) else None


def _name(values: list[Any]) -> str | None:
    """The name of a row: its file, if it has one."""
    for value in values:
        path = value.get("path") if isinstance(value, dict) else value
        if path and not isinstance(path, Exception):
            return str(path)
    return None
