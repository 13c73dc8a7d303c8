"""Labels: from raw values to class indices and names, and stratified hold-out."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any, Literal

import numpy as np

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
MISSING = ("na", "n/a", "nan", "none", "null", "-", "?")  # missing values in a numeric column; names in a column of names


def numbered(classes: Iterable[str | None]) -> dict[str, int]:
    """Class names -> indices, in sorted order."""
    return {name: number for number, name in enumerate(sort_classes({name for name in classes if name is not None}))}


def is_missing(value: Any) -> bool:
    """Whether a value is None or pandas' NA or NaT. NaN is handled as a missing number."""
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def class_name(value: Any) -> str | None:
    """The class name of a raw label: 3, 3.0 and "3" are one class, "03" is another. None if missing: NaN, a blank cell."""
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
    """Sorted numerically if all are integers ("9" before "10"), else alphabetically."""
    numbers = all(re.fullmatch(r"-?\d{1,18}", name) for name in names)
    return sorted(names, key=lambda name: (int(name), name)) if numbers else sorted(names)


@dataclass(frozen=True)
class Naming:
    """The interpretation of a label column: classes, or (classes None) numeric labels."""

    classes: tuple[str, ...] | None
    numbers: dict[str, int]
    note: str = ""  # which values were taken as missing, for the user
    several: Literal["", "names", "indicators"] = ""  # a label is a list of class names, or of 0 and 1 per class (see label_sets.py)

    def __call__(self, value: Any) -> int | float | tuple[int, ...] | None:
        """The class index of a raw label, its numeric value, or the indices of its several classes; None if missing."""
        if self.several:
            return self._set(value)
        if self.classes is None:
            return _number(value)
        name = class_name(value)
        return None if name is None else self.numbers.get(name)

    def _set(self, value: Any) -> tuple[int, ...] | None:
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            value = [] if class_name(value) is None else [value]
            if not value:
                return None
        items = list(value)
        if self.several == "indicators":
            return tuple(number for number, flag in enumerate(items) if flag)
        found = {self.numbers.get(name) for item in items if (name := class_name(item)) is not None}
        return tuple(sorted(number for number in found if number is not None))


def name_labels(counts: Mapping[Any, int], written: bool = False) -> Naming | None:
    """Distinct raw labels with counts -> their interpretation; None if there are no labels. written: all cells are text (csv).

    Numbers are numeric labels if one is not an integer. -1 among integers from 0 is missing, as in scikit-learn and PyTorch; with only
    1 besides, -1 is a class.
    """
    known = {value: count for value, count in counts.items() if class_name(value) is not None}
    texts = [value for value in known if isinstance(value, (str, bytes))]
    words = {value for value in texts if str(value).strip().lower() in MISSING} if written else set()
    values = [_number(value) for value in known if value not in words]
    numeric = bool(values) and None not in values and (written or not texts)
    if numeric and any(not value.is_integer() for value in values if value is not None):
        lost = ", ".join(f"{value} ({known[value]:,})" for value in sorted(words))
        return Naming(None, {}, f"labels that are not numbers are missing: {lost}" if lost else "")
    note = ""
    if numeric and not texts and min(values) == -1 and set(values) != {-1.0, 1.0}:  # type: ignore[type-var]
        lost = {value: count for value, count in known.items() if _number(value) == -1}
        known = {value: count for value, count in known.items() if value not in lost}
        note = f"-1 is a missing label ({sum(lost.values()):,})"
    numbers = numbered(class_name(value) for value in known)
    return Naming(tuple(numbers), numbers, note) if numbers else None


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        return float(value) if NUMBER.fullmatch(value.strip()) else None
    try:
        return float(value) if math.isfinite(value) else None
    except (TypeError, ValueError):
        return None


def number_labels(labels: Sequence[Any], classes: tuple[str, ...] | None) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Raw labels -> (N,) int64 with -1 if missing, and class names; or (N,) float64 without names; or None."""
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


def as_numbers(labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """A store's labels (N,) as float64, NaN if missing; class names are parsed as numbers. Raises ValueError with the first name that is
    not a number."""
    if labels.dtype.kind == "f":
        return np.where(np.isfinite(labels), labels, np.nan)
    if wrong := [name for name in classes if not NUMBER.fullmatch(name)]:
        raise ValueError(wrong[0])
    return np.where(labels >= 0, np.array([float(name) for name in classes] or [np.nan])[labels], np.nan)


def doubts(train: np.ndarray, test: np.ndarray, classes: Sequence[str], what: str) -> list[str]:
    """Warnings about class indices of training (n,) and test (m,) samples that make test scores misleading."""
    note: list[str] = []
    asked: list[int] = np.unique(test).tolist()
    if len(asked) == 1:
        note.append(f"all {len(test):,} labelled {what} are of one class ({classes[asked[0]]}): scores are meaningless")
    if unseen := sorted(set(asked) - set(train.tolist())):
        names = ", ".join(classes[number] for number in unseen[:3]) + (" ..." if len(unseen) > 3 else "")
        count = f"{len(unseen)} {'class is' if len(unseen) == 1 else 'classes are'}"
        note.append(f"{count} not in the training split and always misclassified: {names} ({int(np.isin(test, unseen).sum()):,} {what})")
    return note


def set_doubts(train: np.ndarray, test: np.ndarray, classes: Sequence[str], what: str) -> list[str]:
    """Warnings about label sets of training (n,K) and test (m,K) samples that make test scores misleading."""
    note: list[str] = []
    for part, found in (("training split", train), (what, test)):
        if absent := [name for name, own in zip(classes, np.asarray(found.any(0)), strict=True) if not own]:
            names = ", ".join(absent[:3]) + (" ..." if len(absent) > 3 else "")
            effect = "can't be learned" if found is train else "are left out of the mAP"
            note.append(f"of {len(classes)} classes, {len(absent)} without a sample in the {part}, which {effect}: {names}")
    return note


def rarest(labels: np.ndarray) -> np.ndarray:
    """Label sets (N,K), 1 present, -1 missing -> the number of each row's rarest class (N,), K if it has none, -1 if missing.

    Rows drawn in proportion by it keep the shares of rare classes: the first step of iterative stratification (Sechidis, Tsoumakas,
    Vlahavas, ECML PKDD 2011).
    """
    present = np.asarray(labels) == 1
    counts = np.where(present, present.sum(0), len(labels) + 1)
    found = np.where(present.any(1), counts.argmin(1), labels.shape[1]).astype(np.int64)
    found[labels[:, 0] < 0] = -1
    return found


def hold_out(labels: np.ndarray, seed: int, share: float = 0.2, least: int = 1, groups: np.ndarray | None = None) -> np.ndarray:
    """(N,) bool: a share (at least `least` rows) of every class with two or more rows; for numeric labels, a share of all rows; for label
    sets (N,K), classes are the rows' rarest ones.

    groups (N,): rows of one group are held out together. If each has one label, it is held out by that label; if not, a share of all
    groups is.
    """
    labels = rarest(labels) if labels.ndim == 2 else labels
    if groups is not None:
        _, first, own = np.unique(groups, return_index=True, return_inverse=True)
        if len(first) < len(labels):
            own, each = own.reshape(-1), labels[first]
            known = np.isfinite(labels) if labels.dtype.kind == "f" else labels >= 0
            if labels.dtype.kind != "f" and (labels != each[own])[known].any():
                each = np.where(np.bincount(own, known) > 0, 0, -1)
            return hold_out(each, seed, share, least)[own]
    draws = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    strata = (
        [np.flatnonzero(np.isfinite(labels))]
        if labels.dtype.kind == "f"
        else [np.flatnonzero(labels == c) for c in np.unique(labels[labels >= 0])]
    )
    for rows in strata:
        if len(rows) > 1:
            held_out[draws.permutation(rows)[: max(least, round(len(rows) * share))]] = True
    return held_out
