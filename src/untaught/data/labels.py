"""Labels: raw values become numbers and class names, and a part of every class is held out."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any

import numpy as np

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
MISSING = ("na", "n/a", "nan", "none", "null", "-", "?")  # words for a missing number; in a column of names they are names


def numbered(classes: Iterable[str | None]) -> dict[str, int]:
    """Class names in order -> their numbers."""
    return {name: number for number, name in enumerate(sort_classes({name for name in classes if name is not None}))}


def is_missing(value: Any) -> bool:
    """None, and what pandas has for it: NA, NaT (NaN is a number that is missing)."""
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def class_name(value: Any) -> str | None:
    """A raw label as its class is called: 3, 3.0 and "3" are one class, "03" is another. None for a missing one: NaN, a blank cell."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if is_missing(value) or isinstance(value, Exception) or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime):
        return str(value.date() if value.time() == time() else value)
    whole = isinstance(value, bool) or (isinstance(value, float) and value.is_integer())
    return str(int(value) if whole else value)


def sort_classes(names: set[str]) -> list[str]:
    """By number where they are numbers ("9" before "10"), else by name."""
    numbers = all(re.fullmatch(r"-?\d{1,18}", name) for name in names)
    return sorted(names, key=lambda name: (int(name), name)) if numbers else sorted(names)


@dataclass(frozen=True)
class Naming:
    """What the values of a label column are: classes, or (classes None) measured numbers."""

    classes: tuple[str, ...] | None
    numbers: dict[str, int]
    said: str = ""  # what was taken as no label, for the user

    def __call__(self, value: Any) -> int | float | None:
        """The number of a raw label's class, or the label as a number; None where it is missing."""
        if self.classes is None:
            return _number(value)
        name = class_name(value)
        return None if name is None else self.numbers.get(name)


def name_labels(counts: Mapping[Any, int], written: bool = False) -> Naming | None:
    """Distinct raw labels with their counts -> what they are; None without any. `written`: cells of text, whatever they hold (csv).

    Numbers of which one is not whole are measured. -1 among whole numbers from 0 on is no label, as in scikit-learn and PyTorch, and
    -1 beside nothing but 1 is a class.
    """
    known = {value: count for value, count in counts.items() if class_name(value) is not None}
    texts = [value for value in known if isinstance(value, (str, bytes))]
    words = {value for value in texts if str(value).strip().lower() in MISSING} if written else set()
    values = [_number(value) for value in known if value not in words]
    numeric = bool(values) and None not in values and (written or not texts)
    if numeric and any(not value.is_integer() for value in values if value is not None):
        lost = ", ".join(f"{value} ({known[value]:,})" for value in sorted(words))
        return Naming(None, {}, f"rows whose label is no number have none: {lost}" if lost else "")
    said = ""
    if numeric and not texts and min(values) == -1 and set(values) != {-1.0, 1.0}:  # type: ignore[type-var]
        lost = {value: count for value, count in known.items() if _number(value) == -1}
        known = {value: count for value, count in known.items() if value not in lost}
        said = f"-1 is no label ({sum(lost.values()):,})"
    numbers = numbered(class_name(value) for value in known)
    return Naming(tuple(numbers), numbers, said) if numbers else None


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        return float(value) if NUMBER.fullmatch(value.strip()) else None
    try:
        return float(value) if math.isfinite(value) else None
    except (TypeError, ValueError):
        return None


def number_labels(labels: Sequence[Any], classes: tuple[str, ...] | None) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Raw labels -> (N,) int64 with -1 for unknown and their names, or (N,) float64 without names, or None."""
    if classes is None:
        labels = [label if isinstance(label, Hashable) else str(label) for label in labels]
        naming = name_labels(Counter(labels))
        if naming is None:
            return None, ()
        labels = [naming(label) for label in labels]
        if naming.classes is None:
            return np.array([np.nan if label is None else label for label in labels], np.float64), ()
        classes = naming.classes
    elif all(class_name(label) is None for label in labels):
        return None, ()
    return np.array([-1 if label is None else label for label in labels], np.int64), classes


def doubts(train: np.ndarray, test: np.ndarray, classes: Sequence[str], what: str) -> list[str]:
    """What of the classes, as numbers (n,) and (m,) of training and test samples, makes scores on the latter say less than they seem to."""
    said: list[str] = []
    asked: list[int] = np.unique(test).tolist()
    if len(asked) == 1:
        said.append(f"all {len(test):,} labelled {what} are of one class ({classes[asked[0]]}): no score tells classes apart")
    if unseen := sorted(set(asked) - set(train.tolist())):
        names = ", ".join(classes[number] for number in unseen[:3]) + (" ..." if len(unseen) > 3 else "")
        count = f"{len(unseen)} {'class is' if len(unseen) == 1 else 'classes are'}"
        said.append(f"{count} not in the training part and always told wrongly: {names} ({int(np.isin(test, unseen).sum()):,} {what})")
    return said


def hold_out(labels: np.ndarray, seed: int, share: float = 0.2, least: int = 1) -> np.ndarray:
    """(N,) bool: a share of every class of at least two rows, `least` or more of it; of measured labels a share of all."""
    draws = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    groups = (
        [np.flatnonzero(np.isfinite(labels))]
        if labels.dtype.kind == "f"
        else [np.flatnonzero(labels == c) for c in np.unique(labels[labels >= 0])]
    )
    for rows in groups:
        if len(rows) > 1:
            held_out[draws.permutation(rows)[: max(least, round(len(rows) * share))]] = True
    return held_out
