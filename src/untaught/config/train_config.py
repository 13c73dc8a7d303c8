"""The knobs of the training loop, and how `key=value` finds its knob."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from untaught.config.overrides import knobs_of
from untaught.core import UserError
from untaught.ranges import Count, Samples, Seed, Share, Start, Within, check

Minutes = Annotated[float, Within(1e-6, 525_600)]
Steps = Annotated[int, Within(1, 10**9)]
Every = Annotated[int, Within(0, 10**9)]  # steps between; 0 is off
Places = Annotated[int, Within(1, 1 << 16)]


@dataclass(frozen=True)
class TrainConfig:
    """What the loop does. None is decided from the data and the machine, and printed."""

    epochs: Annotated[int, Within(1, 10**6)] | None = None  # one of epochs, steps and minutes says when to stop
    steps: Steps | None = None
    minutes: Minutes | None = None  # by the clock, with scores and checkpoints on the way; becomes steps, planned anew as the load changes
    batch_size: Samples | None = None  # samples in one optimizer step, all processes together
    optimizer: str = "muon"  # muon, adamw, sgd, or any other name of timm.optim (lars, lamb, lion ...)
    lr: Annotated[float, Within(1e-12, 1e6)] | None = None
    weight_decay: Annotated[float, Within(0, 100)] = 0.05
    momentum: Start = 0.9  # of muon, sgd and lars
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.05  # share of the steps over which lr rises from 0
    clip: Annotated[float, Within(0, 1e6)] = 0.0  # largest norm of the gradient; 0 is off
    accumulate: Annotated[int, Within(1, 1 << 16)] = 1  # parts that a batch is cut into, one backward pass each
    cache_gradients: Count = 0  # samples, of all processes, that pass through the network at once while the loss sees the batch; 0 is off
    precision: Literal["auto", "float32", "bf16"] = "auto"
    compile: bool = False
    seed: Seed = 0
    log_every: Steps = 20  # steps
    save_every: Steps | None = None  # steps
    evaluate_every: Every | None = None  # steps between kNN scores on the way; by default three of them; 0 is off
    health_every: Every | None = None  # steps between looks at the run's health; by default under 1% of the work; 0 is only at the end
    stop_on_collapse: bool = False  # end the run, saved, when it is found to collapse
    stream: bool | None = None  # train from the source itself; decided by the disk that a store would take
    devices: Places | None = None  # processes on each machine, one a GPU; by default one, or as many as torchrun or SLURM started
    nodes: Places | None = None  # machines; by default one, or as many as torchrun or SLURM started processes on
    strategy: Literal["ddp", "fsdp"] = "ddp"  # every process has all weights, or a share of them (for what one GPU can't hold)

    def __post_init__(self) -> None:
        chosen = [name for name in ("epochs", "steps", "minutes") if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise UserError(f"{' and '.join(chosen)} were both given; one of epochs, steps and minutes says when to stop")
        check(vars(self), {name: kind for name, (kind, _) in knobs_of(type(self)).items()})
        if self.batch_size is not None and self.batch_size % self.accumulate:
            raise UserError(f"batch_size={self.batch_size} can't be cut into accumulate={self.accumulate} equal parts")
        if self.accumulate > 1 and self.cache_gradients:
            raise UserError("accumulate and cache_gradients both cut the batch; give one of them")
