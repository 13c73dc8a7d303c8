"""Rows with named columns: parquet, webdataset, csv and json files, Hugging Face `datasets`, pandas, polars and pyarrow tables."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from untaught.core import Modality, Record, UserError
from untaught.data.addresses import Address, address_name, file_size, open_address
from untaught.data.conll import COLUMNS, ENDINGS, Conll
from untaught.data.decoding import FAULTS_OF_OURS, ahead, processors
from untaught.data.delimited import TOLD, Delimited, check_told
from untaught.data.identity import content_hash, file_facts, fingerprint
from untaught.data.labels import Naming, class_name, is_missing, name_labels
from untaught.data.objects import Objects
from untaught.data.parts import PARTS, TRAIN, Broken, Choice, Part, Shard, Source, part_of, sort_parts
from untaught.data.webdataset import Columns, Tar, columns_of

KINDS = {
    "parquet": (".parquet",),
    "csv": (".csv", ".tsv", ".csv.gz", ".tsv.gz"),
    "json": (".jsonl", ".json", ".jsonl.gz", ".json.gz"),
    "conll": ENDINGS,
    "webdataset": (".tar",),
}
LABELS = ("label", "labels", "class", "target", "fine_label", "cls")
LISTED = ("file_name", "file", "filename", "path")  # columns that usually hold the paths of a listing
MANY = 40  # columns that a message names
ROWS, BYTES = 256, 4 << 20  # read at once, at most: bounded memory
REMOTE = 16  # remote files opened at once
FEW = 5  # rows that may all differ
COMPARED = 1000  # rows in which a label column is compared with the others
PAUSES = (0.1, 1.0, 5.0)  # seconds before a shard that could not be read is tried again


@dataclass
class Table:
    name: str  # for messages and the names of rows
    columns: tuple[str, ...]
    rows: int | None
    read: Callable[..., Iterator[dict[str, Any]]]  # (columns): these of every row; (columns, start): of a shard, from a row on
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)  # the value names of columns that have some
    sequences: dict[str, tuple[str, ...]] = field(default_factory=dict)  # the value names of columns of lists of numbers that have some
    media: tuple[str, ...] = ()  # columns that hold whole encoded files
    folder: Path | None = None  # where relative paths start
    scan: bool = True  # False: reading a whole column is not cheap (a remote stream)
    count: Callable[[], int | None] | None = None  # of a shard, a file that can be entered at any row: how many, once that is known
    bytes: int = 0  # of a shard
    short: str | None = None  # why a shard's last rows are missing
    written: bool = False  # whether cells are text, whatever they hold
    said: str = ""  # how the file was read, where its name does not say so
    joined: str = ""  # a column of lists, each of a row's numbered columns


def kind_of(address: Address) -> str | None:
    name = address_name(address).lower()
    return next((kind for kind, endings in KINDS.items() if name.endswith(endings)), None)


def open_tables(
    tables: dict[str, list[Table]],
    modality: Modality,
    facts: Sequence[object] | None,
    where: str,
    choice: Choice,
) -> Source:
    """Parts of tables -> records of the modality's fields. The choice of every column is said in `what`.

    facts: what tells the tables from others; None: the contents of the columns that are read.
    """
    tables = sort_parts(tables)
    if modality.numbered and not choice.columns:
        tables = {part: [_joined(table, modality, {choice.label, choice.split}) for table in members] for part, members in tables.items()}
    everything = [table for part in tables.values() for table in part]
    first = everything[0]
    label, split = (_told(asked, option, first, where) for asked, option in ((choice.label, "label"), (choice.split, "split")))
    chosen = {name: _choose(name, first, modality, choice.columns) for name in modality.fields}
    for name, column in chosen.items():
        if other := next((one for one, same in chosen.items() if same == column and one != name), None):
            raise UserError(f"column {column} of {where} would be the {other} and the {name}; say which is with --columns {name}=NAME")
    for table in everything:  # a test part may come without labels
        if missing := {*chosen.values(), *([split] if split else [])} - set(table.columns):
            raise UserError(f"{table.name} has no column {sorted(missing)[0]}, which {first.name} has; give files of one kind")
    listings = {column for column in chosen.values() if _lists_files(everything, column, modality)}
    stamps: dict[Path, tuple[str, int, int]] = {}  # of the files that are listed, as they are now
    naming, label = _labels(everything, label, {*chosen.values(), split})
    for column in (*chosen.values(), label, split):
        if column is not None and any(table.columns.count(column) > 1 for table in everything):
            raise UserError(f"column {column} is there twice in {where}; give each a name of its own")
    names = naming.classes if naming else None

    def build(members: list[Table], within: dict[str, object] | None = None) -> Part:
        within = within or {}
        wanted: list[str] = list(dict.fromkeys([*chosen.values(), *([label] if label else []), *within]))

        def records(table: Table, start: int = 0) -> Iterator[Record]:
            number = _number_of(table, label, naming)
            for i, row in enumerate(_rows(table, [column for column in wanted if column in table.columns], start), start):
                if any(row[column] != value for column, value in within.items()):
                    continue
                record: Record = {
                    name: _value(_named(row[column], table, column), table, column in listings) for name, column in chosen.items()
                }
                if label is not None:
                    record["label"] = number(row.get(label))
                files = [row[column] for column in chosen.values() if column in listings or column in table.media]
                record["name"] = _name(files) or f"{table.name} row {i}"
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
        for value, count in _count(everything, split).items():
            if isinstance(value, Exception):
                raise UserError(f"{where} has a row that belongs to no part: {value}")
            part = PARTS.get(str(value).strip().lower())
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
    stamps |= {path: file_facts(path) for table, value in listed if (path := _linked(table, value))}
    if facts is None:
        facts = [content_hash(_content(tables, [*chosen.values(), *filter(None, (label, split))]))]
    told = [sorted(choice.reading.items())] if choice.reading else []
    facts = [*facts, *stamps.values(), *told]  # their changes count as well
    said = ", ".join(f"{name} from column {column}" + (" (paths)" if column in listings else "") for name, column in chosen.items())
    said += f", label from column {label}" if label else ", without labels"
    said += f" ({naming.said})" if naming and naming.said else ""
    said += "".join(f"; {table.name}: {table.said}" for table in everything if table.said)
    rows = None if any(part.rows is None for part in parts.values()) else sum(part.rows or 0 for part in parts.values())
    sizes = "" if rows is None or set(parts) == {"all"} else " (" + ", ".join(f"{name} {part.rows:,}" for name, part in parts.items()) + ")"
    if rows == 0:
        raise UserError(f"{where} has no rows; give a table with at least one")
    what = f"{f'{rows:,}' if rows is not None else 'a stream of'} {modality.noun} in {where}{sizes}: {said}"
    source = Source(what, parts, names, fingerprint([*facts, chosen, label, split, names, [table.rows for table in everything]]))
    if label is not None and naming is not None:
        source.warnings += _doubts(everything, label, naming)
        source.warnings += [f"the label column {label} is also read as the {name}" for name, column in chosen.items() if column == label]
    return source


def read_files(
    addresses: Sequence[Address],
    suffixes: Collection[str],
    progress: Callable[[int, int], None] | None = None,
    reading: Mapping[str, str] | None = None,
) -> tuple[dict[str, list[Table]], list[tuple[str, str]]]:
    """Files of one kind -> tables by part, by the words in their names or folders; and what is left out (name, reason).

    Of several files, those that can't be opened are left out. `suffixes`: of files that a webdataset's images (sounds ...) are.
    `reading`: how csv and json files are read, as `delimited.TOLD` names it.
    """
    reading = reading or {}
    _check_reading(reading, kind_of(addresses[0]), address_name(addresses[0]))
    tables: dict[str, list[Table]] = {}
    skipped: list[tuple[str, str]] = []
    columns = columns_of(addresses, suffixes) if kind_of(addresses[0]) == "webdataset" else Columns()
    folders = {str(address).rpartition("/")[0] for address in addresses}
    workers = processors() if isinstance(addresses[0], Path) else REMOTE
    opened = ahead(lambda address: _attempt(address, columns, suffixes, reading), addresses, workers)
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
        part = part_of(name) or (part_of(folder) if len(folders) > 1 else None) if len(addresses) > 1 else None
        tables.setdefault(part or "all", []).append(table)
    if not tables:
        raise UserError(f"none of the {len(addresses)} files can be read ({skipped[0][1]})")
    if "all" in tables and len(tables) > 1:  # "extra.parquet" beside "train.parquet"
        tables[TRAIN] = tables.get(TRAIN, []) + tables.pop("all")
    return tables, skipped


def _check_reading(reading: Mapping[str, str], kind: str | None, name: str) -> None:
    allowed = {"csv": tuple(TOLD), "json": ("encoding",), "conll": ("encoding",)}.get(kind or "", ())
    for key, value in reading.items():
        if key not in allowed:
            kinds = "csv, json or conll" if key == "encoding" else "csv"
            raise UserError(f"--columns {key}={value} came, but {name} is no {kinds} file; leave it out")
    check_told(reading)


def _attempt(address: Address, columns: Columns, suffixes: Collection[str], reading: Mapping[str, str]) -> Table | UserError:
    try:
        if file_size(address) == 0:
            raise UserError(f"{address} is empty (0 bytes); give a table with rows")
        kind = kind_of(address)
        if kind == "webdataset":
            return _read_webdataset(address, columns)
        return _read_parquet(address) if kind == "parquet" else _read_text(address, suffixes, reading)
    except UserError as error:
        return error
    except FAULTS_OF_OURS:
        raise
    except Exception as error:  # pyarrow, json, gzip, tarfile and every kind of store each have their own
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
    sequences = {name: tuple(inner["names"]) for name, kind in described.items() if (inner := _of_list(kind)).get("_type") == "ClassLabel"}
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
    return Table(address_name(address), tuple(schema.names), rows, read, classes, sequences, media, folder, local, lambda: rows, size)


def _read_webdataset(address: Address, columns: Columns) -> Table:
    tar = Tar(address)
    if isinstance(address, Path):
        tar.index()  # of a remote one it would fetch everything
    if tar.count() == 0:
        raise UserError(f"{address} cannot be read as webdataset ({tar.broken or 'it holds no samples'}); fetch it again, or remove it")
    # what is known of a remote one depends on what was read before, and no run may depend on that
    rows, size = (tar.count(), tar.size) if isinstance(address, Path) else (None, 0)
    short = f"breaks off after {rows:,} samples ({tar.broken})" if tar.broken else None
    return Table(
        tar.name, tuple(columns.endings), rows, partial(columns.read, tar), {}, {}, columns.media, None, False, tar.count, size, short
    )


def _read_text(address: Address, suffixes: Collection[str], reading: Mapping[str, str]) -> Table:
    """csv and json, read once to know their columns and rows: cells of csv are text as written, values of json keep their types."""
    csv = kind_of(address) == "csv"
    if kind_of(address) == "conll":
        sentences = Conll(address, reading.get("encoding"))
        return Table(sentences.name, COLUMNS, sentences.rows, sentences.read, said=sentences.said)
    file = Delimited(address, reading, suffixes) if csv else Objects(address, reading.get("encoding"))
    table = Table(address_name(address), file.columns, file.rows, file.read, written=csv, said=file.said)
    table.folder = address.parent if isinstance(address, Path) else None
    return table


def of_dataset(dataset: Any, name: str) -> Table:
    """A `datasets.Dataset` or `IterableDataset`. Images and sounds stay encoded: decoding is the modality's."""
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
    """A dataset, or a dictionary of them by split. Splits that are no known part ("unsupervised") join the training rows."""
    if not isinstance(data, dict):
        return {"all": [of_dataset(data, name)]}
    tables: dict[str, list[Table]] = {}
    for split, dataset in data.items():
        tables.setdefault(part_of(str(split)) or TRAIN, []).append(of_dataset(dataset, f"{name} {split}"))
    return tables


def of_frame(frame: Any, name: str, field: str) -> Table:
    """A table of pandas, polars or pyarrow, read in slices, or one column of such, which holds the field. None of the three is imported."""
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
        raise UserError(f"a {type(frame).__module__.split('.')[0]} {type(frame).__name__} came; give the table itself")
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

    return Table(name, names, len(frame), read)


def of_column(values: Sequence[Any], name: str, field: str) -> Table:
    """Values one by one, as the field."""
    return Table(name, (field,), len(values), lambda wanted: ({field: values[i]} for i in range(len(values))))


def _content(tables: dict[str, list[Table]], columns: list[str]) -> Iterator[object]:
    """Every value of these columns, part by part, to be hashed."""
    for part, members in tables.items():
        for table in members:
            there = [column for column in columns if column in table.columns]
            yield from (part, there)
            for row in table.read(there):
                yield from row.values()


def _find(name: str, table: Table) -> str | None:
    """The column of this name; else the one that differs from it by case and blanks alone."""
    if name in table.columns:
        return name
    alike = {column for column in table.columns if column.strip().lower() == name.strip().lower()}
    return alike.pop() if len(alike) == 1 else None


def _told(asked: str | None, option: str, table: Table, where: str) -> str | None:
    if asked is None or (found := _find(asked, table)) is not None:
        return None if asked is None else found
    raise UserError(f"no column {asked} in {where}; its columns are {_list(table)}: choose with --{option} NAME")


def _choose(name: str, table: Table, modality: Modality, columns: dict[str, str]) -> str:
    """The column that holds a field: as told, else by its usual names, else the only one that holds files."""
    if name in columns:
        if found := _find(columns[name], table):
            return found
        raise UserError(f"no column {columns[name]} in {table.name}; its columns are {_list(table)}: choose with --columns {name}=NAME")
    for usual in (name, *modality.fields[name]):
        if found := _find(usual, table):
            return found
    if len(table.media) == 1:
        return table.media[0]
    if table.joined:
        return table.joined
    if len(modality.fields) == 1 and modality.suffixes:
        for usual in LISTED:
            if (found := _find(usual, table)) and _lists_files([table], found, modality):
                return found
        if table.scan and len(listing := [column for column in table.columns if _lists_files([table], column, modality)]) == 1:
            return listing[0]
    raise UserError(f"no column of {table.name} is known to hold the {name}: they are {_list(table)}; say which with --columns {name}=NAME")


def _joined(table: Table, modality: Modality, taken: set[str | None]) -> Table:
    """The table with its numbered columns (t0, t1, ...) as one column of lists, if it has one such run and no column for the field."""
    (name, usual), *_ = modality.fields.items()
    if any(_find(known, table) for known in (name, *usual)):
        return table
    groups: dict[str, list[tuple[int, str]]] = {}
    for column in table.columns:
        if column not in taken and (found := re.fullmatch(r"(.*?)(\d{1,9})", column.strip())):
            groups.setdefault(found[1], []).append((int(found[2]), column))
    runs = [sorted(group) for group in groups.values() if len(group) > 1]
    if len(runs) != 1 or [number for number, _ in runs[0]] not in (list(range(len(runs[0]))), list(range(1, len(runs[0]) + 1))):
        return table
    steps = [column for _, column in runs[0]]
    joined = f"{steps[0]} to {steps[-1]}"

    def read(columns: Sequence[str], *start: int) -> Iterator[dict[str, Any]]:
        asked = [column for column in columns if column != joined]
        for row in table.read([*asked, *steps] if joined in columns else asked, *start):
            own = {column: row[column] for column in asked}
            yield {**own, joined: [row[step] for step in steps]} if joined in columns else own

    rest = tuple(column for column in table.columns if column not in set(steps))
    return replace(table, columns=(*rest, joined), read=read, joined=joined)


def _list(table: Table) -> str:
    more = len(table.columns) - MANY
    return ", ".join(table.columns[:MANY]) + (f" and {more} more" if more > 0 else "")


def _lists_files(tables: list[Table], column: str, modality: Modality) -> bool:
    """Whether a column holds paths: its first values end as the modality's files do, or are Hugging Face files without their bytes."""
    for table in tables:
        if column in table.media and not table.scan:
            return False
        for row in islice(_rows(table, [column], patient=False), 10):
            value = row[column]
            if isinstance(value, dict) and "bytes" in value:
                return value["bytes"] is None and bool(value.get("path"))
            if value is not None and not isinstance(value, Exception):
                return isinstance(value, (str, Path)) and "\n" not in str(value) and Path(value).suffix.lower() in modality.suffixes
    return False


def _value(value: Any, table: Table, listed: bool) -> Any:
    if isinstance(value, dict) and "bytes" in value:  # a Hugging Face file: its bytes, or where they are
        path, content = value.get("path"), value["bytes"]
        value = Path(path) if content is None and path else content
    elif isinstance(value, float) and value != value:  # pandas' word for a missing text
        value = None
    elif listed and value and not isinstance(value, Exception):
        value = Path(str(value))
    elif isinstance(value, list):
        value = np.asarray(value)
    return table.folder / value if isinstance(value, Path) and table.folder else value


def _of_list(kind: Any) -> dict[str, Any]:
    """How a Hugging Face table describes what a column of lists holds; empty for other columns."""
    inner = kind.get("feature") if isinstance(kind, dict) else kind[0] if isinstance(kind, list) and len(kind) == 1 else None
    return inner if isinstance(inner, dict) else {}


def _named(value: Any, table: Table, column: str) -> Any:
    """A list of numbers that have names as the names."""
    names = table.sequences.get(column)
    if not names or not isinstance(value, list):
        return value
    if wrong := [number for number in value if not isinstance(number, int) or not 0 <= number < len(names)]:
        return ValueError(f"its {column} holds {wrong[0]}; numbers from 0 to {len(names) - 1} have names")
    return [names[number] for number in value]


def _linked(table: Table, value: Any) -> Path | None:
    """The file that a value of a listing is."""
    found = _value(value, table, listed=True)
    return found if isinstance(found, Path) else None


def _name(values: list[Any]) -> str | None:
    """What a row is called: its file, where it has one."""
    for value in values:
        path = value.get("path") if isinstance(value, dict) else value
        if path and not isinstance(path, Exception):
            return str(path)
    return None


def _number_of(table: Table, label: str | None, naming: Naming | None) -> Callable[[Any], Any]:
    """How a raw label of this table becomes its number; raw values stay where nobody has seen them all."""
    own = table.classes.get(label or "")
    if naming is None:
        return lambda value: None if isinstance(value, Exception) else value
    if own and own == naming.classes:  # already numbers of these names
        return lambda value: None if is_missing(value) or isinstance(value, Exception) else value
    if own:  # numbers of names that stand in another order
        return lambda value: naming(own[value]) if isinstance(value, int) and 0 <= value < len(own) else None
    return naming


def _labels(tables: list[Table], label: str | None, taken: set[str | None]) -> tuple[Naming | None, str | None]:
    """What the labels are and the column they are in. Not asked for, a column counts only by name and few values."""
    asked = label is not None
    there = {column for table in tables for column in table.columns} - taken
    known = {column.strip().lower(): column for column in sorted(there)}
    for column in [label] if label is not None else [known[name] for name in LABELS if name in known]:
        holders = [table for table in tables if column in table.columns]
        named = [table.classes[column] for table in holders if column in table.classes]
        others = [table for table in holders if column not in table.classes]
        if others and not all(table.scan for table in tables):
            return None, column  # raw values: numbered when they have all been seen
        counts = Counter(_count(others, column))
        if len(set(named)) == 1 and {class_name(value) for value in counts} <= {None, *named[0]}:
            return Naming(named[0], {name: number for number, name in enumerate(named[0])}), column
        counts.update({name: 0 for names in named for name in names})
        naming = name_labels(counts, all(table.written for table in holders))
        if naming is None or (naming.classes is None and not asked):  # nothing, or a measured quantity
            continue
        if asked or named or naming.classes is None or len(naming.classes) <= max(20, sum(counts.values()) // 2):
            return naming, column
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


def _doubts(tables: list[Table], label: str, naming: Naming) -> list[str]:
    """What makes a label column look like no label: another column says the same, or no two rows have the same."""
    if naming.classes is None or not all(table.scan for table in tables):
        return []
    table = next(table for table in tables if label in table.columns)
    others = [column for column in table.columns if column not in (label, *table.media)]
    seen: dict[str, list[str | None]] = {column: [] for column in (label, *others)}
    with suppress(Broken):
        for row in islice(_rows(table, list(seen), patient=False), COMPARED):
            for column, values in seen.items():
                values.append(class_name(row[column]) if isinstance(row[column], (str, int, float)) else None)
    own = seen[label]
    if len(set(own)) < 2:
        return []
    said = [f"the label column {label} equals column {column}: is it a label?" for column in others if seen[column] == own]
    if len(own) > FEW and len(set(own)) == len(own) and len(naming.classes) > sum(one.rows or 0 for one in tables) / 2:
        said.append(f"the label column {label} has another value in every row, as an id has: scores need several rows of a class")
    return said
