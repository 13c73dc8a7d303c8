"""Targets that are fields of records: an image's mask, a sentence's tags."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from untaught.core import Batch, Options, Preprocessor, Record, View

TARGET = "target."  # prefix of a target's columns, which are not part of a sample's content hash


@dataclass(frozen=True)
class Target:
    """A field of records that a task predicts: how it is found, decoded into columns "target.NAME", and transformed with a view.

    Records without it (new data) are decoded as well, to what prediction needs.
    """

    name: str  # the field, as --columns and --label name it
    noun: str  # "masks": for messages
    fields: dict[str, tuple[str, ...]]  # all fields of a labelled record, with their usual column names
    decode: Callable[[Record, Preprocessor], dict[str, np.ndarray]]  # like a modality's, plus the target's columns
    follow: Callable[[Batch, View], View]  # adds the target in the view's geometry, and what prediction needs
    ragged: tuple[str, ...] = ()  # columns whose rows differ in length
    learn: Callable[[Iterable[Record], Options], Options] = lambda records, settings: {}  # entries of the settings, from labelled records
    whole: Options = field(default_factory=dict)  # options of the view for prediction, besides the encoder's
    training: Options = field(default_factory=dict)  # options of the view for training that differ from its defaults
    settings: Options = field(default_factory=dict)  # by which records with this target are read, where they differ from the encoder's
    endings: tuple[str, ...] = ()  # for target files: suffixes of their stem (x.jpg, x_mask.png) ...
    folders: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  # ... or folders of records and of targets (images/x.jpg, masks/x.png)
