"""The state of a run whose weights are spread over processes: each writes its part, and any number of processes can read it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

LOOSE = StateDictOptions(strict=False)  # a parameter that never had a gradient has no state in the optimizer


def save(place: Path, method: nn.Module, optimizer: Optimizer, group: Any) -> None:
    """Writes this process's part into the folder, together with the others. Raises OSError."""
    try:
        with _quiet():
            state_dict_saver.save(_state(method, optimizer), checkpoint_id=place, process_group=group)
    except CheckpointException as error:
        raise next(fault for fault, _ in error.failures.values()) from error


def load(place: Path, method: nn.Module, optimizer: Optimizer, group: Any) -> None:
    """Fills the method and its optimizer with what any number of processes wrote."""
    state = _state(method, optimizer)
    with _quiet():
        state_dict_loader.load(state, checkpoint_id=place, process_group=group, planner=DefaultLoadPlanner(allow_partial_load=True))
    set_model_state_dict(method, state["method"])
    set_optimizer_state_dict(method, optimizer, state["optimizer"], options=LOOSE)


def whole(module: nn.Module) -> dict[str, Any]:
    """The module's state, gathered; in the first process alone it holds anything."""
    return get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that there is one process alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _state(method: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    return {"method": get_model_state_dict(method), "optimizer": get_optimizer_state_dict(method, optimizer)}
