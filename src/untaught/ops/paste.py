"""A square pasted into the centre of an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pasted(x: Tensor, square: Tensor, where: Tensor) -> Tensor:
    """x (B,C,S,S), with the pixels of square (B,C,s,s), s <= S, in its centre where `where` (B,1,s,s) bool."""
    before = (x.shape[-1] - square.shape[-1]) // 2
    after = x.shape[-1] - square.shape[-1] - before
    around = (before, after, before, after)
    return torch.where(F.pad(where, around), F.pad(square, around), x)
