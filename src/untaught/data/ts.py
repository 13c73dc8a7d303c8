"""`.ts` files of the UCR and UEA archives: a header of @ lines, then a series a line, channel:channel:label, a ? for a missing value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from untaught.core import Modality, Record, UserError
from untaught.data.identity import file_facts, fingerprint
from untaught.data.labels import name_labels
from untaught.data.parts import Part, Source, part_of, sort_parts


def is_ts(path: object) -> bool:
    return isinstance(path, Path) and path.name.lower().endswith(".ts")


def open_ts(paths: Sequence[Path], modality: Modality, where: str) -> Source:
    """The series of the files; X_TRAIN.ts and X_TEST.ts are parts. Raises UserError for what can't be read."""
    field = next(iter(modality.fields))
    read = {path: _read(path) for path in paths}
    named = {path: part_of(path.stem) for path in paths}
    parts: dict[str, list[tuple[list[np.ndarray], str | None, str]]] = {}
    for path, rows in read.items():
        name = (named[path] if len(paths) > 1 else None) or ("all" if len(paths) == 1 else "train")
        parts.setdefault(name, []).extend((values, label, f"{path.name} row {i}") for i, (values, label) in enumerate(rows))
    naming = name_labels(Counter(label for rows in parts.values() for _, label, _ in rows), written=True)
    if not any(parts.values()):
        raise UserError(f"{where} holds no series; give a file with some")

    def part(rows: list[tuple[list[np.ndarray], str | None, str]]) -> Part:
        def at(i: int) -> Record:
            channels, label, name = rows[i]
            return {field: _stacked(channels), "label": None if naming is None else naming(label), "name": name}

        return Part(len(rows), lambda: (at(i) for i in range(len(rows))), at)

    count = sum(map(len, parts.values()))
    classes = naming.classes if naming else None
    said = f" with {len(classes)} classes" if classes else " with a measured label" if naming else " without labels"
    what = f"{count:,} {modality.noun} from {where}{said}"
    return Source(
        what, {name: part(rows) for name, rows in sort_parts(parts).items()}, classes, fingerprint([file_facts(path) for path in paths])
    )


def _read(path: Path) -> list[tuple[list[np.ndarray], str | None]]:
    """Each series' channels, which may differ in length, and its label as text."""
    labelled, begun, rows = True, False, []
    declared: list[str] = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read as a .ts file: {error}") from error
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if not begun:
            words = text.lower().split()
            if words[0] in ("@classlabel", "@targetlabel"):
                labelled = len(words) > 1 and words[1] == "true"
                declared = text.split()[2:] if words[0] == "@classlabel" else []
            elif words[0] == "@timestamps" and words[1:2] == ["true"]:
                raise UserError(f"{path} has time stamps, which are not read; resample it to equal steps, or leave them out")
            begun = words[0] == "@data"
            continue
        parts = text.split(":")
        label = parts.pop().strip() if labelled else None
        try:
            rows.append(([np.array(part.replace("?", "nan").split(","), np.float64) for part in parts], label))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}; numbers with commas between them are needed, ? for a missing one") from error
        if not parts:
            raise UserError(f"{path}, line {number} has no series, only a label; its header says @classLabel true")
        if declared and label not in (*declared, "", "?"):
            few = ", ".join(declared[:5]) + (", ..." if len(declared) > 5 else "")
            cause = "the line may be cut short" if number == len(lines) else "mend the label or the header"
            raise UserError(f"{path}, line {number}: the label {str(label)[:20]!r} is not one of its header's @classLabel ({few}); {cause}")
    if not begun and any(line.strip() for line in lines):
        raise UserError(f"{path} has no @data line, after which series are read; add one, or save the series as .csv or .npy")
    return rows


def _stacked(channels: list[np.ndarray]) -> np.ndarray:
    """(C,T) with NaN behind the shorter channels."""
    out = np.full((len(channels), max(map(len, channels))), np.nan)
    for row, values in zip(out, channels, strict=True):
        row[: len(values)] = values
    return out
