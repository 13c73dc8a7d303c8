"""Encoding once, clean, in eval mode, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from untaught.core import Batch


@torch.no_grad()
def encode(
    encoder: nn.Module, batches: Iterable[Batch], view: Callable[[Batch], Tensor], device: torch.device, bf16: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One (index (B,), features (B,D) float32) a batch, of the pooled vectors of view(batch); the encoder's mode is put back at the end."""
    training = encoder.training
    encoder.eval()
    try:
        for batch in batches:
            batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                features = encoder(view(batch))
            yield batch["index"].cpu().numpy(), features.float().cpu().numpy()
    finally:
        encoder.train(training)


def collect(parts: Iterable[tuple[np.ndarray, np.ndarray]], rows: int) -> np.ndarray:
    """The features of all parts, `rows` in all, in the order that they came -> (rows,D); they are never there twice."""
    result, start = np.empty((0, 0), np.float32), 0
    for _, features in parts:
        if not start:
            result = np.empty((rows, features.shape[1]), np.float32)
        result[start : start + len(features)] = features
        start += len(features)
    assert start == rows, f"{start} of {rows} rows came"
    return result
