"""The next values of a series, as a target: what follows the time steps of a view, and the scale of those steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from untaught.core import Batch, Preprocessor, Record, View
from untaught.data.target import TARGET, Target
from untaught.data.windows import FUTURE

CLOCKED = f"{TARGET}clock"  # of a batch: (B,3), see `data.clock.clock_of`; NaN without times


def future(decode: Callable[[Record, Preprocessor], dict[str, np.ndarray]]) -> Target:
    """The target of a modality whose records this function decodes."""
    return Target("future", "next values", {"series": ("series", "values", "signal", "dim_0")}, decode, follow)


def follow(batch: Batch, view: View) -> View:
    """Adds what came after the steps seen, in the data's unit: target (B,H,C), NaN where missing, if the batch has it; meta["seen"]
    (B,T,C), the values seen, NaN where missing; and the series' meta["clock"] (B,3), if the batch has it."""
    seen = torch.where(batch["values_valid"].unsqueeze(2), batch["values"].float(), torch.nan)
    clock = {"clock": batch[CLOCKED]} if CLOCKED in batch else {}
    return replace(view, target=batch.get(FUTURE), meta={**(view.meta or {}), "seen": seen, **clock})
