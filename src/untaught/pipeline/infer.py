"""Inferring the modality from the data if none is given."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from untaught.config.registry import modality_named, modality_table
from untaught.console import say
from untaught.core import Modality, UserError
from untaught.data.arrays import BUILTINS
from untaught.data.delimited import OPTIONS
from untaught.data.sources import open_source, peek, takes
from untaught.data.whole_rows import takes_whole_rows

FILES = 2000  # files of a folder whose suffixes are counted
MAJORITY = 2 / 3  # share of the files with known suffixes above which a folder belongs to one modality
RECORDS = 8  # records that a modality is tried on


def chosen_modality(name: str | None, data: Any, columns: dict[str, str] | None = None, views: Sequence[str] = ()) -> Modality:
    """The modality of this name, or the only one that can read the data, which is printed. Raises UserError if none or several can.

    views: required views; a composite modality is chosen only if no other offers them.
    """
    if name is not None:
        return modality_named(name)
    able, why = _able(data, columns, views)
    if len(able) > 1 and (offering := [name for name in able if views and set(views) <= modality_named(name).views.keys()]):
        able = offering
    if len(able) != 1:
        what = data if isinstance(data, str | os.PathLike) else "the data"
        found = f"may be {' or '.join(able)}" if able else "can't be recognised"
        raise UserError(f"{what} {found}{why}; give --modality {' or '.join(able or modality_table())}")
    say(f"modality  {able[0]}{why}")
    return modality_named(able[0])


def _able(data: Any, columns: dict[str, str] | None, views: Sequence[str]) -> tuple[list[str], str]:
    """Names of the modalities that can read the data, and the evidence."""
    kinds = {name: modality_named(name) for name in modality_table()}
    plain = {name: kind for name, kind in kinds.items() if not kind.parts}
    made_of_parts = {name: kind for name, kind in kinds.items() if kind.parts and views and set(views) <= kind.views.keys()}
    kinds = made_of_parts or plain
    kinds = {name: kind for name, kind in kinds.items() if {*(columns or {})} <= {*takes(kind), *OPTIONS}} or kinds
    if isinstance(data, str) and data.startswith("builtin:"):
        field = BUILTINS.get(data.removeprefix("builtin:"))
        return [name for name, kind in kinds.items() if field is None or field in kind.fields], ""
    if isinstance(data, str | os.PathLike) and (path := Path(data).expanduser()).exists():
        if path.is_dir() and not any(files for _, _, files in os.walk(path)):
            nouns = " or ".join(kind.noun for kind in plain.values())
            raise UserError(f"the folder {data} has no files; put {nouns} there, or check the path")
        endings = _endings(path)
        counts = {name: sum(endings[suffix] for suffix in kind.suffixes) for name, kind in kinds.items()}
        if total := sum(counts.values()):
            found = {name: count for name, count in counts.items() if count}
            shown = ", ".join(f"{count:,} of {total:,} files for {name}" for name, count in found.items())
            clear = [name for name, count in found.items() if count > MAJORITY * total]
            return clear or list(found), f" ({shown})"
    able: list[str] = []
    faults: dict[str, UserError] = {}
    for name, kind in kinds.items():
        try:
            records = peek(open_source(data, kind, columns=columns), RECORDS)
            kind.plan(records, {})
        except UserError as error:
            faults[name] = error
        else:
            able += [name] if kind.likely(records) else []
    able = [name for name in able if not takes_whole_rows(kinds[name])] or able  # which any table fits
    able = [name for name in able if kinds[name].grouped] or able  # a user and an item, found by their names
    if not able and len({str(fault) for fault in faults.values()}) == 1:  # nothing that depends on the modality
        raise next(iter(faults.values()))
    return able, "" if able else f" (as {'; as '.join(f'{name}: {fault}' for name, fault in faults.items())})"


def _endings(path: Path) -> Counter[str]:
    """Counts of suffixes (".jpg", ".txt.gz"), of the file itself or of a folder's first files."""
    names = [path.name] if path.is_file() else (name for _, _, files in os.walk(path) for name in files)
    counts: Counter[str] = Counter()
    for name in islice(names, FILES):
        suffixes = [suffix.lower() for suffix in Path(name).suffixes]
        counts.update({"".join(suffixes[-length:]) for length in (1, 2) if len(suffixes) >= length})
    return counts
