"""Tables as sources of a modality's records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from untaught.core import Modality, Record, UserError
from untaught.data.identity import change_time, content_hash, file_facts, fingerprint
from untaught.data.label_column import count_values, label_doubts, number_of
from untaught.data.labels import class_name, is_missing
from untaught.data.layout import Layout, arrange, members_of
from untaught.data.parts import GROUP, PARTS, Choice, Part, Shard, Source, sort_parts
from untaught.data.row_filter import OPTION as WITHOUT
from untaught.data.row_filter import without
from untaught.data.step_rows import CHANNELS, CLOCK
from untaught.data.table import Table, rows_of


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
    layout = arrange(tables, modality, choice, where)
    fields, label, naming, split = layout.fields, layout.label, layout.naming, layout.split
    everything = members_of(layout.tables)
    for column in (*fields.values(), label, split):
        if column is not None and any(table.columns.count(column) > 1 for table in everything):
            raise UserError(f"column {column} occurs twice in {where}; rename one")
    stamps: dict[Path, tuple[str, int, int]] = {}  # metadata of the listed files
    parts = _parts(layout, stamps, where)
    listed = (
        (table, row[column])
        for column in layout.listings
        for table in everything
        if table.scan
        for row in rows_of(table, [column], patient=False)
    )
    stamps |= {path: file_facts(path) for table, value in listed if (path := _linked(table, value))}
    if facts is None:
        facts = [content_hash(_content(layout.tables, [*fields.values(), *filter(None, (label, split))]))]
    reading = [sorted(choice.reading.items())] if choice.reading else []
    facts = [*facts, *stamps.values(), *reading, *([WITHOUT, left_out] if left_out else [])]  # changes of these also change the fingerprint
    shown = [(name, column) for name, column in fields.items() if column not in (CHANNELS, CLOCK)]
    note = ", ".join(f"{name} from column {column}" + (" (paths)" if column in layout.listings else "") for name, column in shown)
    note += f", label from column {label}" if label else ", without labels"
    note += f" ({naming.note})" if naming and naming.note else ""
    note += "".join(f"; {table.name}: {table.note}" for table in everything if table.note)
    rows = None if any(part.rows is None for part in parts.values()) else sum(part.rows or 0 for part in parts.values())
    sizes = "" if rows is None or set(parts) == {"all"} else " (" + ", ".join(f"{name} {part.rows:,}" for name, part in parts.items()) + ")"
    if rows == 0:
        raise UserError(f"{where} has no rows; give a table with at least one")
    names = naming.classes if naming else None
    what = f"{f'{rows:,}' if rows is not None else 'a stream of'} {modality.noun} in {where}{sizes}: {note}"
    source = Source(what, parts, names, fingerprint([*facts, fields, label, split, names, [table.rows for table in everything]]))
    source.changed = max(map(change_time, stamps), default=0)
    source.warnings += layout.doubts
    if label is not None and naming is not None:
        source.warnings += label_doubts(layout.labelled, label, naming)
        source.warnings += [f"the label column {label} is also read as the {name}" for name, column in fields.items() if column == label]
    return source


def _parts(layout: Layout, stamps: Mapping[Path, tuple[str, int, int]], where: str) -> dict[str, Part]:
    """The splits: of the tables, or by the split column. Raises UserError for a value of that column that is no split."""
    if (split := layout.split) is None:
        return {part: _part(layout, members, stamps) for part, members in layout.tables.items()}
    everything, parts = members_of(layout.tables), dict[str, Part]()
    for value, count in count_values(everything, split).items():
        if isinstance(value, Exception):
            raise UserError(f"{where} has a row without a split: {value}")
        part = PARTS.get(str(value).strip().lower())
        if part is None or part in parts:
            raise UserError(
                f"column {split} holds {value!r}; allowed are train, val and test (or dev, validation, testing), one spelling each"
            )
        parts[part] = _part(layout, everything, stamps, {split: value})
        parts[part].rows = count
    return sort_parts(parts)


def _part(
    layout: Layout, members: list[Table], stamps: Mapping[Path, tuple[str, int, int]], within: Mapping[str, Any] = MappingProxyType({})
) -> Part:
    """The records of these tables, of rows with these values (column -> value). stamps: metadata of listed files, read with each row."""
    fields, label = layout.fields, layout.label
    wanted: list[str] = list(
        dict.fromkeys([*fields.values(), *([label] if label else []), *within, *(t.names for t in members if t.names)])
    )

    def records(table: Table, start: int = 0) -> Iterator[Record]:
        number = number_of(table, label, layout.naming)
        for i, row in enumerate(rows_of(table, [column for column in wanted if column in table.columns], start), start):
            if any(row[column] != value for column, value in within.items()):
                continue
            record: Record = {
                name: row[column]
                if layout.whole and name != GROUP
                else _value(_named(row[column], table, column), table, column in layout.listings)
                for name, column in fields.items()
            }
            if (own := class_name(record.pop(GROUP, None))) is not None:
                record[GROUP] = own
            if label is not None:
                record["label"] = number(row.get(label))
            files = [row[column] for column in fields.values() if column in layout.listings or column in table.media]
            record["name"] = _name(files) or (str(row[table.names]) if table.names else f"{table.name} row {i}")
            linked = (_linked(table, row[column]) for column in layout.listings)
            if known_files := [stamps[path] for path in linked if path is not None and path in stamps]:
                record["facts"] = known_files[0]
            yield record

    counts = [table.rows for table in members]
    shards = [Shard(table.name, table.count, partial(records, table), table.bytes) for table in members if table.count and not within]
    return Part(
        None if None in counts else sum(count or 0 for count in counts),
        lambda: (record for table in members for record in records(table)),
        shards=shards if len(shards) == len(members) else (),
    )


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
