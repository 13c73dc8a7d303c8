"""Pairing files by name: a record's and its target's (x.jpg and x_mask.png; images/x.jpg and masks/x.png)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from untaught.core import UserError
from untaught.data.target import Target

Key = tuple[tuple[str, ...], str]  # (folders without the one for records or targets, stem)


@dataclass(frozen=True)
class Pairs:
    """mate: a record's file -> its target's. note: how targets were identified, for the user."""

    mate: dict[str, str]
    note: str
    alone: list[tuple[str, str]]  # (name, reason) of unpaired files


def pair(names: Sequence[str], target: Target, marker: str | None, noun: str) -> Pairs:
    """Pairs the paths of a folder or archive by the target's usual suffixes and folders, or by `marker`: the user's suffix or folder.

    Raises UserError if a record has two targets.
    """
    endings, records, targets = (marker,) if marker else target.endings, *target.folders
    targets = (marker.lower(),) if marker else targets
    found: dict[Key, str] = {}
    others: list[tuple[Key, str]] = []
    used: set[str] = set()
    for name in names:
        *folders, file = PurePosixPath(name).parts
        stem = file.partition(".")[0] if file.count(".") == 1 else PurePosixPath(file).stem
        folder = next((folder for folder in folders if folder.lower() in targets), None)
        ending = next((ending for ending in sorted(endings, key=len, reverse=True) if stem.lower().endswith(ending.lower())), "")
        own = tuple(part for part in folders if part != folder and part.lower() not in records)
        if folder is None and not ending:
            others.append(((own, stem), name))
            continue
        key = (own, stem[: len(stem) - len(ending)] if ending and folder is None else stem)
        if key in found:
            raise UserError(f"{found[key]} and {name} are both the {target.name} of {key[1]}; keep one, or choose with --label")
        found[key] = name
        used.add(f"{folder}/" if folder else f"*{ending}")
    mate = {name: found[key] for key, name in others if key in found}
    taken = set(mate.values())
    alone = [(name, f"has no {target.name}") for key, name in others if key not in found]
    alone += [(name, f"is a {target.name} without a record") for name in found.values() if name not in taken]
    return Pairs(mate, f"each with its {target.name} ({', '.join(sorted(used))})", alone)


def missing(names: Sequence[str], target: Target, marker: str | None, noun: str) -> UserError:
    """The error that no file has a target."""
    endings, folders = ((marker,), (marker,)) if marker else (target.endings[:2], target.folders[1][:2])
    shown = " or ".join([*(f"x{ending}.png" for ending in endings), *(f"{folder}/x.png" for folder in folders)])
    return UserError(
        f"none of {len(names):,} {noun} ({', '.join(names[:3])} ...) has a {target.name}; for x.jpg, {shown} is expected: "
        "give --label SUFFIX or --label FOLDER"
    )
