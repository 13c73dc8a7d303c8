"""The knobs of the training loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from untaught.config.overrides import knobs_of
from untaught.core import UserError
from untaught.ranges import Count, Samples, Seed, Share, Start, Within, check

Minutes = Annotated[float, Within(1e-6, 525_600)]
Steps = Annotated[int, Within(1, 10**9)]
Rate = Annotated[float, Within(1e-12, 1e6)]
Decay = Annotated[float, Within(0, 100)]
Every = Annotated[int, Within(0, 10**9)]  # steps between; 0 is off
Places = Annotated[int, Within(1, 1 << 16)]


@dataclass(frozen=True)
class TrainConfig:
    """The training loop's settings. None means chosen from the data and the machine, and printed."""

    epochs: Annotated[int, Within(1, 10**6)] | None = None  # give one of epochs, steps and minutes
    steps: Steps | None = None
    minutes: Minutes | None = None  # wall-clock time including evaluation and checkpoints; converted to steps, re-estimated during the run
    batch_size: Samples | None = None  # samples per optimizer step, over all processes
    optimizer: str = "muon"  # muon, adamw, sgd, or any other optimizer of timm.optim (lars, lamb, lion ...)
    lr: Rate | None = None
    base_lr: Rate | None = None  # lr for a batch of 256, scaled linearly with the batch; instead of lr
    weight_decay: Decay = 0.05
    weight_decay_end: Decay | None = None  # reached at the end on a cosine schedule; constant if none
    momentum: Start = 0.9  # for muon, sgd and lars
    betas: tuple[Start, Start] | None = None  # of Adam's moving averages; the optimizer's own if none
    layer_decay: Annotated[float, Within(1e-3, 1)] = 1.0  # lr of an encoder's layer over that of the layer above it
    bias_lr: Rate = 1.0  # lr of biases and norms over that of weights
    patch_lr: Rate = 1.0  # lr of a vision transformer's patch projection over that of its other layers
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.05  # share of the steps over which lr rises from 0
    clip: Annotated[float, Within(0, 1e6)] = 0.0  # largest gradient norm; 0 is off
    accumulate: Annotated[int, Within(1, 1 << 16)] = 1  # micro-batches per batch, one backward pass each
    cache_gradients: Count = 0  # gradient caching: chunk size, over all processes, while the loss sees the full batch; 0 is off
    precision: Literal["auto", "float32", "bf16"] = "auto"
    compile: bool = False
    seed: Seed = 0
    log_every: Steps = 20  # steps
    save_every: Steps | None = None  # steps
    evaluate_every: Every | None = None  # steps between kNN evaluations; by default three during the run; 0 is off
    health_every: Every | None = None  # steps between health checks; by default under 1% of the work; 0: only at the end
    stop_on_collapse: bool = False  # save and stop the run when it collapses
    stream: bool | None = None  # train directly from the source; by default if a store would not fit on the disk
    devices: Places | None = None  # processes per machine, one per GPU; by default one, or as many as torchrun or SLURM started
    nodes: Places | None = None  # machines; by default one, or as many as torchrun or SLURM use
    strategy: Literal["ddp", "fsdp"] = "ddp"  # ddp: every process has all weights; fsdp: sharded, for models too large for one GPU

    def __post_init__(self) -> None:
        chosen = [name for name in ("epochs", "steps", "minutes") if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise UserError(f"{' and '.join(chosen)} are mutually exclusive; give one of epochs, steps and minutes")
        check(vars(self), {name: kind for name, (kind, _) in knobs_of(type(self)).items()})
        if self.batch_size is not None and self.batch_size % self.accumulate:
            raise UserError(f"batch_size={self.batch_size} can't be split into accumulate={self.accumulate} equal micro-batches")
        if self.accumulate > 1 and self.cache_gradients:
            raise UserError("accumulate and cache_gradients both split the batch; give one of them")
