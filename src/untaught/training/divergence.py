"""Non-finite losses and gradients: dropped on the device, reported at the next sync; the run ends if they persist."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from untaught.config.train_config import TrainConfig
from untaught.console import warn
from untaught.core import UserError
from untaught.distributed.process_group import ProcessGroup
from untaught.training import checkpoint
from untaught.training.step import Outcome

BAD_STEPS = 3  # steps with non-finite gradients, without a clean interval between two syncs, after which the run ends


class Divergence:
    """Collects the outcomes of steps and checks them at each sync.

    name: index (N,) -> sample names. checkpoints: the folder; None for a run without checkpoints.
    """

    def __init__(
        self, train_config: TrainConfig, group: ProcessGroup, name: Callable[[Tensor], list[str]], checkpoints: Path | None
    ) -> None:
        self.train_config, self.group, self.name, self.checkpoints = train_config, group, name, checkpoints
        self.recent: deque[tuple[int, Tensor, Outcome]] = deque(maxlen=train_config.log_every)
        self.dropped = 0
        self.gradient_norm = 0.0  # mean since the last sync

    def record(self, step: int, index: Tensor, outcome: Outcome) -> None:
        """index (B,): the samples of the step."""
        self.recent.append((step, index, outcome))

    def sync(self) -> dict[str, float]:
        """The mean terms since the last sync, over all processes; {} if there were no steps.

        Raises UserError if the run has diverged: a term is not finite, or the gradients of BAD_STEPS steps were not.
        """
        if not self.recent:
            return {}
        rows = list(self.recent)
        self.recent.clear()
        names = list(rows[-1][2].terms)
        norms = torch.stack([outcome.norm for *_, outcome in rows]).nan_to_num(0.0, 0.0, 0.0)  # a bad gradient was dropped
        table = torch.stack([torch.stack([o.terms[name].float() for name in names] + [o.bad.float()]) for *_, o in rows])
        local = torch.isfinite(table).all(1)
        table, self.gradient_norm = self.group.mean(table).cpu(), float(norms.mean())
        bad = (table[:, -1] > 0) | ~torch.isfinite(table).all(1)
        if bad.any():
            self._judge(rows, names, table, bad, local)
        else:
            self.dropped = 0
        return dict(zip(names, table[:, :-1].mean(0).tolist(), strict=True))

    def _judge(self, rows: list[tuple[int, Tensor, Outcome]], names: list[str], table: Tensor, bad: Tensor, local: Tensor) -> None:
        """table (steps, terms + bad), the mean over processes; bad (steps,), not finite on any rank; local (steps,), finite on this one."""
        first = int(bad.nonzero()[0])
        step, index, _ = rows[first]
        broken = [name for name, value in zip(names, table[first], strict=False) if not torch.isfinite(value)] or ["its gradient"]
        samples = self.group.gather_objects((bool(local[first]), ", ".join(self.name(index[:3]))))
        what = f"step {step}: {' and '.join(broken)} not finite (samples {min(samples)[1]} ...)"  # of a rank with non-finite terms
        self.dropped += int(bad.sum())
        if self.dropped < BAD_STEPS and torch.isfinite(table).all():
            warn(f"{what}; the gradients of {int(bad.sum())} of {len(rows)} steps were dropped")
            return
        last, folder = None, self.checkpoints
        if folder is not None:
            if not torch.isfinite(table[first, :-1]).all():
                self.group.on_rank_zero(lambda: checkpoint.discard(folder, step))
            last = checkpoint.newest(folder)
        good = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        raise UserError(f"training diverged at {what}; {good}; try a lower lr (now {self.train_config.lr:g}), clip=1 or precision=float32")
