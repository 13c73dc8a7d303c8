"""Lists from Python, one record per item: texts, images and arrays. Lists of paths are handled by folders, tables and shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from untaught.core import Modality, Record, UserError
from untaught.data import table_files, texts
from untaught.data.addresses import is_remote
from untaught.data.arrays import is_tensor
from untaught.data.folders import is_archive
from untaught.data.identity import content_hash
from untaught.data.parts import Part, Source


def are_documents(names: Sequence[str | Path], modality: Modality) -> bool:
    """Whether strings are documents: none is an existing file or looks like a file name. Raises UserError for a mixture."""
    if ".txt" not in modality.suffixes:
        return False
    files = [_names_a_file(name) for name in names]
    if any(files) and not all(files):
        own = str(names[files.index(False)])
        raise UserError(f"the list mixes files and other text ({own[:40]!r} is not a file); give only existing files or only documents")
    return not any(files)


def _names_a_file(name: str | Path) -> bool:
    if isinstance(name, Path):
        return True
    try:
        there = Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL character, an unknown ~user
        return False
    single = "\n" not in name and " " not in name
    called = single and (
        texts.is_text(Path(name)) or table_files.kind_of(Path(name)) is not None or is_archive(Path(name)) or is_remote(name)
    )
    return there or called


def is_item(value: Any) -> bool:
    """Whether a value is one record: encoded bytes, a PIL image, an array or a tensor of any shape."""
    return isinstance(value, bytes) or hasattr(value, "tobytes") or is_tensor(value)


def open_list(items: Sequence[Any], modality: Modality) -> Source:
    """A source whose items are each a record's only field."""
    if len(modality.fields) > 1:
        raise UserError(f"a list alone does not determine the {' and the '.join(modality.fields)}; give a dictionary of arrays, or a table")
    field = next(iter(modality.fields))

    def at(i: int) -> Record:
        return {field: items[i], "label": None, "name": f"item {i}"}

    part = Part(len(items), lambda: (at(i) for i in range(len(items))), at)
    return Source(f"{len(items):,} {modality.noun} from a list without labels", {"all": part}, None, content_hash(["list", *items]))


def fields_of(data: Any, modality: Modality) -> dict[str, Sequence[Any]] | None:
    """The sequences of a dictionary by field, or of a tuple in the order of the fields; None for anything else."""
    if isinstance(data, tuple) and len(data) == len(modality.fields):
        data = dict(zip(modality.fields, data, strict=True))
    if not isinstance(data, dict) or not set(modality.fields) <= data.keys() <= {*modality.fields, "label"}:
        return None
    return None if any(isinstance(value, str | bytes) or not hasattr(value, "__len__") for value in data.values()) else data


def open_fields(data: dict[str, Sequence[Any]], modality: Modality) -> Source:
    """A source from sequences of equal length by field: None for a missing item, a list for several. "label": class indices or names."""
    rows = {field: len(values) for field, values in data.items()}
    if len(set(rows.values())) > 1:
        raise UserError(f"got {', '.join(f'{count:,} of {field}' for field, count in rows.items())}; give as many of each, None if missing")
    count = next(iter(rows.values()))
    if not count:
        raise UserError("the sequences are empty; give at least one item")
    tensor = any(map(is_tensor, data.values()))

    def at(i: int) -> Record:
        record = {field: data[field][i] for field in modality.fields}
        label = data["label"][i] if "label" in data else None
        return {**record, "label": label, "name": f"item {i}", **({"tensor": True} if tensor else {})}

    part = Part(count, lambda: (at(i) for i in range(count)), at)
    note = " and ".join(modality.fields)
    return Source(
        f"{count:,} {modality.noun} from sequences of {note}", {"all": part}, None, content_hash([["fields", *data], *data.values()])
    )
