"""Files that hold tables: parquet, webdataset, csv, json and CoNLL."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from untaught.core import UserError
from untaught.data.addresses import Address, address_name, file_size, open_address
from untaught.data.conll import COLUMNS, ENDINGS, Conll
from untaught.data.decoding import FAULTS_OF_OURS, ahead, processors
from untaught.data.delimited import OPTIONS, Delimited, check_options
from untaught.data.label_sets import OPTION as LABEL_SEPARATOR
from untaught.data.objects import Objects
from untaught.data.parts import TRAIN, part_of
from untaught.data.table import BYTES, INDEX, ROWS, Table
from untaught.data.webdataset import Columns, Tar, columns_of

KINDS = {
    "parquet": (".parquet",),
    "csv": (".csv", ".tsv", ".csv.gz", ".tsv.gz"),
    "json": (".jsonl", ".json", ".jsonl.gz", ".json.gz"),
    "conll": ENDINGS,
    "webdataset": (".tar",),
}
REMOTE = 16  # remote files opened at once


def kind_of(address: Address) -> str | None:
    name = address_name(address).lower()
    return next((kind for kind, endings in KINDS.items() if name.endswith(endings)), None)


def read_files(
    addresses: Sequence[Address],
    suffixes: Collection[str],
    progress: Callable[[int, int], None] | None = None,
    reading: Mapping[str, str] | None = None,
) -> tuple[dict[str, list[Table]], list[tuple[str, str]]]:
    """Files of one kind -> tables by split (from their file or folder names), and skipped files as (name, reason).

    Unreadable files are skipped if there are several. suffixes: of the modality's files in a webdataset. reading: options for csv and json
    files, see `delimited.OPTIONS`.
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
    allowed = {"csv": tuple(OPTIONS), "json": ("encoding", LABEL_SEPARATOR), "conll": ("encoding",)}.get(kind or "", (LABEL_SEPARATOR,))
    for key, value in reading.items():
        if key not in allowed:
            kinds = "csv, json or conll" if key == "encoding" else "csv"
            raise UserError(f"--columns {key}={value}: {name} is not a {kinds} file; remove the option")
    check_options(reading)


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
    except Exception as error:  # pyarrow, json, gzip, tarfile and storage backends each have their own
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        return UserError(f"{address} cannot be read as {kind_of(address)} ({reason[0]}); it may be truncated or of another type")


def _read_parquet(address: Address) -> Table:
    """Uses pyarrow directly: seven times as fast as a `datasets` stream (measured on CIFAR-10), and the footer has the number of rows."""
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
        while first < len(groups) and start >= groups[first][0]:  # skipped unread
            start -= groups[first][0]
            first += 1
        with open_address(address) as opened, parquet.ParquetFile(opened, pre_buffer=False, buffer_size=BYTES) as file:
            for batch in file.iter_batches(at_once, row_groups=range(first, len(groups)), columns=list(columns)):
                yield from batch.slice(start).to_pylist()
                start = max(0, start - len(batch))

    local = isinstance(address, Path)
    folder = address.parent if local else None
    names = tuple(field.name for field in schema if not (INDEX.fullmatch(field.name) and types.is_integer(field.type)))
    return Table(address_name(address), names, rows, read, classes, sequences, media, folder, local, lambda: rows, size)


def _read_webdataset(address: Address, columns: Columns) -> Table:
    tar = Tar(address)
    if isinstance(address, Path):
        tar.index()  # for a remote tar, this would download everything
    if tar.count() == 0:
        raise UserError(f"{address} cannot be read as webdataset ({tar.broken or 'it holds no samples'}); download it again, or remove it")
    # the count of a remote tar depends on earlier reads, on which no run may depend
    rows, size = (tar.count(), tar.size) if isinstance(address, Path) else (None, 0)
    short = f"is truncated after {rows:,} samples ({tar.broken})" if tar.broken else None
    return Table(
        tar.name, tuple(columns.endings), rows, partial(columns.read, tar), {}, {}, columns.media, None, False, tar.count, size, short
    )


def _read_text(address: Address, suffixes: Collection[str], reading: Mapping[str, str]) -> Table:
    """csv, json and CoNLL, read once to find columns and rows: csv cells are text as written, json values keep their types."""
    csv = kind_of(address) == "csv"
    if kind_of(address) == "conll":
        sentences = Conll(address, reading.get("encoding"))
        return Table(sentences.name, COLUMNS, sentences.rows, sentences.read, note=sentences.note)
    file = Delimited(address, reading, suffixes) if csv else Objects(address, reading.get("encoding"))
    table = Table(address_name(address), file.columns, file.rows, file.read, written=csv, note=file.note)
    table.folder = address.parent if isinstance(address, Path) else None
    return table


def _of_list(kind: Any) -> dict[str, Any]:
    """The Hugging Face feature of a list column's items; empty for other columns."""
    inner = kind.get("feature") if isinstance(kind, dict) else kind[0] if isinstance(kind, list) and len(kind) == 1 else None
    return inner if isinstance(inner, dict) else {}
