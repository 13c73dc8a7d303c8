"""A list from Python: a record an item, in its order. Paths go to folders, tables and shards; here are texts, images and arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from untaught.core import Modality, Record, UserError
from untaught.data import tables, texts
from untaught.data.addresses import is_remote
from untaught.data.arrays import is_tensor
from untaught.data.folders import is_archive
from untaught.data.identity import content_hash
from untaught.data.parts import Part, Source


def are_documents(names: Sequence[str | Path], modality: Modality) -> bool:
    """Whether strings are texts themselves: none of them is there as a file, or is called as one. Raises UserError where some are."""
    if ".txt" not in modality.suffixes:
        return False
    files = [_names_a_file(name) for name in names]
    if any(files) and not all(files):
        own = str(names[files.index(False)])
        raise UserError(f"a list of files and of other text came ({own[:40]!r} is no file); give files that are there, or documents alone")
    return not any(files)


def _names_a_file(name: str | Path) -> bool:
    if isinstance(name, Path):
        return True
    try:
        there = Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL character, a ~ of nobody
        return False
    single = "\n" not in name and " " not in name
    called = single and (texts.is_text(Path(name)) or tables.kind_of(Path(name)) is not None or is_archive(Path(name)) or is_remote(name))
    return there or called


def is_item(value: Any) -> bool:
    """Whether a value holds one record whose content can be told: encoded bytes, a PIL image, an array or a tensor of any shape."""
    return isinstance(value, bytes) or hasattr(value, "tobytes") or is_tensor(value)


def open_list(items: Sequence[Any], modality: Modality) -> Source:
    """Items of which each is a record's only field."""
    if len(modality.fields) > 1:
        raise UserError(
            f"a list alone does not say which is {' and which is '.join(modality.fields)}; give a dictionary of arrays, or a table"
        )
    field = next(iter(modality.fields))

    def at(i: int) -> Record:
        return {field: items[i], "label": None, "name": f"item {i}"}

    part = Part(len(items), lambda: (at(i) for i in range(len(items))), at)
    return Source(f"{len(items):,} {modality.noun} from a list without labels", {"all": part}, None, content_hash(["list", *items]))
