"""Rows with named columns: parquet, webdataset, csv and json files, Hugging Face `datasets`, pandas, polars and pyarrow tables."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from untaught.core import Modality, Record, UserError
from untaught.data.addresses import Address, address_name, file_size, open_address
from untaught.data.decoding import FAULTS_OF_OURS, ahead, processors
from untaught.data.labels import class_name, sort_classes
from untaught.data.parts import PARTS, TRAIN, Broken, Choice, Part, Shard, Source, file_facts, fingerprint, part_of, sort_parts
from untaught.data.webdataset import Columns, Tar, columns_of

KINDS = {
    "parquet": (".parquet",),
    "csv": (".csv", ".tsv", ".csv.gz", ".tsv.gz"),
    "json": (".jsonl", ".json", ".jsonl.gz", ".json.gz"),
    "webdataset": (".tar",),
}
LABELS = ("label", "labels", "class", "target", "fine_label", "cls")
LISTED = ("file_name", "file", "filename", "path")  # columns that usually hold the paths of a listing
ROWS, BYTES = 256, 4 << 20  # read at once, at most: bounded memory
REMOTE = 16  # remote files opened at once
HEADER_WORDS = 3  # a name of more words beside one that is a number makes a first line of data, not of names
PAUSES = (0.1, 1.0, 5.0)  # seconds before a shard that could not be read is tried again


@dataclass
class Table:
    name: str  # for messages and the names of rows
    columns: tuple[str, ...]
    rows: int | None
    read: Callable[..., Iterator[dict[str, Any]]]  # (columns): these of every row; (columns, start): of a shard, from a row on
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)  # the value names of columns that have some
    media: tuple[str, ...] = ()  # columns that hold whole encoded files
    folder: Path | None = None  # where relative paths start
    scan: bool = True  # False: reading a whole column is not cheap (a remote stream)
    count: Callable[[], int | None] | None = None  # of a shard, a file that can be entered at any row: how many, once that is known
    bytes: int = 0  # of a shard
    short: str | None = None  # why a shard's last rows are missing


def kind_of(address: Address) -> str | None:
    name = address_name(address).lower()
    return next((kind for kind, endings in KINDS.items() if name.endswith(endings)), None)


def open_tables(
    tables: dict[str, list[Table]],
    modality: Modality,
    facts: Sequence[object],
    where: str,
    choice: Choice,
) -> Source:
    """Parts of tables -> records of the modality's fields. The choice of every column is said in `what`."""
    label, split = choice.label, choice.split
    tables = sort_parts(tables)
    everything = [table for part in tables.values() for table in part]
    first = everything[0]
    for asked, option in ((label, "label"), (split, "split")):
        if asked is not None and asked not in first.columns:
            raise UserError(f"no column {asked} in {where}; its columns are {_list(first)}: choose with --{option} NAME")
    chosen = {name: _choose(name, first, modality, choice.columns) for name in modality.fields}
    for table in everything:  # a test part may come without labels
        if missing := {*chosen.values(), *([split] if split else [])} - set(table.columns):
            raise UserError(f"{table.name} has no column {sorted(missing)[0]}, which {first.name} has; give files of one kind")
    listings = {column for column in chosen.values() if _lists_files(everything, column, modality)}
    stamps: dict[Path, tuple[str, int, int]] = {}  # of the files that are listed, as they are now
    names, label = _labels(everything, label, {*chosen.values(), split})

    def build(members: list[Table], within: dict[str, object] | None = None) -> Part:
        within = within or {}
        wanted: list[str] = list(dict.fromkeys([*chosen.values(), *([label] if label else []), *within]))
        numbers: dict[str | None, int] = {name: i for i, name in enumerate(names or ())}

        def records(table: Table, start: int = 0) -> Iterator[Record]:
            direct = label in table.classes  # already numbers of names
            for i, row in enumerate(_rows(table, [column for column in wanted if column in table.columns], start), start):
                if any(row[column] != value for column, value in within.items()):
                    continue
                record: Record = {name: _value(row[column], table, column in listings) for name, column in chosen.items()}
                if label is not None:
                    known = row.get(label)
                    record["label"] = numbers.get(class_name(known)) if numbers and not direct else known
                files = [row[column] for column in chosen.values() if column in listings or column in table.media]
                record["name"] = _name(files) or f"{table.name} row {i}"
                if known_files := [stamps[path] for column in listings if (path := _path(table, row[column])) in stamps]:
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
        for value, count in _count(everything, split).items():
            part = PARTS.get(str(value).lower())
            if part is None or part in parts:
                raise UserError(
                    f"column {split} holds {value!r}; its values must be train, val and test (or dev, validation, testing), each once"
                )
            parts[part] = build(everything, {split: value})
            parts[part].rows = count
        parts = sort_parts(parts)

    listed = (
        (table, row[column]) for column in listings for table in everything if table.scan for row in _rows(table, [column], patient=False)
    )
    stamps |= {path: file_facts(path) for table, value in listed if value and (path := _path(table, value))}
    facts = [*facts, *stamps.values()]  # their changes count as well
    said = ", ".join(f"{name} from column {column}" + (" (paths)" if column in listings else "") for name, column in chosen.items())
    said += f", label from column {label}" if label else ", without labels"
    rows = None if any(part.rows is None for part in parts.values()) else sum(part.rows or 0 for part in parts.values())
    sizes = "" if rows is None or set(parts) == {"all"} else " (" + ", ".join(f"{name} {part.rows:,}" for name, part in parts.items()) + ")"
    if rows == 0:
        raise UserError(f"{where} has no rows; give a table with at least one")
    what = f"{f'{rows:,}' if rows is not None else 'a stream of'} {modality.noun} in {where}{sizes}: {said}"
    return Source(what, parts, names, fingerprint([*facts, chosen, label, split, names, [table.rows for table in everything]]))


def read_files(
    addresses: Sequence[Address], suffixes: Collection[str], progress: Callable[[int, int], None] | None = None
) -> tuple[dict[str, list[Table]], list[tuple[str, str]]]:
    """Files of one kind -> tables by part, by the words in their names or folders; and what is left out (name, reason).

    Of several files, those that can't be opened are left out. `suffixes`: of files that a webdataset's pictures (sounds ...) are.
    """
    tables: dict[str, list[Table]] = {}
    skipped: list[tuple[str, str]] = []
    columns = columns_of(addresses, suffixes) if kind_of(addresses[0]) == "webdataset" else Columns()
    opened = ahead(lambda address: _attempt(address, columns), addresses, processors() if isinstance(addresses[0], Path) else REMOTE)
    for done, (address, table) in enumerate(zip(addresses, opened, strict=True), 1):
        if progress is not None:
            progress(done, len(addresses))
        if isinstance(table, Exception):
            if len(addresses) == 1:
                raise table
            skipped.append((address_name(address), str(table)))
            continue
        if table.short:
            skipped.append((table.name, table.short))
        *_, folder, name = ("", *str(address).split("/"))
        part = part_of(name) or part_of(folder) if len(addresses) > 1 else None
        tables.setdefault(part or "all", []).append(table)
    if not tables:
        raise UserError(f"none of the {len(addresses)} files can be read ({skipped[0][1]})")
    if "all" in tables and len(tables) > 1:  # "extra.parquet" beside "train.parquet"
        tables[TRAIN] = tables.get(TRAIN, []) + tables.pop("all")
    return tables, skipped


def _attempt(address: Address, columns: Columns) -> Table | UserError:
    try:
        if file_size(address) == 0:
            raise UserError(f"{address} is empty (0 bytes); give a table with rows")
        if kind_of(address) == "webdataset":
            return _read_webdataset(address, columns)
        return _read_parquet(address) if kind_of(address) == "parquet" else _read_text(address)
    except UserError as error:
        return error
    except FAULTS_OF_OURS:
        raise
    except Exception as error:  # pyarrow, pandas, datasets, tarfile and every kind of store each have their own
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        return UserError(f"{address} cannot be read as {kind_of(address)} ({reason[0]}); it may be cut short or of another kind")


def _rows(table: Table, columns: list[str], start: int = 0, patient: bool = True) -> Iterator[dict[str, Any]]:
    """The rows of a table. A shard that cannot be read is tried again, where it broke off, after a pause; then Broken is raised.

    Impatient, while somebody waits for the data to be opened, it is not tried again.
    """
    if table.count is None:
        yield from table.read(columns)
        return
    row, tried = start, 0
    while True:
        try:
            for content in table.read(columns, row):
                yield content
                row, tried = row + 1, 0
            return
        except FAULTS_OF_OURS:
            raise
        except Exception as error:
            if tried == len(PAUSES) or not patient:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise Broken(f"{table.name} is damaged, or out of reach, after {row:,} rows ({reason}); fetch it again") from error
            time.sleep(PAUSES[tried])
            tried += 1


def _read_parquet(address: Address) -> Table:
    """By pyarrow itself: seven times as fast as a `datasets` stream (measured on CIFAR-10), and its footer knows the number of rows."""
    from pyarrow import parquet, types

    with open_address(address) as opened, parquet.ParquetFile(opened) as file:
        schema, facts = file.schema_arrow, file.metadata
        groups = [(group.num_rows, group.total_byte_size) for group in map(facts.row_group, range(facts.num_row_groups))]
    rows, size = (sum(column) for column in zip(*groups, strict=True)) if groups else (0, 0)
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    classes = {
        name: tuple(kind["names"]) for name, kind in described.items() if isinstance(kind, dict) and kind.get("_type") == "ClassLabel"
    }
    media = tuple(c.name for c in schema if types.is_struct(c.type) and c.type.get_field_index("bytes") >= 0)

    at_once = max(1, min(ROWS, BYTES * rows // max(size, 1)))

    def read(columns: Sequence[str], start: int = 0) -> Iterator[dict[str, Any]]:
        first = 0
        while first < len(groups) and start >= groups[first][0]:  # never read
            start -= groups[first][0]
            first += 1
        with open_address(address) as opened, parquet.ParquetFile(opened, pre_buffer=False, buffer_size=BYTES) as file:
            for batch in file.iter_batches(at_once, row_groups=range(first, len(groups)), columns=list(columns)):
                yield from batch.slice(start).to_pylist()
                start = max(0, start - len(batch))

    local = isinstance(address, Path)
    folder = address.parent if local else None
    return Table(address_name(address), tuple(schema.names), rows, read, classes, media, folder, local, lambda: rows, size)


def _read_webdataset(address: Address, columns: Columns) -> Table:
    tar = Tar(address)
    if isinstance(address, Path):
        tar.index()  # of a remote one it would fetch everything
    if tar.count() == 0:
        raise UserError(f"{address} cannot be read as webdataset ({tar.broken or 'it holds no samples'}); fetch it again, or remove it")
    # what is known of a remote one depends on what was read before, and no run may depend on that
    rows, size = (tar.count(), tar.size) if isinstance(address, Path) else (None, 0)
    short = f"breaks off after {rows:,} samples ({tar.broken})" if tar.broken else None
    return Table(tar.name, tuple(columns.endings), rows, partial(columns.read, tar), {}, columns.media, None, False, tar.count, size, short)


def _read_text(address: Address) -> Table:
    """csv and json by a `datasets` stream: types, dialects and .gz are its business, and nothing is copied into its cache.

    Its builder is called itself: `load_dataset` takes the name for a pattern and tells its makers of the use. A csv
    whose first line has a number and a sentence has no header; its columns are called column1, column2, ...
    """
    from datasets.data_files import DataFilesDict, DataFilesList
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.json.json import Json

    files = DataFilesDict({"train": DataFilesList([str(address)], [()])})

    def opened(builder: Any) -> Table:
        return of_dataset(builder.as_streaming_dataset(split="train"), address_name(address))

    if kind_of(address) == "csv":
        separator = "\t" if ".tsv" in address_name(address).lower() else ","
        table = opened(Csv(data_files=files, sep=separator))
        if any(map(str.isdigit, table.columns)) and any(len(name.split()) > HEADER_WORDS for name in table.columns):
            names = [f"column{number}" for number, _ in enumerate(table.columns, 1)]
            table = opened(Csv(data_files=files, sep=separator, header=None, column_names=names))
    else:
        table = opened(Json(data_files=files))
    table.rows, table.scan = sum(1 for _ in table.read(table.columns[:1])), True
    table.folder = address.parent if isinstance(address, Path) else None
    return table


def of_dataset(dataset: Any, name: str) -> Table:
    """A `datasets.Dataset` or `IterableDataset`. Pictures and sounds stay encoded: decoding is the modality's."""
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
        media,
        scan=known,
    )


def of_datasets(data: Any, name: str) -> dict[str, list[Table]]:
    """A dataset, or a dictionary of them by split. Splits that are no known part ("unsupervised") join the training rows."""
    if not isinstance(data, dict):
        return {"all": [of_dataset(data, name)]}
    tables: dict[str, list[Table]] = {}
    for split, dataset in data.items():
        tables.setdefault(part_of(str(split)) or TRAIN, []).append(of_dataset(dataset, f"{name} {split}"))
    return tables


def of_frame(frame: Any, name: str) -> Table:
    """A pandas, polars or pyarrow table, read in slices; none of the three is imported."""
    columns = tuple(map(str, getattr(frame, "column_names", frame.columns)))  # pyarrow's `columns` are the values

    def values(column: Any) -> list[Any]:
        convert = getattr(column, "to_pylist", None) or getattr(column, "to_list", None)
        assert convert is not None
        return convert()

    def read(wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(frame), ROWS):
            piece = frame.iloc[start : start + ROWS] if hasattr(frame, "iloc") else frame.slice(start, ROWS)
            yield from (dict(zip(wanted, row, strict=True)) for row in zip(*(values(piece[column]) for column in wanted), strict=True))

    return Table(name, columns, len(frame), read)


def content(tables: dict[str, list[Table]]) -> Iterator[object]:
    """Every value of tables in memory, to be hashed."""
    for part, members in tables.items():
        yield part
        for table in members:
            for row in table.read(table.columns):
                yield from (value.tobytes() if hasattr(value, "tobytes") else value for value in row.values())


def _choose(name: str, table: Table, modality: Modality, columns: dict[str, str]) -> str:
    """The column that holds a field: as told, else by its usual names, else the only one that holds files."""
    if name in columns:
        if columns[name] in table.columns:
            return columns[name]
        raise UserError(f"no column {columns[name]} in {table.name}; its columns are {_list(table)}: choose with --columns {name}=NAME")
    lower = {column.lower(): column for column in table.columns}
    for usual in (name, *modality.fields[name]):
        if usual.lower() in lower:
            return lower[usual.lower()]
    if len(table.media) == 1:
        return table.media[0]
    if len(modality.fields) == 1 and modality.suffixes:
        for usual in LISTED:
            if usual in lower and _lists_files([table], lower[usual], modality):
                return lower[usual]
    raise UserError(f"no column of {table.name} is known to hold the {name}: they are {_list(table)}; say which with --columns {name}=NAME")


def _list(table: Table) -> str:
    return ", ".join(table.columns)


def _lists_files(tables: list[Table], column: str, modality: Modality) -> bool:
    """Whether a column holds paths: its first values end as the modality's files do."""
    for table in tables:
        if column in table.media:
            return False
        for row in islice(_rows(table, [column], patient=False), 10):
            value = row[column]
            if value is not None:
                return isinstance(value, (str, Path)) and "\n" not in str(value) and Path(value).suffix.lower() in modality.suffixes
    return False


def _value(value: Any, table: Table, listed: bool) -> Any:
    if isinstance(value, dict) and "bytes" in value:  # a Hugging Face file: its bytes, or where they are
        path, content = value.get("path"), value["bytes"]
        value = Path(path) if content is None and path else content
    elif listed and value:
        value = Path(str(value))
    elif isinstance(value, list):
        value = np.asarray(value)
    return table.folder / value if isinstance(value, Path) and table.folder else value


def _path(table: Table, value: Any) -> Path:
    return (table.folder or Path()) / str(value)


def _name(values: list[Any]) -> str | None:
    """What a row is called: its file, where it has one."""
    for value in values:
        path = value.get("path") if isinstance(value, dict) else value
        if path:
            return str(path)
    return None


def _labels(tables: list[Table], label: str | None, taken: set[str | None]) -> tuple[tuple[str, ...] | None, str | None]:
    """The names of the classes and the column they are in. Not asked for, a column counts only by name and few values."""
    asked = label is not None
    there = {column for table in tables for column in table.columns} - taken
    for column in [label] if label is not None else [name for name in LABELS if name in there]:
        named = next((table.classes[column] for table in tables if column in table.classes), None)
        if named:
            return named, column
        if not all(table.scan for table in tables):
            return None, column  # raw values: numbered when they have all been seen
        counts = _count(tables, column)
        values = [value for value in counts if class_name(value) is not None]
        if any(isinstance(value, float) and not value.is_integer() for value in values):
            if asked:
                return None, column  # a measured quantity
            continue
        if values and (asked or len(values) <= max(20, sum(counts.values()) // 2)):
            return tuple(sort_classes({str(class_name(value)) for value in values})), column
    return None, None


def _count(tables: list[Table], column: str) -> dict[Any, int]:
    counts: dict[Any, int] = {}
    for table in tables:
        with suppress(Broken):  # whoever reads all of it says so
            for row in _rows(table, [column]) if column in table.columns else ():
                value = row[column]
                if isinstance(value, (list, dict, np.ndarray)):
                    raise UserError(
                        f"column {column} of {table.name} holds {type(value).__name__} values; a label or split is one number or word a row"
                    )
                counts[value] = counts.get(value, 0) + 1
    return counts
