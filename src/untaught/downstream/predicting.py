"""A task's predictions on batches, in eval mode and with bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from untaught.core import Batch, View
from untaught.downstream.task import Predictions, Task, array
from untaught.evaluation.features import check_finite

Follow = Callable[[Batch, View], View]
Names = Callable[[np.ndarray], list[str]]


@torch.no_grad()
def predict(
    task: Task,
    batches: Iterable[Batch],
    view: Callable[[Batch], View],
    follow: Follow,
    device: torch.device,
    bf16: bool,
    names: Names | None = None,
) -> Iterator[tuple[np.ndarray, Predictions, np.ndarray | None]]:
    """Yields (index (B,), predictions, targets (B, ...) or None) per batch; restores the task's mode at the end.

    names: sample names by index. Raises UserError for predictions that are not finite.
    """
    training = task.training
    task.eval()
    try:
        for batch in batches:
            batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                seen = follow(batch, view(batch))
                predictions = task.predict(seen)
            index = array(batch["index"])
            for name, values in predictions.items():
                if values.dtype.kind == "f" and name not in task.repeated:
                    check_finite(index, values, names)
            yield index, predictions, None if seen.target is None else seen.target.cpu().numpy()
    finally:
        task.train(training)


def collect(found: Iterable[tuple[np.ndarray, Predictions, np.ndarray | None]]) -> tuple[Predictions, np.ndarray]:
    """Concatenates predictions and targets. Ragged rows are padded: predictions with 0, targets with -1."""
    _, predictions, truth = zip(*found, strict=True)
    joined = {name: _stacked([each[name] for each in predictions], 0) for name in predictions[0]}
    return joined, _stacked([each for each in truth if each is not None], -1)


def _stacked(parts: list[np.ndarray], filling: int) -> np.ndarray:
    """(B, T, ...) with varying T -> (N, longest, ...)."""
    if parts[0].ndim > 1 and len({part.shape[1] for part in parts}) > 1:
        longest = max(part.shape[1] for part in parts)
        parts = [_padded(part, longest, filling) for part in parts]
    return np.concatenate(parts)


def _padded(part: np.ndarray, longest: int, filling: int) -> np.ndarray:
    widths = [(0, 0)] * part.ndim
    widths[1] = (0, longest - part.shape[1])
    return np.pad(part, widths, constant_values=filling)
