"""Labels as targets: a class or a number a sample, from a store's column of labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from untaught.core import Batch, UserError, View
from untaught.data.store import Store


def labels_of(store: Store, what: str) -> np.ndarray:
    """(N,) as the store has them; UserError where it has none."""
    if store.labels is None:
        raise UserError(f"the data has no labels; give class folders, or a table with --label COLUMN ({what})")
    return store.labels


def follow_labels(truth: np.ndarray) -> Callable[[Batch, View], View]:
    """truth (N,) -> what gives a view the labels of its samples (B,) as its target: no geometry changes them."""
    labels = torch.tensor(truth)
    return lambda batch, view: replace(view, target=labels.to(batch["index"].device)[batch["index"]])
