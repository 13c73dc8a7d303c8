"""Rows as cells: one float32 per feature."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from untaught.core import Batch, Preprocessor, Record
from untaught.data.written import plain_form
from untaught.modalities.table.columns import Feature, bucket, features_of, features_of_file, number_of, plain, values_of, word_of
from untaught.modalities.table.dates import PARTS, as_date, date_parts

UNSEEN = -1.0  # the code of a category that no training row has
LARGEST = 1e6  # standard deviations
SAID = 5  # columns of which `unlike` tells


def decode(record: Record, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> "cells" (F,) float32: numbers standardised, categories as codes from 0, UNSEEN for unseen ones, NaN for missing values.

    Raises ValueError for a row that lacks a column.
    """
    row = values_of(record["table"])
    cells: list[float] = []
    for column, features in _by_column(prep.files["columns.json"]):
        try:
            value = row[column]
        except KeyError:
            raise ValueError(f"has no column {column}") from None
        cells += _cells(value, features)
    return {"cells": np.array(cells, np.float32)}


def unlike(records: list[Record], prep: Preprocessor) -> list[str]:
    """In new rows, values that can't be read as in training, and categories that no training row had: how many of each column, in words."""
    rows, said = [values_of(record["table"]) for record in records if not isinstance(record["table"], Exception)], []
    for column, features in _by_column(prep.files["columns.json"]):
        known = [value for row in rows if plain(value := row.get(column)) is not None]
        read = [_cells(value, features)[0] for value in known]
        lost = [value for value, cell in zip(known, read, strict=True) if math.isnan(cell)]
        unseen = [value for value, cell in zip(known, read, strict=True) if features[0].values is not None and cell == UNSEEN]
        kind = "date" if features[0].part else "number"
        for some, what in (
            (lost, f"a value that is no {kind} as in training and is taken as missing"),
            (unseen, "a category unseen in training"),
        ):
            if some:
                said.append(f"column {column}: {len(some):,} of {len(rows):,} rows sampled have {what}, e.g. {str(some[0])[:40]!r}")
    return [*said[:SAID], *([f"and {len(said) - SAID:,} more such columns"] if len(said) > SAID else [])]


@lru_cache(8)
def _by_column(content: bytes) -> list[tuple[str, list[Feature]]]:
    """The features of each column, in the order of the features."""
    found: dict[str, list[Feature]] = {}
    for feature in features_of_file(content):
        found.setdefault(feature.column, []).append(feature)
    return list(found.items())


def _cells(value: Any, features: list[Feature]) -> list[float]:
    first = features[0]
    if first.form:
        value = plain_form(plain(value), first.form)
    if first.part:
        moment = as_date(plain(value))
        if moment is None:
            return [math.nan] * len(features)
        parts: dict[str, float] = dict(zip(PARTS, date_parts(moment), strict=True))
        return [(parts[feature.part] - feature.mean) / feature.std for feature in features]
    if first.values is None:
        number = value if type(value) is float and math.isfinite(value) else number_of(value)
        return [math.nan if number is None else max(-LARGEST, min(LARGEST, (number - first.mean) / first.std))]
    word = word_of(value)
    if word is None:
        return [math.nan]
    if first.buckets:
        return [float(bucket(word, first.buckets))]
    return [float(code) if (code := first.values.get(word, first.other)) >= 0 else UNSEEN]


def raw(batch: Batch, prep: Preprocessor) -> np.ndarray:
    """The raw baseline (B,D): standardised numbers, 0 where missing, and an indicator per category and per feature with missing values."""
    cells, parts = batch["cells"].numpy(), []
    for at, feature in enumerate(features_of(prep)):
        own = cells[:, at]
        if feature.values is None:
            parts.append(np.nan_to_num(own)[:, None])
        else:
            parts.append(own[:, None] == np.arange(feature.buckets or len(feature.values) + (feature.other >= 0)))
        if feature.missing:
            parts.append(np.isnan(own)[:, None])
    return np.concatenate(parts, 1, dtype=np.float32)


def raw_names(prep: Preprocessor) -> list[str]:
    """The names of the columns of `raw`: of a number, its column (and part of a date); else COLUMN_VALUE, _other, _hash0, _missing."""
    names = []
    for feature in features_of(prep):
        own = "_".join(filter(None, (feature.column, feature.part)))
        if feature.values is None:
            names.append(own)
        elif feature.buckets:
            names += [f"{own}_hash{bucket}" for bucket in range(feature.buckets)]
        else:
            names += [*(f"{own}_{value}" for value in feature.values), *([f"{own}_other"] if feature.other >= 0 else [])]
        names += [f"{own}_missing"] if feature.missing else []
    return names
