"""A target that is a field of records: a mask of an image, the tags of a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from untaught.core import Batch, Options, Record, View

TARGET = "target."  # what the columns of a target begin with: they are no part of a sample's identity


@dataclass(frozen=True)
class Target:
    """A field of records that a task learns to predict: how it is found, decoded into columns "target.NAME", and seen in a view.

    A record without it (new data) is decoded as well, to what its prediction needs.
    """

    name: str  # the field, as --columns and --label name it
    noun: str  # "masks": for messages
    fields: dict[str, tuple[str, ...]]  # all fields of a labelled record and the column names they usually have
    decode: Callable[[Record, Options], dict[str, np.ndarray]]  # as a modality's, with the columns of the target
    follow: Callable[[Batch, View], View]  # the view with the batch's target in its geometry, and with what its prediction needs
    ragged: tuple[str, ...] = ()  # columns whose rows differ in length
    learn: Callable[[Iterable[Record], Options], Options] = lambda records, layout: {}  # entries of the layout, from all labelled records
    whole: Options = field(default_factory=dict)  # options of the view in which it is predicted, beside the encoder's
    endings: tuple[str, ...] = ()  # where it is a file: what its stem ends in beside a record's (x.jpg, x_mask.png) ...
    folders: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  # ... or folders of records and of targets (images/x.jpg, masks/x.png)
