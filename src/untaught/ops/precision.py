"""Which precisions the hardware supports efficiently."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch


@cache
def has_bfloat16(device_type: str) -> bool:
    """Whether bfloat16 matrix products are faster than float32: CUDA from Ampere on, CPUs with avx512_bf16 or AMX."""
    if device_type == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device_type == "cpu":
        info = Path("/proc/cpuinfo")
        return info.exists() and any(flag in info.read_text() for flag in ("avx512_bf16", "amx_bf16"))
    return False
