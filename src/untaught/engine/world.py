"""The processes of a run: how they are started, what they agree on, and what the first of them does alone.

Every process runs the same program: the same decisions in the same order, each on its share of every batch. Only the first says
and writes anything. What could differ between them (a clock, a signal, a fault, a disk) is agreed on before it is acted on.
"""

from __future__ import annotations

import atexit
import inspect
import json
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor

from untaught.core import UserError
from untaught.engine.interrupt import Interrupted
from untaught.engine.recipe import Recipe

T = TypeVar("T")

PATIENCE = timedelta(days=1)  # that the others have while one of them packs or measures; a process that is gone is noticed at once
FIRST_WORD = 5.0  # seconds that the first process has to report a fault before others end
OURS = "UNTAUGHT_LAUNCHED"  # set for processes that `launch` started: it reports their faults
BLOCKS = (".blocks", ".layers")  # what timm, transformers and we call the list of a network's blocks
LOST = (  # of what gloo and nccl say when another process is gone
    *("connectFullMesh", "closed by peer", "reset by peer", "Broken pipe", "waiting for recv operation"),
    *("remote process exited", "communicator was aborted", "Socket Timeout"),
)


class OwnFault(UserError):
    """Of one process alone: the others only lose it."""


@dataclass(frozen=True)
class Started:
    """What torchrun or SLURM has started: this process's number, processes on each machine, machines."""

    rank: int
    devices: int
    nodes: int
    by: str
    again: bool = False  # whether torchrun has started them anew after one was lost


def started() -> Started | None:
    """None for a process that was started by itself."""
    var = os.environ
    if "TORCHELASTIC_RUN_ID" in var:
        devices, by = int(var["LOCAL_WORLD_SIZE"]), "untaught" if watched() else "torchrun"
        return Started(int(var["RANK"]), devices, int(var["WORLD_SIZE"]) // devices, by, int(var.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0)
    if int(var.get("SLURM_NTASKS", 1)) > 1 and var.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        each = var.get("SLURM_NTASKS_PER_NODE")
        if each is None:
            raise UserError(f"SLURM started {var['SLURM_NTASKS']} tasks without --ntasks-per-node; give it, one task a device")
        return Started(int(var["SLURM_PROCID"]), int(each), int(var.get("SLURM_NNODES", 1)), "SLURM")
    return None


# --------------------------------------------------------------------------------------------------------- starting


def to_launch(recipe: Recipe) -> int:
    """How many processes this one has to start for the recipe; 0 where it trains itself. Raises UserError where it can't."""
    found, devices, nodes = started(), recipe.devices, recipe.nodes
    if found:
        for name, asked, there in (("devices", devices, found.devices), ("nodes", nodes, found.nodes)):
            if asked is not None and asked != there:
                raise UserError(f"{name}={asked}: {found.by} started {there}; leave it out, or start as many")
        return 0
    if (nodes or 1) > 1:
        raise UserError(f"nodes={nodes}: start the command on every machine by torchrun --nnodes {nodes}, or by srun (docs/distributed.md)")
    most, noun = (torch.cuda.device_count(), "GPUs") if torch.cuda.is_available() else (os.cpu_count() or 1, "processors")
    if (devices or 1) > most:
        raise UserError(f"devices={devices}: this machine has {most} {noun}; choose at most that")
    return devices if devices and devices > 1 else 0


def launch(command: list[str], processes: int) -> None:
    """Runs `python COMMAND` in so many processes of this machine by torch's own launcher, and waits.

    Raises what ended them: UserError, Interrupted, or RuntimeError where one broke.
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
        logging.disable()  # it tells of every child
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
    """Inside, a signal that is ignored (by nohup) stays so, here and in children: torch's launcher would take it over, whatever it was."""
    install = signal.signal

    def unless_ignored(number: Any, handler: Any) -> Any:
        return signal.SIG_IGN if signal.getsignal(number) is signal.SIG_IGN else install(number, handler)

    signal.signal = unless_ignored
    try:
        yield
    finally:
        signal.signal = install


def _reason(failures: dict[int, Any], processes: int) -> BaseException:
    """Why processes ended: a fault that one has reported, however it ended, before a signal, before one that broke or lost the others."""
    reported = [failure for failure in failures.values() if isinstance(failure.message, dict)]
    if reported:
        return UserError(min(reported, key=lambda failure: failure.timestamp).message["message"])
    rank, failure = min(failures.items(), key=lambda item: (item[1].exitcode == 1, item[1].exitcode < 0, item[1].timestamp))
    code = failure.exitcode
    if code > 128:
        return Interrupted(code - 128, None)
    if code < 0:
        cause = f"was killed ({signal.Signals(-code).name}), perhaps for want of memory"
        return UserError(f"process {rank} of {processes} {cause}; go on from the last checkpoint with --resume")
    return RuntimeError(f"process {rank} of {processes} ended with exit code {code}; what it wrote says why")


def reports(fault: UserError) -> bool:
    """Whether this process is to say which UserError ended it; the launcher, where there is one, gets to know it.

    All processes have a fault alike, and the first says it, unless it is marked as this one's own.
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
    time.sleep(FIRST_WORD)  # a launcher ends the others with the first that ends
    return False


def watched() -> bool:
    """Whether our own launcher looks after this process, and says what ended it."""
    return OURS in os.environ


def lost(error: Exception) -> bool:
    """Whether the error only says that another process is gone: that one has said why, or its launcher will."""
    return isinstance(error, RuntimeError) and started() is not None and any(sign in str(error) for sign in LOST)


# ---------------------------------------------------------------------------------------------------------- running


class World:
    """The processes that train together. One alone is a world too, in which nothing is sent.

    unused: whether a step may leave parameters without a gradient.
    """

    def __init__(self, recipe: Recipe | None = None, unused: bool = False) -> None:
        found = started() if recipe else None
        self.in_parts = recipe is not None and recipe.strategy == "fsdp"  # how checkpoints are written, also by one process
        self.rank, self.devices, self.nodes = (found.rank, found.devices, found.nodes) if found else (0, 1, 1)
        self.size = self.devices * self.nodes
        self.sharded = self.in_parts and self.size > 1
        if self.sharded and not torch.cuda.is_available() and not hasattr(torch.cpu.Stream, "record_event"):
            raise UserError(f"strategy=fsdp: on CPUs it needs torch 2.7 or newer, this is {torch.__version__}; choose strategy=ddp")
        self.unused = unused
        self.host: Any = None  # a group for the processor's values, with time
        self._heard: tuple[Any, Tensor] | None = None
        if self.size > 1:
            self._meet()

    def _meet(self) -> None:
        if again := int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)):
            # torchrun keeps one store, in which addresses of processes that are gone still stand; Fabric takes a group that is there
            store, rank, size = next(rendezvous("env://", self.rank, self.size))
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            apart = dist.PrefixStore(f"again-{again}", store)  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=apart, rank=rank, world_size=size)
            atexit.register(dist.destroy_process_group)
        self.fabric.launch()
        self.host = dist.new_group(backend="gloo", timeout=PATIENCE)

    @cached_property
    def fabric(self) -> Any:
        from lightning_fabric import Fabric  # takes seconds: a run that is asked for wrongly is told so without

        if self.size == 1:
            return Fabric(accelerator="auto", devices=1, precision="32-true")
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
        from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy
        from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        environment = TorchElasticEnvironment() if TorchElasticEnvironment.detect() else SLURMEnvironment()
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        buffers: Any = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}  # its older name
        if self.sharded:
            strategy: Any = ModelParallelStrategy(_shard, data_parallel_size=self.size, tensor_parallel_size=1)
        else:
            strategy = DDPStrategy(find_unused_parameters=self.unused, **buffers)
        place: Any = {"accelerator": "cuda" if torch.cuda.is_available() else "cpu", "devices": self.devices, "num_nodes": self.nodes}
        return Fabric(**place, strategy=strategy, plugins=[environment], precision="32-true")

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agree(self, value: T) -> T:
        """The first process's value."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, 0, group=self.host)
        return held[0]

    def alone(self, work: Callable[[], T]) -> T:
        """What the first process makes, which the others wait for and get; its UserError is all of theirs."""
        if self.size == 1:
            return work()
        made: Any = None
        if self.first:
            try:
                made = work(), None
            except UserError as fault:
                made = None, fault
        made, fault = self.agree(made)
        if fault is not None:
            raise fault
        return made

    def together(self, work: Callable[[], T]) -> T:
        """What each process makes for itself; a UserError of one is that of all. The work itself may not send anything."""
        made: Any = None
        fault: UserError | None = None
        try:
            made = work()
        except UserError as error:
            fault = error
        if first := next(filter(None, self.all_of(fault)), None):
            raise first
        return made

    def all_of(self, value: T) -> list[T]:
        """Every process's value, in order of rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.host)
        return values

    def mean(self, x: Tensor) -> Tensor:
        """The mean of all processes' x, on its device."""
        if self.size > 1:
            dist.all_reduce(x)
            x /= self.size
        return x

    def hear(self, number: int) -> int:
        """The largest number that any process said a call ago: sent while the step runs, it costs no waiting."""
        if self.size == 1:
            return number
        heard = 0
        if self._heard is not None:
            self._heard[0].wait()
            heard = int(self._heard[1])
        said = torch.tensor(number)
        self._heard = dist.all_reduce(said, dist.ReduceOp.MAX, group=self.host, async_op=True), said
        return heard

    def apart(self, wrapped: nn.Module, enabled: bool = True) -> AbstractContextManager:
        """Within it, gradients stay each process's own and add up."""
        return self.fabric.no_backward_sync(wrapped) if enabled and self.size > 1 else nullcontext()

    def average(self, parameters: list[nn.Parameter]) -> None:
        """Gradients that were made apart become their mean over processes; those that are sharded are that already."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.size == 1 or self.sharded or not gradients:
            return
        flat = self.mean(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Of all gradients together; those that are sharded are given as this process's own parts."""
        norm = nn.utils.get_total_norm(gradients)
        if self.sharded:
            dist.all_reduce(norm.square_())
            norm.sqrt_()
        return norm

    @contextmanager
    def whole(self, module: nn.Module) -> Iterator[None]:
        """Within it, parts of a sharded module can be called by themselves, by all processes alike."""
        units = [part for part in module.modules() if isinstance(part, FSDPModule)]
        for unit in units:
            unit.unshard()
        try:
            yield
        finally:
            for unit in units:
                unit.reshard()

    def gathered(self, module: nn.Module) -> dict[str, Tensor]:
        """The state of a sharded module in one piece; empty but in the first process."""
        from untaught.engine import shards  # torch's module takes long to import

        return shards.whole(module)


def own_part(x: Tensor) -> Tensor:
    """What this process has of a tensor; all of it where it isn't sharded."""
    return x.to_local() if isinstance(x, DTensor) else x


def _shard(module: nn.Module, mesh: Any) -> nn.Module:
    """The units of FSDP2: every block of a transformer, and what is left."""
    for name, part in list(module.named_modules()):
        if name.rpartition(".")[0].endswith(BLOCKS):
            fully_shard(part, mesh=mesh["data_parallel"])
    fully_shard(module, mesh=mesh["data_parallel"])
    return module
