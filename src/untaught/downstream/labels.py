"""Labels as targets: one class or number per sample, from the store's label column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from untaught.core import Batch, UserError, View
from untaught.data.store import Store


def labels_of(store: Store, what: str) -> np.ndarray:
    """The store's labels (N,). Raises UserError if it has none."""
    if store.labels is None:
        raise UserError(f"the data has no labels; give class folders, or a table with --label COLUMN ({what})")
    return store.labels


def follow_labels(truth: np.ndarray) -> Callable[[Batch, View], View]:
    """truth (N,) -> a function that sets a view's target to its samples' labels (B,), which are independent of geometry."""
    labels = torch.tensor(truth)
    return lambda batch, view: replace(view, target=labels.to(batch["index"].device)[batch["index"]])
