"""Checkpoints of sharded weights: each rank writes its part, and any number of ranks can load them.

Parts are safetensors files: torch.distributed.checkpoint's contain pickles, and a run folder may be untrusted.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer

from untaught.core import UserError
from untaught.distributed.process_group import ProcessGroup, local_shard
from untaught.storage.atomic import disk_fault
from untaught.storage.finite import NotFinite, check_finite_weights
from untaught.storage.safe_open import checked_file

LOOSE = StateDictOptions(strict=False)  # a parameter without gradients has no optimizer state


def save(place: Path, method: nn.Module, optimizer: Optimizer, group: ProcessGroup) -> None:
    """Writes this rank's shards; rank 0 also writes unsharded tensors. Raises UserError on all ranks."""
    tensors = _weights(method) | _moments(_state(method, optimizer))
    mine = {name: local_shard(x) for name, x in tensors.items() if isinstance(x, DTensor) or group.is_rank_zero}

    def write() -> None:
        path = place / f"part-{group.rank:05}.safetensors"
        try:
            save_file({name: x.detach().to("cpu", copy=True).contiguous() for name, x in mine.items()}, path)
        except Exception as error:  # safetensors raises its own types
            raise UserError(f"{path} can't be written: {disk_fault(error, place) or error}") from error

    group.on_all_ranks(write)


def load(place: Path, method: nn.Module, optimizer: Optimizer, group: ProcessGroup) -> None:
    """Fills the method and its optimizer from parts written by any number of ranks. Raises UserError on all ranks."""
    weights, state = _weights(method), _state(method, optimizer)

    def read() -> None:
        try:
            with ExitStack() as files, torch.no_grad():
                holders: dict[str, list[Any]] = {}
                for path in sorted(place.glob("part-*.safetensors")):
                    checked_file(path, place)
                    part: Any = files.enter_context(safe_open(path, "pt"))
                    for name in part.keys():  # noqa: SIM118  # not a mapping
                        holders.setdefault(name, []).append(part)
                stateless = [p for p, own in state["state"].items() if not any(_key(p, k) in holders for k in own)]
                for parameter in stateless:  # without gradients when saved
                    del state["state"][parameter]
                for name, x in (weights | _moments(state)).items():
                    _fill(x, name, holders[name])
                check_finite_weights({name: local_shard(x) for name, x in weights.items()}, "it")
        except NotFinite:
            raise
        except Exception as error:  # missing, wrong shape or wrong kind
            raise UserError(f"{place} can't be read: {error}") from error

    group.on_all_ranks(read)
    set_optimizer_state_dict(method, optimizer, state, options=LOOSE)


def _weights(method: nn.Module) -> dict[str, Tensor]:
    """The method's tensors, which share memory with it."""
    state: dict[str, Any] = get_model_state_dict(method)
    return {f"method.{name}": x for name, x in state.items()}


def _state(method: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's state by parameter name; a new optimizer's is initialised in full."""
    return get_optimizer_state_dict(method, optimizer)


def _moments(state: dict[str, Any]) -> dict[str, Tensor]:
    return {_key(parameter, key): x for parameter, own in state["state"].items() for key, x in own.items() if isinstance(x, Tensor)}


def _key(parameter: str, key: str) -> str:
    return f"optimizer.{parameter}.{key}"


def _fill(x: Tensor, name: str, parts: list[Any]) -> None:
    """Fills this rank's rows of x from the parts, which hold consecutive rows in order of rank, or all rows."""
    if x.ndim == 0:
        x.copy_(parts[0].get_tensor(name))
        return
    shapes = [part.get_slice(name).get_shape() for part in parts]
    if [sum(shape[0] for shape in shapes), *shapes[0][1:]] != list(x.shape):
        raise ValueError(f"{name} has shapes {shapes}, expected {list(x.shape)} in total")
    own, first, begin = local_shard(x), _first_row(x), 0
    for part, shape in zip(parts, shapes, strict=True):
        low, high = max(first, begin), min(first + len(own), begin + shape[0])
        if low < high:
            own[low - first : high - first] = part.get_tensor(name)[low - begin : high - begin]
        begin += shape[0]


def _first_row(x: Tensor) -> int:
    """The first row of this rank's shard: FSDP2 splits rows as torch.chunk does."""
    if not isinstance(x, DTensor):
        return 0
    assert tuple(x.placements) == (Shard(0),)
    mesh = x.device_mesh
    return -(-len(x) // mesh.size()) * mesh.get_local_rank()
