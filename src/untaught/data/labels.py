"""Labels: raw values become numbers and class names, and a part of every class is held out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def numbered(classes: Iterable[str | None]) -> dict[str, int]:
    """Class names in order -> their numbers."""
    return {name: number for number, name in enumerate(sort_classes({name for name in classes if name is not None}))}


def class_name(value: Any) -> str | None:
    """A raw label as its class is called: 3, 3.0 and "3" are one class."""
    if value is None or value != value:  # NaN
        return None
    whole = isinstance(value, bool) or (isinstance(value, float) and value.is_integer())
    return str(int(value) if whole else value)


def sort_classes(names: set[str]) -> list[str]:
    """By number where they are numbers ("9" before "10"), else by name."""
    numbers = all(re.fullmatch(r"-?\d{1,18}", name) for name in names)
    return sorted(names, key=int) if numbers else sorted(names)


def number_labels(labels: Sequence[Any], classes: tuple[str, ...] | None) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Raw labels -> (N,) int64 with -1 for unknown and their names, or (N,) float64 without names, or None."""
    names = [class_name(label) for label in labels]
    if not any(name is not None for name in names):
        return None, ()
    if classes is None:
        known = [label for label, name in zip(labels, names, strict=True) if name]
        text = any(isinstance(label, str) for label in known)
        if not text and any(isinstance(label, float) and not label.is_integer() for label in known):
            return np.array([np.nan if label is None else label for label in labels], np.float64), ()
        classes = tuple(sort_classes({name for name in names if name is not None}))
        numbers = {name: number for number, name in enumerate(classes)}
        labels = [None if name is None else numbers[name] for name in names]
    return np.array([-1 if label is None else label for label in labels], np.int64), classes


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
