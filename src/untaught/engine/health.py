"""Is the run learning, or collapsing? A verdict on a fixed probe batch, not a number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.teacher import Teacher
from untaught.core import Batch, Method
from untaught.engine.views import Views

PROBE = 128  # samples that are looked at
EARLY = 0.1  # share of the training in which nothing is judged: heads begin with nearly the same output for all
FIRST = 50  # steps before which nothing is judged either
SAME, FEW = 0.05, 0.2  # spread of the encoder's features, and share of the rank it had untrained, that a healthy one stays above
# Of heads, between what healthy and collapsing runs on small real data showed. Noise and spread: no head of a healthy run had both;
# directions: simclr at temperature 100 came to 2.7 and 4.2 at a spread of 1.0, healthily margin to 4.7 at 0.87 and dinov2 to 3.5 at
# 0.89, others to 7 and more. The widest head counts: byol's predictor came to 4 in healthy runs, beside a projector of 7 to 9.
NOISE, CLOSE = 0.8, 0.5  # noise above which, at a spread below which, a head tells samples apart no more
NARROW, SHARE, WIDE = 4.5, 0.8, 0.97  # directions under which, in number and as a share of the encoder's, heads of this spread are narrow


@dataclass
class Sight:
    """What one look at the vectors of a set of samples says; all on the unit sphere."""

    rank: float  # effective: from 1 (all on a line through the origin) to min(samples, width)
    spread: float  # root mean squared distance from the mean: 0 all the same, 1 everywhere
    directions: float  # how many the differences lie along: participation ratio of the covariance's eigenvalues
    noise: float  # squared distance of two views of a sample over that of two samples: 0 invariant, 1 no nearer than strangers


class Health:
    """Looks at the kept encoder, and at what the method's heads make of it; the untrained encoder is what it is compared with.

    Build it before training. views: those that the method trains on. whole: how its encoder is used. batch: the samples to look
    at, of which 128 are. knobs: those of the method that were given another value than their default, with that default: what to
    try first where a run collapses.
    """

    def __init__(self, method: Method, views: Views, whole: Views, batch: Batch, knobs: dict[str, Any], bf16: bool = False) -> None:
        self.method, self.knobs, self.bf16 = method, knobs, bf16
        self.device = next(method.parameters()).device
        batch = {key: value[:PROBE].to(self.device) for key, value in batch.items()}
        half = {key: value[: PROBE // 2] for key, value in batch.items()}
        whole.channels_last = views.channels_last
        first = Views(views.names[:1] * 2, views.modality, views.options[:1] * 2, views.statistics, seed=0)
        first.channels_last = views.channels_last
        (self.whole,), self.pair, self.read = whole(batch, 0), first(half, 0), views(batch, 0)
        self.untrained = self._encoder()[0]

    def __call__(self, step: int, progress: float, lr: float, gradient_norm: float, shares: dict[str, float]) -> dict[str, Any]:
        """What metrics.jsonl holds under "health": the verdict, because of what, what to try, and the measures.

        progress: share of the training behind it; shares: of its time, by name.
        """
        sight, alignment, uniformity = self._encoder()
        heads = self._heads(progress)
        because, remedy = ("", "") if step < FIRST or progress < EARLY else self._judge(sight, heads, lr)
        teachers = [part for part in self.method.modules() if isinstance(part, Teacher)]
        return {
            "verdict": "collapsing" if because else "healthy",
            "because": because,
            "try": remedy,
            "effective_rank": sight.rank,
            "effective_rank_untrained": self.untrained.rank,
            "std": sight.spread,
            "std_untrained": self.untrained.spread,
            "alignment": alignment,
            "uniformity": uniformity,
            "heads": {name: asdict(head) for name, head in heads.items()},
            "teacher_lag": max(float(teacher.lag()) for teacher in teachers) if teachers else None,
            "gradient_norm": gradient_norm,
            **shares,
        }

    def _judge(self, sight: Sight, heads: dict[str, Sight], lr: float) -> tuple[str, str]:
        """Why it collapses, and what to try; nothing where it does not."""
        because, remedy = "", ""
        apart = "a term, a predictor or a stopped gradient that keeps samples apart"
        if sight.spread < min(SAME, self.untrained.spread):
            because = f"the encoder gives every sample nearly the same vector (spread {sight.spread:.3f})"
            remedy = apart
        elif sight.rank < FEW * self.untrained.rank:
            because = f"the encoder's features lie along {sight.rank:.1f} directions, untrained along {self.untrained.rank:.1f}"
            remedy = apart
        elif heads and all(head.noise > NOISE and head.spread < CLOSE for head in heads.values()):
            because = f"the {next(iter(heads))} gives samples nearly the same vector, two views of one as far apart as two samples"
            remedy = apart
        else:
            name, widest = max(heads.items(), key=lambda pair: pair[1].directions, default=("", sight))
            if widest.spread > WIDE and widest.directions < min(NARROW, SHARE * sight.directions):
                because = f"the {name} puts samples along {widest.directions:.1f} of the encoder's {sight.directions:.1f} directions"
                remedy = "a lower temperature, or a term that makes dimensions differ"
        if not because:
            return "", ""
        back = " ".join(f"{name}={default}" for name, default in self.knobs.items())
        return because, f"{back} (the default)" if back else f"{remedy}; or a lower lr (now {lr:g})"

    def _encoder(self) -> tuple[Sight, float, float]:
        """The sight of whole views, the alignment of two augmented ones, and uniformity (Wang, Isola 2020, equations 1 and 2)."""
        kept = self.method.kept
        with _looking(self.method, self.bf16, self.device.type):
            x, a, b = (F.normalize(kept(view.x, view.valid).float()) for view in (self.whole, *self.pair))
        uniformity = torch.pdist(x).square().mul(-2).exp().mean().log()
        return _sight(x, a, b), float((a - b).square().sum(1).mean()), float(uniformity)

    def _heads(self, progress: float) -> dict[str, Sight]:
        """The sight of what each head that gives a vector a sample makes of the first two views."""
        seen: dict[str, list[Any]] = {}
        hooks = [
            part.register_forward_hook(lambda _, __, out, name=name: seen.setdefault(name, []).append(out))
            for name, part in _heads_of(self.method)
        ]
        pending = len(self.method.pending)
        try:
            with _looking(self.method, self.bf16, self.device.type):
                self.method(self.read, progress)
        finally:
            del self.method.pending[pending:]
            for hook in hooks:
                hook.remove()
        rows, sights = len(self.read[0].x), {}
        for name, outs in seen.items():
            vectors = [out for out in outs if isinstance(out, Tensor) and out.ndim == 2]  # a head may read tokens as well
            if sum(map(len, vectors)) >= 2 * rows:
                a, b = F.normalize(torch.cat(vectors)[: 2 * rows].float()).chunk(2)
                sights[name] = _sight(a, a, b)
        return sights


def _heads_of(method: Method) -> Iterator[tuple[str, nn.Module]]:
    """What a method has beside encoder and teachers, by name; of a hybrid, what its methods have."""
    for place, part in method.named_modules():
        if isinstance(part, Method):
            prefix = f"{place.removeprefix('methods.')}." if place else ""
            for name, head in part.named_children():
                if head is not method.encoder and not isinstance(head, Teacher | nn.ModuleDict):
                    yield f"{prefix}{name}", head


@contextmanager
def _looking(method: Method, bf16: bool, device: str) -> Iterator[None]:
    """In eval mode, as the encoder is used, and without gradients; the mode is put back."""
    training = method.training
    method.eval()
    try:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            yield
    finally:
        method.train(training)


def _sight(x: Tensor, a: Tensor, b: Tensor) -> Sight:
    """x (N,D) of length 1 each; a, b (M,D) likewise, of two views of M samples.

    Effective rank: Roy, Vetterli 2007, the exponential of the entropy of the singular values.
    """
    values = torch.linalg.svdvals(x)
    rank = torch.special.entr(values / values.sum()).sum().exp()
    energy = torch.linalg.svdvals(x - x.mean(0)).square()
    directions = energy.sum().square() / energy.square().sum().clamp(min=1e-30)
    strangers = 2 * (a - a.mean(0)).square().sum(1).mean()
    noise = (a - b).square().sum(1).mean() / strangers.clamp(min=1e-12)
    return Sight(float(rank), float((energy.sum() / len(x)).sqrt()), float(directions), float(noise))
