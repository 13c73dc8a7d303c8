"""Errors of transcripts: substitutions, deletions and insertions, as for word and character error rates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def edits(truth: Sequence[str], said: Sequence[str]) -> int:
    """The least number of substitutions, deletions and insertions that turn `said` into `truth`. Levenshtein 1966."""
    numbers: dict[str, int] = {}
    one, other = (np.array([numbers.setdefault(item, len(numbers)) for item in items], np.int64) for items in (truth, said))
    place = np.arange(len(other) + 1)
    row = place
    for deleted, item in enumerate(one, 1):
        own = np.minimum(row[1:] + 1, row[:-1] + (other != item))
        row = np.minimum.accumulate(np.concatenate([[deleted], own]) - place) + place  # insertions, from left to right
    return int(row[-1])


def error_counts(truth: str, said: str) -> tuple[int, int, int, int]:
    """-> errors in words, words of the truth, errors in characters (spaces included), characters of the truth."""
    words = truth.split()
    return edits(words, said.split()), len(words), edits(truth, said), len(truth)
