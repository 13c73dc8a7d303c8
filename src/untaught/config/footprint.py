"""What a network and a batch take in memory, reckoned before any of it is taken."""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from untaught.console import size_text
from untaught.core import UserError, View

M = TypeVar("M", bound=nn.Module)
COPIES = 4  # of a trained weight: itself, its gradient, and the two moments of AdamW
CGROUP = Path("/sys/fs/cgroup/memory.max")  # a container's own limit


def memory() -> int:
    """Bytes of the device that trains: of the GPU, or what this process may have of the machine's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), resource.getrlimit(resource.RLIMIT_AS)[0]]
    with suppress(OSError, ValueError):
        limits.append(int(CGROUP.read_text()))
    return min(limit for limit in limits if limit > 0)


def sized(make: Callable[[], M], what: str, unusual: bool = True, share: int = 1) -> M:
    """What `make` builds; a UserError where its weights can't fit in memory. share: processes that hold a part each.

    An unusual network is first built without memory. One that can't be, as its constructor looks into its weights, is not judged.
    """
    needed: float = 0
    if unusual:
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                needed = weight_bytes(make()) // share
        except Exception as error:
            needed = math.inf if "overflow" in str(error) else 0
    if needed > (there := memory()):
        takes = "more bytes than can be counted" if needed == math.inf else size_text(needed)
        raise UserError(f"{what} needs {takes} to train its weights, there are {size_text(there)}; choose smaller sizes")
    try:
        return make()
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate" in str(error):
            raise UserError(f"{what} does not fit in memory ({size_text(there)}); choose smaller sizes") from error
        raise


def weight_bytes(module: nn.Module) -> int:
    """Of parameters, in training, and buffers."""
    trained = sum(p.numel() * p.element_size() * (COPIES if p.requires_grad else 1) for p in module.parameters())
    return trained + sum(buffer.numel() * buffer.element_size() for buffer in module.buffers())


def check_views(examples: list[View], samples: int) -> None:
    """Raises UserError where the views of so many samples, of which these are examples, can't fit in memory."""
    each = sum(view.nbytes / len(view) for view in examples)
    if samples * each > (there := memory()):
        raise UserError(
            f"the views of {samples:,} samples take {size_text(round(samples * each))}, there are {size_text(there)}; choose a smaller "
            "batch_size, larger accumulate, or smaller views"
        )
