"""The loss and the accuracy of a pretext task with classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def classified(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """logits (...,K), target (...,K) one-hot -> the mean "cross_entropy" in nats, and the "accuracy" without gradient; float32 scalars."""
    logits, target = logits.float().flatten(0, -2), target.flatten(0, -2)
    right = logits.detach().argmax(1) == target.argmax(1)
    return {"cross_entropy": F.cross_entropy(logits, target), "accuracy": right.float().mean()}
