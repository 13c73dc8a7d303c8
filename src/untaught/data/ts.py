"""`.ts` files of the UCR and UEA archives: a header of @ lines, then one series per line, channel:channel:label, ? for a missing value."""

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
    """The series of the files; X_TRAIN.ts and X_TEST.ts are splits. Raises UserError for an unreadable file."""
    field = next(iter(modality.fields))
    read = {path: _read(path) for path in paths}
    named = {path: part_of(path.stem) for path in paths}
    parts: dict[str, list[tuple[list[np.ndarray], str | None, str]]] = {}
    for path, rows in read.items():
        name = (named[path] if len(paths) > 1 else None) or ("all" if len(paths) == 1 else "train")
        parts.setdefault(name, []).extend((values, label, f"{path.name} row {i}") for i, (values, label) in enumerate(rows))
    naming = name_labels(Counter(label for rows in parts.values() for _, label, _ in rows), written=True)
    if not any(parts.values()):
        raise UserError(f"{where} has no series; give a file with at least one")

    def part(rows: list[tuple[list[np.ndarray], str | None, str]]) -> Part:
        def at(i: int) -> Record:
            channels, label, name = rows[i]
            return {field: _stacked(channels), "label": None if naming is None else naming(label), "name": name}

        return Part(len(rows), lambda: (at(i) for i in range(len(rows))), at)

    count = sum(map(len, parts.values()))
    classes = naming.classes if naming else None
    note = f" with {len(classes)} classes" if classes else " with a measured label" if naming else " without labels"
    what = f"{count:,} {modality.noun} from {where}{note}"
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
                raise UserError(f"{path} has time stamps, which are not supported; resample it to equal steps, or remove them")
            begun = words[0] == "@data"
            continue
        parts = text.split(":")
        label = parts.pop().strip() if labelled else None
        try:
            rows.append(([np.array(part.replace("?", "nan").split(","), np.float64) for part in parts], label))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}; allowed: numbers separated by commas, ? for a missing one") from error
        if not parts:
            raise UserError(f"{path}, line {number} has no series, only a label (its header has @classLabel true)")
        if declared and label not in (*declared, "", "?"):
            few = ", ".join(declared[:5]) + (", ..." if len(declared) > 5 else "")
            cause = "the line may be truncated" if number == len(lines) else "fix the label or the header"
            raise UserError(f"{path}, line {number}: the label {str(label)[:20]!r} is not one of its header's @classLabel ({few}); {cause}")
    if not begun and any(line.strip() for line in lines):
        raise UserError(f"{path} has no @data line before its series; add one, or save the series as .csv or .npy")
    return rows


def _stacked(channels: list[np.ndarray]) -> np.ndarray:
    """(C,T), shorter channels padded with NaN."""
    out = np.full((len(channels), max(map(len, channels))), np.nan)
    for row, values in zip(out, channels, strict=True):
        row[: len(values)] = values
    return out
