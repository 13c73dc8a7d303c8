"""The process group of a run, and its collectives.

Every rank runs the same program: the same decisions in the same order, each on its share of every batch. Only rank 0 prints
and writes. Whatever could differ between ranks (clock, signals, errors, disk) is broadcast or gathered before it is acted on.
"""

from __future__ import annotations

import atexit
import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor

from untaught.config.train_config import TrainConfig
from untaught.core import UserError
from untaught.distributed.launch import started

T = TypeVar("T")

PATIENCE = timedelta(days=1)  # how long ranks wait while one packs or evaluates; a dead process is noticed at once
BLOCKS = (".blocks", ".layers")  # names of the list of blocks in timm, transformers and our networks


class ProcessGroup:
    """The processes of a run. With one process, collectives are no-ops.

    train_config: None for a single process. find_unused_parameters: whether a step may leave parameters without a gradient.
    """

    def __init__(self, train_config: TrainConfig | None = None, find_unused_parameters: bool = False) -> None:
        found = started() if train_config else None
        # with fsdp, checkpoints are one file per rank, also with one process
        self.writes_shards = train_config is not None and train_config.strategy == "fsdp"
        self.rank, self.devices, self.nodes = (found.rank, found.devices, found.nodes) if found else (0, 1, 1)
        self.size = self.devices * self.nodes
        self.sharded = self.writes_shards and self.size > 1
        if self.sharded and not torch.cuda.is_available() and not hasattr(torch.cpu.Stream, "record_event"):
            raise UserError(f"strategy=fsdp on CPUs needs torch 2.7 or newer, this is {torch.__version__}; use strategy=ddp")
        self.find_unused_parameters = find_unused_parameters
        self.host: Any = None  # gloo group for CPU values, with a long timeout
        self._pending_max: tuple[Any, Tensor] | None = None
        if self.size > 1:
            self._initialise()

    def _initialise(self) -> None:
        if again := int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)):
            # torchrun's store still has the addresses of dead processes; Fabric uses an existing group
            store, rank, size = next(rendezvous("env://", self.rank, self.size))
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            apart = dist.PrefixStore(f"again-{again}", store)  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=apart, rank=rank, world_size=size)
            atexit.register(dist.destroy_process_group)
        self.fabric.launch()
        self.host = dist.new_group(backend="gloo", timeout=PATIENCE)

    @cached_property
    def fabric(self) -> Any:
        from lightning_fabric import Fabric  # takes seconds to import; configuration errors are reported before

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        if self.size == 1:
            return Fabric(accelerator="auto", devices=1, precision="32-true")
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
        from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy
        from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

        environment = TorchElasticEnvironment() if TorchElasticEnvironment.detect() else SLURMEnvironment()
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        buffers: Any = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}  # the older name
        if self.sharded:
            strategy: Any = ModelParallelStrategy(_shard, data_parallel_size=self.size, tensor_parallel_size=1)
        else:
            strategy = DDPStrategy(find_unused_parameters=self.find_unused_parameters, **buffers)
        place: Any = {"accelerator": "cuda" if torch.cuda.is_available() else "cpu", "devices": self.devices, "num_nodes": self.nodes}
        return Fabric(**place, strategy=strategy, plugins=[environment], precision="32-true")

    @property
    def is_rank_zero(self) -> bool:
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """Rank 0's value on all ranks; any picklable object."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, 0, group=self.host)
        return held[0]

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        """Calls work() on rank 0 and broadcasts its result; its UserError is raised on all ranks."""
        if self.size == 1:
            return work()
        made: Any = None
        if self.is_rank_zero:
            try:
                made = work(), None
            except UserError as fault:
                made = None, fault
        made, fault = self.broadcast(made)
        if fault is not None:
            raise fault
        return made

    def on_all_ranks(self, work: Callable[[], T]) -> T:
        """Calls work() on every rank and returns the own result; a UserError on any rank is raised on all. No collectives in work()."""
        made: Any = None
        fault: UserError | None = None
        try:
            made = work()
        except UserError as error:
            fault = error
        if first := next(filter(None, self.gather_objects(fault)), None):
            raise first
        return made

    def gather_objects(self, value: T) -> list[T]:
        """The values of all ranks, in order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.host)
        return values

    def mean(self, x: Tensor) -> Tensor:
        """All-reduces x in place (mean)."""
        if self.size > 1:
            dist.all_reduce(x)
            x /= self.size
        return x

    def delayed_max(self, number: int) -> int:
        """The maximum over ranks of the numbers passed in the previous call: the all-reduce overlaps with the step."""
        if self.size == 1:
            return number
        largest = 0
        if self._pending_max is not None:
            self._pending_max[0].wait()
            largest = int(self._pending_max[1])
        value = torch.tensor(number)
        self._pending_max = dist.all_reduce(value, dist.ReduceOp.MAX, group=self.host, async_op=True), value
        return largest

    def no_sync(self, wrapped: nn.Module, enabled: bool = True) -> AbstractContextManager:
        """Within it, gradients accumulate without an all-reduce."""
        return self.fabric.no_backward_sync(wrapped) if enabled and self.size > 1 else nullcontext()

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """All-reduces unsynchronised gradients (mean); sharded ones are reduced by FSDP already."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.size == 1 or self.sharded or not gradients:
            return
        flat = self.mean(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def total_norm(self, gradients: list[Tensor]) -> Tensor:
        """The total norm of all gradients; of sharded ones, `gradients` are the local shards."""
        norm = nn.utils.get_total_norm(gradients)
        if self.sharded:
            dist.all_reduce(norm.square_())
            norm.sqrt_()
        return norm

    @contextmanager
    def unsharded(self, module: nn.Module) -> Iterator[None]:
        """Within it, all weights are gathered, so that submodules can be called directly (on all ranks)."""
        units = [part for part in module.modules() if isinstance(part, FSDPModule)]
        for unit in units:
            unit.unshard()
        try:
            yield
        finally:
            for unit in units:
                unit.reshard()

    def full_state(self, module: nn.Module) -> dict[str, Tensor]:
        """The gathered state_dict of a sharded module, on the CPU of rank 0; empty on other ranks."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict  # slow to import

        state: dict[str, Any] = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        return state


def local_shard(x: Tensor) -> Tensor:
    """The local shard of a tensor; the tensor itself if it is not sharded."""
    return x.to_local() if isinstance(x, DTensor) else x


def _shard(module: nn.Module, mesh: Any) -> nn.Module:
    """FSDP2 wraps each transformer block and the root."""
    for name, part in list(module.named_modules()):
        if name.rpartition(".")[0].endswith(BLOCKS):
            fully_shard(part, mesh=mesh["data_parallel"])
    fully_shard(module, mesh=mesh["data_parallel"])
    return module
