"""Some processes of one function, with the variables that torchrun sets; forked from one that has done the imports."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from command import PRELOADED

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


def variables(rank: int, world: int, port: int) -> dict[str, str]:
    """As torchrun sets them for one of `world` processes of one machine."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    return {key: str(value) for key, value in numbers.items()} | {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def together(world: int, work: Callable[..., Any], *arguments: Any, folder: Path) -> list[Any]:
    """work(*arguments) in every process of a world -> what each returned."""
    port = free_port()
    jobs = [(work, arguments, folder / f"{world}-{rank}.pt", variables(rank, world, port) if world > 1 else {}) for rank in range(world)]
    running = [CONTEXT.Process(target=_child, args=job) for job in jobs]
    for process in running:
        process.start()
    for process in running:
        process.join(120)
        if process.is_alive():
            process.kill()
            raise AssertionError("still running after two minutes")
    results = [torch.load(file, weights_only=False) for *_, file, _ in jobs]
    assert all("raised" not in result for result in results), next(result["raised"] for result in results if "raised" in result)
    return [result["returned"] for result in results]


def _child(work: Callable[..., Any], arguments: tuple[Any, ...], file: Path, given: dict[str, str]) -> None:
    os.environ.update(given)
    torch.set_num_threads(1)
    try:
        result = {"returned": work(*arguments)}
    except BaseException:
        result = {"raised": traceback.format_exc()}
    torch.save(result, file)
    sys.stdout.flush()
    os._exit(0)
