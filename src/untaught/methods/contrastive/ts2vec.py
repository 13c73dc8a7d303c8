"""TS2Vec. Yue, Wang, Duan, Yang, Huang, Tong, Xu, AAAI 2022. https://arxiv.org/abs/2106.10466

Views:  the series, or an excerpt of a long one. The method draws two crops of it that overlap (section 3.2): their lengths and overlap once
        for the whole batch, as in the authors' code (here as shares of each series' length), and where they lie for each series.
Heads:  none. Half of the projected time steps of each crop are set to 0 in training (timestamp masking, section 3.2).
Loss:   at every time step of the overlap, and at every level of a hierarchy of maxima over time (algorithm 1), half the instance-wise
        contrast (equation 2: against the other series of the batch at the same step) plus half the temporal contrast (equation 1: against
        the other steps of the series), with dot products, averaged over levels.
As in the authors' code, the encoder that is kept has the mean of the weights after all steps and at the start, dropout sets a tenth of
the outputs to 0 (a knob of the encoder), and a batch has 8 series.
Differs from the authors' code, where all series are padded to one length: padding has no part in the loss. In the instance-wise contrast
steps are counted from the start of the overlap; a series whose overlap is shorter has no step to compare there. With several processes,
the batch is that of all of them.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from untaught.blocks.teacher import Teacher
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.gather import gather, world_size
from untaught.ops.hierarchical_contrast import hierarchical_contrast
from untaught.ops.masking import take
from untaught.ranges import Share, in_range


class TS2Vec(Method):
    views = ("excerpt",)
    needs = frozenset({"steps"})
    paper = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01, "schedule": "constant", "warmup": 0.0}
    short = dict(paper)
    step: Tensor  # () int64, steps taken

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        instance: Share = 0.5,  # weight of the instance-wise contrast; the temporal one has 1 minus it
        masked: Share = 0.5,  # share of the projected time steps that are set to 0
    ) -> None:
        super().__init__()
        self.encoder, self.average, self.seed = encoder, Teacher(encoder), facts.seed
        self.instance, self.masked = instance, masked
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def exported(self) -> dict[str, Encoder]:
        return {"encoder": self.average.network}  # type: ignore[dict-item]

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.meta is not None
        rng = CounterRNG(self.seed, 0, (self.step << 32) + view.meta["index"], 0)
        length = view.x.new_full((len(view),), view.x.shape[1], dtype=torch.long) if view.valid is None else view.valid.sum(1)
        first, crops = drawn_crops(length, CounterRNG(self.seed, 1, self.step.view(1), 0), rng)
        start, end = crops.unbind(2)  # (B,2)
        # Fewer steps to encode; on other devices their number would have to be waited for.
        place = torch.arange(int(end.max()) if end.device.type == "cpu" else view.x.shape[1], device=end.device)
        valid = (place >= start.unsqueeze(2)) & (place < end.unsqueeze(2))  # (B,2,T)
        from_step = lambda x, step: take(x, (step.unsqueeze(1) + place).clamp(max=x.shape[1] - 1))  # noqa: E731
        hidden = rng.uniform(len(place), 2).mT < self.masked  # drawn step by step: the same at any length of the batch
        tokens = self.tokens(from_step(view.x, first), valid, hidden)
        a, b = (gather(_as_long_as_others(from_step(own, start[:, 1]))) for own in tokens)
        instance, temporal = hierarchical_contrast(a, b, gather(end[:, 0] - start[:, 1]))
        return {"instance": self.instance * instance, "temporal": (1 - self.instance) * temporal}

    def tokens(self, x: Tensor, valid: Tensor, hidden: Tensor) -> Tensor:
        """x (B,T,C), valid and hidden (B,2,T), the steps of each crop and those set to 0 -> (2,B,T,D)."""
        both = View(torch.cat([x, x]), valid.transpose(0, 1).flatten(0, 1))
        latent, own = self.encoder.embed(both)
        latent = latent.masked_fill(hidden.transpose(0, 1).flatten(0, 1).unsqueeze(2), 0.0)
        tokens = self.encoder.context(latent, own).tokens
        assert tokens is not None
        return tokens.unflatten(0, (2, -1))

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        self.step += 1
        weight = 1.0 / (self.step + 1)
        for own, trained in zip(self.average.network.parameters(), self.encoder.parameters(), strict=True):
            own.lerp_(trained, weight.to(own))


def drawn_crops(length: Tensor, rng: CounterRNG, own: CounterRNG) -> tuple[Tensor, Tensor]:
    """length (B,) of series -> (B,), the first step of the first of two crops, and (B,2,2), counted from there, the first step of each crop
    and the one behind its last. rng has one draw for all series; own, with one for each, chooses where in its series both lie.

    The overlap has 2 steps or more, all lengths being equally likely; so are all beginnings of the first crop before it, ends of the second
    behind it, and places of both in the series.
    """
    common = rng.integers(length.clamp(max=2), length)
    left = rng.integers(0, length - common)
    start, end = rng.integers(0, left), rng.integers(left + common, length)
    crops = torch.stack([start, left + common, left, end], 1) - start.unsqueeze(1)
    return own.integers(0, length - (end - start)), crops.unflatten(1, (2, 2))


def _as_long_as_others(x: Tensor) -> Tensor:
    """x (B,T,D), padded to the longest T of all processes, each of which pads its batch to its own longest series."""
    if world_size() == 1:
        return x
    longest = torch.tensor(x.shape[1], device=x.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    return F.pad(x, (0, 0, 0, int(longest) - x.shape[1]))  # waits for the device: shapes must be known
