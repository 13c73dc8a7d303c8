"""Windows over a sequence of samples: their number, and which of them lie within the valid part."""

from __future__ import annotations

import torch
from torch import Tensor


def frame_count(length: int, window: int, hop: int) -> int:
    """The number of windows that fit into so many samples, one every `hop`; 1 for a sequence shorter than a window."""
    return max(length - window, 0) // hop + 1


def valid_frames(valid: Tensor, window: int, hop: int, number: int | None = None) -> Tensor:
    """valid (B,T) bool, true up to some length -> (B,N) bool, true for windows of valid samples only, and for the first one of every
    sequence that has any sample. number: N, if it is known."""
    count = valid.sum(1, keepdim=True)
    last = (count - window).clamp(min=0) // hop
    place = torch.arange(frame_count(valid.shape[1], window, hop) if number is None else number, device=valid.device)
    return (place <= last) & (count > 0)
