"""One optimizer step: forward and backward passes under our own autocast, clipping, the update, and the method's hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from untaught.config.train_config import TrainConfig
from untaught.core import Method, Terms, View
from untaught.distributed.process_group import ProcessGroup, local_shard
from untaught.ops.counter_rng import mix
from untaught.ops.precision import has_bfloat16
from untaught.pipeline.view_pipeline import convolves
from untaught.training.allocator import keep_freed_memory
from untaught.training.optim import optimizer_for, rate, set_decay, set_rate


class Autocast(nn.Module):
    """The only wrapped module: every call of the method goes through this forward, under our own autocast.

    Fabric's bf16-mixed would also cast views, targets and geometry.
    """

    def __init__(self, method: Method, device_type: str, bf16: bool) -> None:
        super().__init__()
        self.method, self.device_type, self.bf16 = method, device_type, bf16

    def forward(self, what: str, *args: Any) -> Any:
        function: Any = self.method
        for name in what.split("."):  # "methods.NAME.function" for a hybrid's members
            function = getattr(function, name)
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.bf16):
            return function(*args)


class Outcome(NamedTuple):
    """The results of a step, on the device until the next sync."""

    terms: Terms  # detached
    summed: set[str]  # the terms that have a gradient
    bad: Tensor  # (), whether the gradient was not finite and therefore dropped
    norm: Tensor  # (), gradient norm before clipping


class TrainingStep:
    """A method set up for training: on its device, wrapped for the process group, with its optimizer. Called once per step.

    call: the wrapped method, as `call(name of a function of it, arguments)`.
    """

    def __init__(self, method: Method, train_config: TrainConfig, group: ProcessGroup | None = None) -> None:
        self.method, self.train_config, self.group = method, train_config, group or ProcessGroup()
        self.fabric = self.group.fabric
        self.device = self.fabric.device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.bf16 = has_bfloat16(self.device.type) if train_config.precision == "auto" else train_config.precision == "bf16"
        if self.device.type == "cuda":  # with bf16, what stays float32 (Muon's products, the views' warps) may use TensorFloat32
            torch.set_float32_matmul_precision("high" if self.bf16 else "highest")
        self.channels_last = convolves(method)
        if self.channels_last and not self.group.sharded:
            method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.wrapped = self.fabric.setup_module(Autocast(method, self.device.type, self.bf16))
        self.call = torch.compile(self.wrapped) if train_config.compile else self.wrapped
        self.optimizer = optimizer_for(method, train_config)
        self.wrapped_optimizer = self.fabric.setup_optimizers(self.optimizer)
        self.parameters = [p for p in method.parameters() if p.requires_grad]

    def __call__(self, step: int, views: list[View], progress: float) -> Outcome:
        """One optimizer step on the views of this process's share of a batch. progress: share of the schedule before this step."""
        train_config = self.train_config
        assert train_config.lr is not None
        set_rate(self.optimizer, train_config.lr, rate(train_config.schedule, train_config.warmup, progress))
        set_decay(self.optimizer, train_config.weight_decay, train_config.weight_decay_end, progress)
        terms: Terms = {}
        bads, norms = [], []
        for player in self.method.players or ("",):
            with self.turn_of(player):
                made, bad, norm = self.move(player, step, views, progress)
            terms |= made
            bads.append(bad)
            norms.append(norm)
        self.method.after_step(progress)
        summed = {name for name, value in terms.items() if value.requires_grad}
        bad, norm = torch.stack(bads).any(), torch.stack(norms).amax()  # with players, the largest norm
        return Outcome({name: value.detach() for name, value in terms.items()}, summed, bad, norm)

    @contextmanager
    def turn_of(self, player: str) -> Iterator[None]:
        """Within it, only this player's parameters get gradients, and the optimizer has only its groups."""
        if not player:
            yield
            return
        groups = self.optimizer.param_groups
        self.optimizer.param_groups = [group for group in groups if group["player"] == player]
        try:
            with self.method.only(player):
                yield
        finally:
            self.optimizer.param_groups = groups

    def move(self, player: str, step: int, views: list[View], progress: float) -> tuple[Terms, Tensor, Tensor]:
        """One update (of one player, if there are players) -> terms, whether the gradient was not finite, its norm."""
        train_config = self.train_config
        self.method.zero_grad(set_to_none=True)
        terms = (
            self._backward_cached(step, views, progress) if train_config.cache_gradients else self._backward(player, step, views, progress)
        )
        self.method.before_step(progress)

        gradients = [local_shard(p.grad) for p in self.parameters if p.grad is not None]
        norm = self.group.total_norm(gradients)
        bad = ~torch.isfinite(norm)
        for gradient in gradients:
            gradient.masked_fill_(bad, 0.0)
        if train_config.clip:
            share = (train_config.clip / (norm.nan_to_num(1.0) + 1e-6)).clamp(max=1.0)  # as in torch's clip_grad_norm_
            torch._foreach_mul_(gradients, share)  # type: ignore[attr-defined]
        self.wrapped_optimizer.step()
        return terms, bad, norm

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return self.optimizer.param_groups[0]["lr"]

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _backward(self, player: str, step: int, views: list[View], progress: float) -> Terms:
        total: Terms = {}
        parts = self.train_config.accumulate
        first = list(self.method.players).index(player) * parts if player else 0
        for part, micro in enumerate(_cut(views, parts)):
            self._reseed(step, first + part)
            with self.group.no_sync(self.wrapped, part < parts - 1):
                terms = self.call("turn", player, micro, progress) if player else self.call("forward", micro, progress)
                self.fabric.backward(_loss(terms) / parts)
            total = {name: total.get(name, 0) + value / parts for name, value in terms.items()}
        return total

    def _backward_cached(self, step: int, views: list[View], progress: float) -> Terms:
        """Gradient caching (Gao et al. 2021, https://arxiv.org/abs/2101.06983): the loss sees the full batch, the network
        one chunk at a time. BatchNorm normalises per chunk and updates its running statistics once."""
        each = -(-self.train_config.cache_gradients // self.group.size)
        chunks = list(_cut(views, -(-len(views[0]) // each)))
        projected = []
        with torch.no_grad(), _frozen_statistics(self.method):
            for part, chunk in enumerate(chunks):
                self._reseed(step, part)
                projected.append(self.call("project", chunk))
        joined = [torch.cat(parts).requires_grad_() for parts in zip(*projected, strict=True)]
        with self.group.no_sync(self.wrapped):
            terms = self.call("objective", joined, progress)
            _loss(terms).backward()
        start = 0
        for part, chunk in enumerate(chunks):
            self._reseed(step, part)
            with self.group.no_sync(self.wrapped, not self.group.sharded or part < len(chunks) - 1):
                again = self.call("project", chunk)
                stop = start + len(again[0])
                self.fabric.backward(sum((z * w.grad[start:stop]).sum() for z, w in zip(again, joined, strict=True)))  # type: ignore[index,arg-type]
            start = stop
        self.group.average_gradients(self.parameters)
        return terms

    def _reseed(self, step: int, part: int) -> None:
        """Seeds torch's generators (dropout) by seed, step, micro-batch and rank only."""
        place = (step << 16) + (part << 8) + self.fabric.global_rank
        torch.manual_seed(place ^ mix(mix(self.train_config.seed) + (step >> 16)))  # the CPU generator uses only the low 32 bits


def _loss(terms: Terms) -> Tensor:
    return torch.stack([value for value in terms.values() if value.requires_grad]).sum()


def _cut(views: list[View], parts: int) -> Iterator[list[View]]:
    """Splits the views into `parts` consecutive slices of the batch."""
    if parts == 1:
        yield views
        return
    rows = len(views[0])
    bounds = [round(i * rows / parts) for i in range(parts + 1)]
    for low, high in pairwise(bounds):
        yield [view[low:high] for view in views]


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Within it, BatchNorm normalises by the batch, as in training, without updating its running statistics."""
    norms = [(m, m.momentum) for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm, _ in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum
