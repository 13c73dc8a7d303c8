"""The hardware and software of this machine, and what untaught uses of it."""

from __future__ import annotations

import platform
import shutil
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from untaught.console import size_text
from untaught.data.decoding import processors
from untaught.data.store import cache_folder
from untaught.ops.precision import has_bfloat16


def examine() -> dict[str, Any]:
    """Versions, device, processes, precision, measured speed, cache folder and its free disk space."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    place = cache_folder()
    while not place.exists():
        place = place.parent
    named = ("untaught", "torch", "timm", "lightning-fabric", "datasets", "scikit-learn")
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in named}},
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "processes": f"--devices up to {torch.cuda.device_count() or processors()}, by {'nccl' if device == 'cuda' else 'gloo'}",
        "precision": "bf16" if has_bfloat16(device) else "float32",
        "speed": {
            f"{name} products": f"{_speed(device, dtype):.0f} GFLOP/s"
            for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16))
        },
        "cache": f"{cache_folder()} ({size_text(shutil.disk_usage(place).free)} free; set UNTAUGHT_CACHE to change it)",
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _speed(device: str, dtype: torch.dtype, side: int = 2048) -> float:
    a = torch.randn(side, side, device=device).to(dtype)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        (a @ a).sum().item()
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times) / 1e9
