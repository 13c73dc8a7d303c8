"""Memory estimates for a network and a batch, before anything is allocated."""

from __future__ import annotations

import math
import os
import resource
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from untaught.console import size_text
from untaught.core import UserError, View

M = TypeVar("M", bound=nn.Module)
COPIES = 4  # per trained weight: weight, gradient, and AdamW's two moments
CGROUP = Path("/sys/fs/cgroup/memory.max")  # a container's limit


def memory() -> int:
    """Memory for training, in bytes: the GPU's, or what this process may use of the machine's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), resource.getrlimit(resource.RLIMIT_AS)[0]]
    with suppress(OSError, ValueError):
        limits.append(int(CGROUP.read_text()))
    return min(limit for limit in limits if limit > 0)


def sized(make: Callable[[], M], what: str, unusual: bool = True, share: int = 1) -> M:
    """Returns make(). Raises UserError if its weights can't fit in memory. share: number of processes that shard the weights.

    A network with non-default sizes is first built on the meta device; if its constructor does not support that, it is not checked.
    """
    needed: float = 0
    if unusual:
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # real weights are copied into meta tensors
                needed = weight_bytes(make()) // share
        except Exception as error:
            needed = math.inf if "overflow" in str(error) else 0
    if needed > (available := memory()):
        takes = "too much memory to count" if needed == math.inf else size_text(needed)
        raise UserError(f"{what} needs {takes} to train, but {size_text(available)} are available; choose smaller sizes")
    try:
        return make()
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate" in str(error):
            raise UserError(f"{what} does not fit in memory ({size_text(available)}); choose smaller sizes") from error
        raise


def weight_bytes(module: nn.Module) -> int:
    """Bytes of parameters during training, and of buffers."""
    trained = sum(p.numel() * p.element_size() * (COPIES if p.requires_grad else 1) for p in module.parameters())
    return trained + sum(buffer.numel() * buffer.element_size() for buffer in module.buffers())


def check_views(examples: list[View], samples: int) -> None:
    """Raises UserError if views like these examples can't fit in memory for so many samples."""
    each = sum(view.nbytes / len(view) for view in examples)
    if samples * each > (available := memory()):
        raise UserError(
            f"the views of {samples:,} samples take {size_text(round(samples * each))}, but {size_text(available)} are available; choose a "
            "smaller batch_size, a larger accumulate, or smaller views"
        )
