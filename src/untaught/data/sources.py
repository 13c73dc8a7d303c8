"""Opening the user's data (a path, a name or an object) as records."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from untaught.core import Modality, UserError
from untaught.data import arrays, folders, frames, idx, lists, table_files, tables, texts, ts
from untaught.data.addresses import Address, address_facts, address_name, expand, is_pattern, is_remote
from untaught.data.delimited import OPTIONS
from untaught.data.identity import file_facts
from untaught.data.label_sets import OPTION as LABEL_SEPARATOR
from untaught.data.parts import GROUP, Choice, Part, Source, at_rest, peek
from untaught.data.row_filter import OPTION as WITHOUT
from untaught.data.step_rows import ID, TIME, with_times
from untaught.data.table import Table

__all__ = ["Part", "Source", "open_source", "peek"]

ALLOWED = (
    "a folder of files, a file, a table (parquet, csv, json), .npy, .npz, .zip, .tar, "
    "many files by a pattern (photos/*.png, shard-{000..099}.tar), "
    "an address (s3://...), hf:NAME, builtin:NAME"
)
Progress = Callable[[int, int], None]  # (files opened, files)
METADATA = ("metadata.csv", "metadata.jsonl")  # with a column file_name, as in Hugging Face's imagefolder
CAPTIONS = tuple(
    f"{name}.{kind}{packed}" for name in ("captions", "metadata") for kind in ("csv", "tsv", "jsonl") for packed in ("", ".gz")
)


def takes(modality: Modality) -> list[str]:
    """The names that columns may be given for."""
    return [*modality.fields, *modality.extras, GROUP, WITHOUT, *((ID, TIME) if modality.numbered else ())]


def open_source(
    data: Any,
    modality: Modality,
    *,
    columns: dict[str, str] | None = None,
    label: str | None = None,
    split: str | None = None,
    progress: Progress | None = None,
    encoding: str | None = None,
) -> Source:
    """Opens any data for a modality. columns: field -> column; label, split: their columns.

    encoding: of text files, which is needed to split them into lines. Nothing is downloaded unless named explicitly (hf:NAME, s3://...).
    Raises UserError for data that cannot be opened.
    """
    ours = takes(modality)
    if unknown := set(columns or {}) - {*ours, *OPTIONS}:
        allowed = f"{', '.join(ours)}, and of csv and json {', '.join(OPTIONS)}"
        raise UserError(f"--columns {sorted(unknown)[0]}=... is not a field of {modality.noun}; allowed: {allowed}")
    fields = {key: value for key, value in (columns or {}).items() if key in ours}
    named = {"data": data, "--label": label, "--split": split, **{f"--columns {field}": name for field, name in fields.items()}}
    many = {f"data {i}": name for i, name in enumerate(data)} if isinstance(data, list | tuple) else {}
    for what, name in (named | many).items():
        if isinstance(name, str) and not name.strip():
            raise UserError(f"{what} is empty; give a name, or leave it out")
    choice = Choice(fields, label, split, {key: value for key, value in (columns or {}).items() if key not in fields})
    if isinstance(data, (str, Path)):
        return _open_path(data, modality, choice, progress, encoding)
    if isinstance(data, (list, tuple)) and data and all(isinstance(name, (str, Path)) for name in data):
        if lists.are_documents(data, modality):
            choice.refuse("a list")
            return lists.open_list(data, modality)
        addresses = [address for name in data for address in expand(_plain(name))]
        more = f" and {len(data) - 1} more" if len(data) > 1 else ""
        return _open_files(addresses, modality, choice, f"{next(iter(data))}{more}", progress, encoding, listed=True)
    module = type(data).__module__.split(".")[0]
    field = next(iter(modality.fields))
    if module in ("datasets", "pandas", "polars", "pyarrow"):
        _refuse_reading(choice, f"a {module} table")
    if module == "datasets":
        if type(data).__name__ == "Column":  # data["text"]
            return tables.open_tables({"all": [frames.of_column(data, "the column", field)]}, modality, None, "the column", choice)
        if not all(hasattr(one, "with_format") for one in (data.values() if isinstance(data, dict) else [data])):
            raise UserError(f"got a datasets {type(data).__name__}; give the data set itself, and --columns {field}=NAME")
        opened = frames.of_datasets(data, "the data set")
        return tables.open_tables(opened, modality, _stream_facts(opened), "the data set", choice)
    if module in ("pandas", "polars", "pyarrow"):
        data, columns = with_times(data, modality, choice.columns)
        choice = replace(choice, columns=columns)
        return tables.open_tables({"all": [frames.of_frame(data, "the table", field)]}, modality, None, "the table", choice)
    if modality.several and (found := lists.fields_of(data, modality)):
        choice.refuse("sequences of fields")
        return lists.open_fields(found, modality)
    if arrays.is_array(data) or arrays.is_pair(data):
        return arrays.open_arrays(data, modality, choice)
    if isinstance(data, list) and data and all(map(lists.is_item, data)):
        choice.refuse("a list")
        return lists.open_list(data, modality)
    if lists.is_item(data):  # one PIL image or encoded file
        choice.refuse("one of the " + modality.noun)
        return lists.open_list([data], modality)
    if isinstance(data, dict) and any(arrays.is_array(value) for value in data.values()):
        return arrays.open_arrays(data, modality, choice, where="the arrays")
    raise UserError(
        f"got data of type {type(data).__name__}; allowed: {ALLOWED}, numpy or torch arrays, a datasets, pandas, polars or pyarrow table"
    )


def _open_path(data: str | Path, modality: Modality, choice: Choice, progress: Progress | None, encoding: str | None) -> Source:
    name = _plain(data)
    if name.startswith("builtin:"):
        choice.refuse(name)
        return arrays.open_builtin(name.removeprefix("builtin:"), modality)
    if name.startswith("hf:"):
        return _open_hub(name.removeprefix("hf:"), modality, choice)
    path = Path(name).expanduser()
    if is_remote(name) or (is_pattern(name) and not path.exists()):
        return _open_files(expand(name), modality, choice, name, progress, encoding)
    if not path.exists():
        hint = f"; if it is a Hugging Face data set, write hf:{name}" if name.count("/") <= 1 and not path.suffix else ""
        raise UserError(f"{name} not found; allowed: {ALLOWED}{hint}")
    if path.is_dir():
        return _open_folder(path, modality, choice, progress, encoding)
    facts = file_facts(path)
    if folders.is_archive(path) and not (modality.beside and table_files.kind_of(path)):  # a .tar of pairs is a webdataset
        choice, marker = _beside(choice, modality)
        choice.refuse(name)
        return at_rest(folders.open_archive(path, modality, marker), [facts])
    if modality.lines and texts.is_text(path):
        return at_rest(texts.open_texts([path], modality, str(path), _unit(choice, modality), encoding), [facts])
    if ts.is_ts(path) and folders.is_record(path, modality):
        choice.refuse(name)
        return at_rest(ts.open_ts([path], modality, str(path)), [facts])
    if folders.is_record(path, modality):
        choice.refuse(name)
        return folders.open_files([path], modality, str(path), arranged=False)
    if path.suffix.lower() in (".npy", ".npz"):
        return at_rest(arrays.open_file(path, modality, choice), [facts])
    if idx.is_idx(path):
        return at_rest(idx.open_idx([path], modality, choice, path.name), [facts])
    if table_files.kind_of(path):
        opened, _ = table_files.read_files([path], modality.suffixes, None, choice.reading)
        return at_rest(tables.open_tables(opened, modality, [facts], str(path), choice), [facts])
    raise UserError(f"{path} has an unknown file type; allowed: {ALLOWED}")


def _open_folder(path: Path, modality: Modality, choice: Choice, progress: Progress | None, encoding: str | None) -> Source:
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        from datasets import load_from_disk

        try:
            saved = load_from_disk(str(path))
        except Exception as error:  # pyarrow and json raise their own
            raise UserError(f"{path} cannot be read as a saved data set ({_first_line(error)}); save it again with save_to_disk") from error
        _refuse_reading(choice, "a saved data set")
        files = folders.list_folder(path).members
        facts = [(member.name, member.size, member.stamp) for member in files]
        opened = frames.of_datasets(saved, path.name)
        source = tables.open_tables(opened, modality, [str(path.absolute()), *facts], f"the saved data set {path}", choice)
        source.changed = max([source.changed, *(member.changed for member in files)])
        return source
    listing = folders.list_folder(path)
    members = [path / member.name for member in listing.members]
    if modality.lines:
        files = [member for member in members if member.parent == path and texts.is_text(member)]
        if files and texts.in_parts(files):
            return at_rest(
                texts.open_texts(files, modality, str(path), _unit(choice, modality), encoding), [file_facts(file) for file in files]
            )
    described = [member for member in members if member.name.lower() in (CAPTIONS if modality.beside else METADATA)]
    if described and (source := _open_metadata(described, members, modality, choice, path)) is not None:
        return source
    if listed := [member for member in members if ts.is_ts(member) and folders.is_record(member, modality)]:
        choice.refuse(f"a folder of {modality.noun}")
        return at_rest(ts.open_ts(listed, modality, str(path)), [file_facts(member) for member in listed])
    if found := [member for member in members if idx.is_idx(member)]:
        return at_rest(idx.open_idx(found, modality, choice, str(path)), [file_facts(member) for member in found])
    plain, marker = _beside(choice, modality)
    source = folders.open_folder(path, modality, listing, marker)
    if source is not None:
        plain.refuse(f"a folder of {modality.noun}")
        return source
    known = [member for member in members if table_files.kind_of(member)]
    if len(known) == 1 and folders.is_archive(known[0]):
        plain.refuse(str(known[0]))
        return folders.open_archive(known[0], modality, marker)
    if not known:
        raise folders.nothing(modality, path, len(members), [(member.name, "") for member in listing.members] + listing.skipped)
    source = _open_files(members, modality, choice, str(path), progress, encoding)
    source.skipped += listing.skipped
    return source


def _open_metadata(found: list[Path], members: list[Path], modality: Modality, choice: Choice, where: Path) -> Source | None:
    """Files listed by a metadata table, as in Hugging Face's image folders; None if it has no labels and no option refers to it."""
    opened, skipped = table_files.read_files(found, modality.suffixes, None, choice.reading)
    listed = [table for part in opened.values() for table in part]
    field = next(iter(modality.fields))
    by_name = all("file_name" in table.columns for table in listed)
    if not modality.beside and (len(modality.fields) > 1 or not by_name):
        return None
    chosen = replace(choice, columns=({field: "file_name"} if by_name else {}) | choice.columns)
    facts = [file_facts(path) for path in found]
    source = tables.open_tables(opened, modality, facts, f"{where}, by {found[0].name}", chosen)
    if source.classes is None and not (choice.label or choice.split or choice.columns or modality.beside):
        return None
    named = {Path(os.path.normpath(record[field])) for part in source.parts.values() for record in part if isinstance(record[field], Path)}
    beside = [member for member in members if folders.is_record(member, modality) and Path(os.path.normpath(member)) not in named]
    source.skipped += skipped + [(str(member.relative_to(where)), f"is not listed in {found[0].name}") for member in beside]
    return at_rest(source, facts)


def _open_files(
    found: Sequence[Address],
    modality: Modality,
    choice: Choice,
    where: str,
    progress: Progress | None,
    encoding: str | None,
    listed: bool = False,
) -> Source:
    """Files with one record each, text files, or tables or shards of one kind. listed: from a list, whose order is kept."""
    found, unlisted = folders.unfold(found)
    source = _open_kind(found, modality, choice, where, progress, encoding, listed)
    source.skipped += unlisted
    return source


def _open_kind(
    found: Sequence[Address],
    modality: Modality,
    choice: Choice,
    where: str,
    progress: Progress | None,
    encoding: str | None,
    listed: bool,
) -> Source:
    if modality.lines and all(isinstance(address, Path) and texts.is_text(address) for address in found):
        paths = [address for address in found if isinstance(address, Path)]
        opened = texts.open_texts(paths, modality, where, _unit(choice, modality), encoding)
        return at_rest(opened, [file_facts(path) for path in paths])
    records = [address for address in found if isinstance(address, Path) and folders.is_record(address, modality)]
    if records and all(map(ts.is_ts, records)):
        choice.refuse("series files")
        return at_rest(ts.open_ts(records, modality, where), [file_facts(path) for path in records])
    if records:
        choice.refuse("files of one record each")
        source = folders.open_files(records, modality, where, arranged=not listed)
        source.skipped += [(str(address), "is not a file of " + modality.noun) for address in found if address not in set(records)]
        return source
    kinds = {address: table_files.kind_of(address) for address in found}
    kind = next((kind for kind in table_files.KINDS if kind in kinds.values()), None)
    if list(kinds.values()).count("webdataset") > 1:  # tables next to several tars describe them
        kind = "webdataset"
    if kind is None:
        first = address_name(found[0]) if found else "nothing"
        raise UserError(
            f"{where} contains {first}, which is not a file of {modality.noun}; allowed: {', '.join(sorted(modality.suffixes))}, parquet, "
            "webdataset (.tar), csv or json"
        )
    chosen = [address for address in found if kinds[address] == kind]
    opened, skipped = table_files.read_files(chosen, modality.suffixes, progress, choice.reading)
    noun = "shard" if kind == "webdataset" else "file"
    note = f"{len(chosen)} {kind} {noun}{'s' if len(chosen) > 1 else ''} under {where}"
    facts = [address_facts(address) for address in chosen]
    local = [file_facts(address) for address in chosen if isinstance(address, Path)]
    source = at_rest(tables.open_tables(opened, modality, facts, note, choice), local)
    source.skipped += skipped + [(address_name(address), f"not one of the {kind} {noun}s") for address in found if kinds[address] != kind]
    return source


def _beside(choice: Choice, modality: Modality) -> tuple[Choice, str | None]:
    """The choice without the column of the paired target, and that column (a suffix or folder of target files)."""
    if modality.paired is None:
        return choice, None
    name = modality.paired.name
    return replace(choice, columns={key: value for key, value in choice.columns.items() if key != name}), choice.columns.get(name)


def _unit(choice: Choice, modality: Modality) -> str | None:
    """The record unit of text files, from --columns text=line."""
    Choice({}, choice.label, choice.split, choice.reading).refuse("a text file")
    return choice.columns.get(next(iter(modality.fields)))


def _plain(name: str | Path) -> str:
    """file:///photos is /photos."""
    return str(name).removeprefix("file://")


def _open_hub(name: str, modality: Modality, choice: Choice) -> Source:
    """owner/name or owner/name:config, streamed, so that the store is the only local copy."""
    from datasets import load_dataset

    repository, _, config = name.partition(":")
    try:
        data: Any = load_dataset(repository, config or None, streaming=True)
        from huggingface_hub import HfApi

        version = HfApi().dataset_info(repository).sha
        opened = frames.of_datasets(data, name)
    except UserError:
        raise
    except Exception as error:  # no network, unknown name, disallowed script: each has its own class
        advice = "check the name and the network, or give a folder written by save_to_disk"
        raise UserError(f"hf:{name} cannot be opened ({_first_line(error)}); {advice}") from error
    for members, dataset in zip(opened.values(), data.values(), strict=False):
        known = (dataset.info.splits or {}).get(str(dataset.split))
        if len(members) == 1 and known is not None:
            members[0].rows = known.num_examples
    _refuse_reading(choice, f"hf:{name}")
    return tables.open_tables(opened, modality, ["hf", name, version], f"hf:{name}", choice)


def _stream_facts(opened: dict[str, list[Table]]) -> list[object] | None:
    """A new identifier if there is a stream, whose contents can't be fingerprinted; None if contents are hashed."""
    from uuid import uuid4

    return [uuid4().hex] if any(table.rows is None for part in opened.values() for table in part) else None


def _refuse_reading(choice: Choice, where: str) -> None:
    """Raises UserError for reading options (separator, header ...), which apply only to text files."""
    Choice(reading={key: value for key, value in choice.reading.items() if key != LABEL_SEPARATOR}).refuse(where)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
