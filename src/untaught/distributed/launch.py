"""Launching processes (torchrun, SLURM, or our own `devices=`), and reporting why one ended."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import torch

from untaught.config.train_config import TrainConfig
from untaught.core import UserError
from untaught.signals import Interrupted

GRACE = 5.0  # seconds that rank 0 has to report an error before other ranks exit

OURS = "UNTAUGHT_LAUNCHED"  # set for processes started by `launch`, which reports their errors

LOST = (  # parts of gloo's and nccl's messages when another process has ended
    *("connectFullMesh", "closed by peer", "reset by peer", "Broken pipe", "waiting for recv operation"),
    *("remote process exited", "communicator was aborted", "Socket Timeout"),
)


class OwnFault(UserError):
    """An error of a single process; the others only lose their connection to it."""


@dataclass(frozen=True)
class Started:
    """Processes started by torchrun or SLURM: this process's rank, processes per machine, machines."""

    rank: int
    devices: int
    nodes: int
    by: str
    again: bool = False  # whether torchrun has restarted them after a failure


def started() -> Started | None:
    """The launcher's processes; None if there was no launcher."""
    var = os.environ
    if "TORCHELASTIC_RUN_ID" in var:
        devices, by = int(var["LOCAL_WORLD_SIZE"]), "untaught" if watched() else "torchrun"
        return Started(int(var["RANK"]), devices, int(var["WORLD_SIZE"]) // devices, by, int(var.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0)
    if int(var.get("SLURM_NTASKS", 1)) > 1 and var.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        each = var.get("SLURM_NTASKS_PER_NODE")
        if each is None:
            raise UserError(f"SLURM started {var['SLURM_NTASKS']} tasks without --ntasks-per-node; set it to the devices per node")
        return Started(int(var["SLURM_PROCID"]), int(each), int(var.get("SLURM_NNODES", 1)), "SLURM")
    return None


def to_launch(train_config: TrainConfig) -> int:
    """How many processes this one must launch; 0 if it trains itself. Raises UserError if the config asks for too many."""
    found, devices, nodes = started(), train_config.devices, train_config.nodes
    if found:
        for name, requested, actual in (("devices", devices, found.devices), ("nodes", nodes, found.nodes)):
            if requested is not None and requested != actual:
                raise UserError(f"{name}={requested}: {found.by} started {actual}; omit {name}, or start {requested}")
        return 0
    if (nodes or 1) > 1:
        raise UserError(f"nodes={nodes}: start the command on every machine with torchrun --nnodes {nodes} or srun (docs/distributed.md)")
    most, noun = (torch.cuda.device_count(), "GPUs") if torch.cuda.is_available() else (os.cpu_count() or 1, "processors")
    if (devices or 1) > most:
        raise UserError(f"devices={devices}: this machine has {most} {noun}; choose at most {most}")
    return devices if devices and devices > 1 else 0


def launch(command: list[str], processes: int) -> None:
    """Runs `python COMMAND` in several processes on this machine with torch's launcher, and waits.

    Raises their error: UserError, Interrupted, or RuntimeError if one crashed.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    threads = max(1, torch.get_num_threads() // processes)
    given = {"OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "ERROR", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600", OURS: "1"}
    added = {name: value for name, value in given.items() if name not in os.environ}
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT) if current_thread() is main_thread() else ()
    handlers = {number: signal.getsignal(number) for number in caught}
    place: dict[str, Any] = {"min_nodes": 1, "max_nodes": 1, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    config = LaunchConfig(**place, nproc_per_node=processes, run_id=uuid.uuid4().hex, max_restarts=0)
    try:
        os.environ.update(added)
        logging.disable()  # it logs every child process
        with _ignored_stay() if caught else nullcontext():
            elastic_launch(config, sys.executable)(*command)
    except SignalException as stop:
        raise Interrupted(stop.sigval, None) from None
    except Interrupted as stop:
        raise Interrupted(stop.number, None) from None
    except ChildFailedError as error:
        raise _reason(error.failures, processes) from None
    finally:
        logging.disable(logging.NOTSET)
        for name in added:
            del os.environ[name]
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _ignored_stay() -> Iterator[None]:
    """Within it, ignored signals (nohup) stay ignored, here and in children; torch's launcher would install its own handlers."""
    install = signal.signal

    def unless_ignored(number: Any, handler: Any) -> Any:
        return signal.SIG_IGN if signal.getsignal(number) is signal.SIG_IGN else install(number, handler)

    signal.signal = unless_ignored
    try:
        yield
    finally:
        signal.signal = install


def _reason(failures: dict[int, Any], processes: int) -> BaseException:
    """Why processes ended. A reported error has priority, then a signal, then a crash or a lost connection."""
    reported = [failure for failure in failures.values() if isinstance(failure.message, dict)]
    if reported:
        return UserError(min(reported, key=lambda failure: failure.timestamp).message["message"])
    rank, failure = min(failures.items(), key=lambda item: (item[1].exitcode == 1, item[1].exitcode < 0, item[1].timestamp))
    code = failure.exitcode
    if code > 128:
        return Interrupted(code - 128, None)
    if code < 0:
        cause = f"was killed ({signal.Signals(-code).name}), possibly out of memory"
        return UserError(f"process {rank} of {processes} {cause}; continue from the last checkpoint with --resume")
    return RuntimeError(f"process {rank} of {processes} ended with exit code {code}; see its output")


def reports(fault: UserError) -> bool:
    """Whether this process should print the UserError that ended it. Also passes it to the launcher, if there is one.

    All ranks have the same error and rank 0 prints it, unless it is an OwnFault of this rank.
    """
    found = started()
    if found is None:
        return True
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        message = {"message": str(fault), "extraInfo": {"py_callstack": "", "timestamp": str(int(time.time()))}}
        Path(file).write_text(json.dumps({"message": message}))
    if watched():
        return False
    if found.rank == 0 or isinstance(fault, OwnFault):
        return True
    time.sleep(GRACE)  # a launcher kills all ranks when the first one exits
    return False


def watched() -> bool:
    """Whether our own launcher started this process and will print its error."""
    return OURS in os.environ


def lost(error: Exception) -> bool:
    """Whether the error is only a lost connection to another process, which reports the cause itself or through its launcher."""
    return isinstance(error, RuntimeError) and started() is not None and any(sign in str(error) for sign in LOST)
