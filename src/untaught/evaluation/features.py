"""Encoding without augmentation, in eval mode and bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from untaught.core import Batch, UserError, View


@torch.no_grad()
def encode(
    encoder: nn.Module,
    batches: Iterable[Batch],
    view: Callable[[Batch], View],
    device: torch.device,
    bf16: bool,
    names: Callable[[np.ndarray], list[str]] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (index (B,), features (B,D) float32) per batch: the pooled vectors of view(batch). The encoder's mode is restored at the end.

    Raises UserError if features are not finite. names: index -> sample names, for that message.
    """
    training = encoder.training
    encoder.eval()
    try:
        for batch in batches:
            batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                shown = view(batch)
                features = encoder(shown)
            index, features = batch["index"].cpu().numpy(), features.float().cpu().numpy()
            check_finite(index, features, names)
            yield index, features
    finally:
        encoder.train(training)


def check_finite(index: np.ndarray, features: np.ndarray, names: Callable[[np.ndarray], list[str]] | None = None) -> None:
    """Raises UserError if any features (B,D) of the samples index (B,) are not finite."""
    wrong = index[~np.isfinite(features.reshape(len(index), -1)).all(1)]
    if len(wrong):
        first = names(wrong[:1])[0] if names else f"sample {wrong[0]}"
        raise UserError(
            f"the network output is not finite for {len(wrong)} of {len(index)} samples, first {first}: its weights are "
            "corrupt or training diverged; train again with a smaller lr, or use an earlier checkpoint"
        )


def collect(parts: Iterable[tuple[np.ndarray, Any]], rows: int) -> Any:
    """Concatenates the features of all parts, `rows` in total -> (rows,D), without a second copy in memory; sparse features stay sparse."""
    result, start = np.empty((0, 0), np.float32), 0
    sparse = []
    for _, features in parts:
        if not isinstance(features, np.ndarray):
            sparse.append(features)
            start += features.shape[0]
            continue
        if not start:
            result = np.empty((rows, features.shape[1]), np.float32)
        result[start : start + len(features)] = features
        start += len(features)
    assert start == rows, f"got {start} of {rows} rows"
    if sparse:
        from scipy.sparse import vstack

        return vstack(sparse, format="csr")
    return result
