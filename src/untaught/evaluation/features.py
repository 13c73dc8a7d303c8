"""Encoding once, clean, in eval mode, in bounded memory."""

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
    """One (index (B,), features (B,D) float32) a batch, of the pooled vectors of view(batch); the encoder's mode is put back at the end.

    Raises UserError where features are not finite; names: what samples are called by their index.
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
    """A UserError where some of the features (B,D) of samples index (B,) are not finite."""
    wrong = index[~np.isfinite(features.reshape(len(index), -1)).all(1)]
    if len(wrong):
        first = names(wrong[:1])[0] if names else f"sample {wrong[0]}"
        raise UserError(
            f"the network gives numbers that are not finite for {len(wrong)} of {len(index)} samples, the first {first}: its weights are "
            "damaged or its training has diverged; train again with a smaller lr, or take an earlier checkpoint"
        )


def collect(parts: Iterable[tuple[np.ndarray, Any]], rows: int) -> Any:
    """The features of all parts, `rows` in all, in their order -> (rows,D), never there twice; sparse ones stay so."""
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
    assert start == rows, f"{start} of {rows} rows came"
    if sparse:
        from scipy.sparse import vstack

        return vstack(sparse, format="csr")
    return result
