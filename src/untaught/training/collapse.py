"""Is the run learning, or collapsing? A verdict on a fixed probe batch, by a table of rules that benchmarks/collapse.py measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from untaught.blocks.prototypes import PrototypeHead
from untaught.blocks.teacher import Teacher
from untaught.core import Batch, Method, Terms, UserError, View
from untaught.pipeline.view_pipeline import Views

PROBE = 128  # samples that are looked at
EARLY = 0.1  # share of the training in which nothing is judged that training changes
FIRST = 50  # steps before which neither
WINDOW = 8  # tokens in a row, by which texts are compared
WEIGHTS = 1024  # weights of each tensor that tell how far it has moved

# Limits of the rules. Figures beside the rules are those of benchmarks/collapse.py at 40% of 200 steps.
COPIES = 0.2  # share of the data that is distinct, under which the rest are copies
SHOWN = 0.5  # share of what is to be restored, over which the method is shown it
DIMENSIONS = 4  # of the untrained encoder's features, at most, that are a bottleneck
STILL = 1e-3  # change of the weights over their norm, under which they stand still
LOST = 0.5  # the same over the root of the steps, over which they are lost: noise moves them by that root, and weight decay ends it
SAME, FEW = 0.05, 0.2  # spread of the encoder's features, and share of the rank it had untrained, that a healthy one stays above
SHRUNK, NARROW = 0.125, 0.28  # rank times spread, and rank, of the first head over those untrained: collapsed, it has less
CONFUSED = 0.3  # confusion of such a head over that untrained: a narrow one that serves the method has less
CLOSER = 0.8  # spread over that untrained, under which a head that knows no sample again has vectors that are the same
NOISE = 0.6  # over which two views of a sample may be strangers
SLOW, STUCK = 0.04, 0.01  # change of the loss over itself, under which a narrow head is no good, and under which nothing is learned
USED = 5  # prototypes, at most, that are all in use where their head collapses


@dataclass(frozen=True)
class Sight:
    """What one look at the vectors of a set of samples says; all on the unit sphere."""

    rank: float  # effective: from 1 (all on a line through the origin) to min(samples, width)
    spread: float  # root mean squared distance from the mean: 0 all the same, 1 everywhere
    directions: float  # how many the differences lie along: participation ratio of the covariance's eigenvalues
    noise: float | None  # squared distance of two views of a sample over that of two samples: 0 invariant, 1 no nearer than strangers
    confusion: float | None  # share of the others' second views that are nearer a sample's first than its own: 0, by chance 0.5
    used: int | None = None  # of prototypes, those that are nearest to some sample


@dataclass(frozen=True)
class Measures:
    """All that a verdict is made of, without labels: `first` is before the first step."""

    step: int
    encoder: Sight
    heads: dict[str, Sight]
    loss: float | None  # of the probe batch, as in training
    moved: float  # norm of the change of the kept encoder's weights over their norm at first
    first_encoder: Sight
    first_heads: dict[str, Sight]
    first_loss: float | None
    dimensions: int  # in which the untrained encoder's features differ: singular values of at least a thousandth of the largest
    distinct: float  # share of the samples (of texts, of runs of 8 tokens) that are not there twice
    same_views: bool  # whether all views of a sample are one
    shown: float | None  # share of what is to be restored that the method is shown

    @classmethod
    def read(cls, row: dict[str, Any]) -> Measures:
        """From the "measures" of a row of metrics.jsonl."""
        read: dict[str, Any] = {key: Sight(**row[key]) for key in ("encoder", "first_encoder")}
        read |= {key: {name: Sight(**head) for name, head in row[key].items()} for key in ("heads", "first_heads")}
        return cls(**row | read)


class Rule(NamedTuple):
    name: str
    broken: Callable[[Measures], str]  # what is wrong; "" where this rule finds nothing
    remedy: str  # where it has {lr}, that of the run
    knobs: bool = True  # whether the run's other values of the method's knobs may be the reason
    early: bool = False  # whether it judges what training does not change: from the first look on


# --------------------------------------------------------------------------------- what the method is given to learn from


def _samples(m: Measures) -> str:
    """Distinct: 1.00 of images, 0.95 and more of news and reviews; 0.02 of one document repeated."""
    return f"only {m.distinct:.1%} of the data is distinct, the rest are copies" if m.distinct < COPIES else ""


def _views(m: Measures) -> str:
    return "all views of a sample are identical, and the network has no dropout that would tell them apart" if m.same_views else ""


def _shown(m: Measures) -> str:
    """Of BERT's tokens 10% to 15% stay as they were."""
    return "the method is shown what it is to restore" if m.shown is not None and m.shown > SHOWN else ""


def _bottleneck(m: Measures) -> str:
    return f"the encoder's features lie in {m.dimensions} dimensions, before training too" if m.dimensions <= DIMENSIONS else ""


# ------------------------------------------------------------------------------------------------- what the weights did


def _frozen(m: Measures) -> str:
    """Moved: 0.09 and more in healthy runs (of a teacher), 5e-6 to 2e-5 at a rate of 1e-7."""
    return f"the encoder stands still: its weights changed by {m.moved:.1g} of their norm" if m.moved < STILL else ""


def _destroyed(m: Measures) -> str:
    """Moved over the root of the steps: 0.13 at most in healthy runs, 0.6 to 20 at a thousand times the rate."""
    lost = m.moved > LOST * m.step**0.5
    return f"the weights are lost: in {m.step} steps they changed by {m.moved:.0f} times their norm" if lost else ""


# ------------------------------------------------------------------------------------------- what became of the features


def _constant(m: Measures) -> str:
    """Rank times spread of the first head, over those untrained: 0.001 to 0.10 where the constant is the best answer (0.14 of vicreg
    without variance on text); in healthy runs 0.13 and 0.28 of dino, 0.20 and more of all others."""
    if m.encoder.spread < min(SAME, m.first_encoder.spread):
        return f"the encoder gives every sample nearly the same vector (spread {m.encoder.spread:.3f})"
    name, now, first = _first_head(m)
    shrunk = now.rank * now.spread < SHRUNK * first.rank * first.spread and now.spread < CLOSER * first.spread
    strangers = bool(_noise(m)) and now.spread < CLOSER * first.spread
    if not name or not ((shrunk and _confused(now, first)) or strangers):
        return ""
    return f"the {name} gives samples nearly the same vector (spread {now.spread:.2f}, untrained {first.spread:.2f})"


def _narrow(m: Measures) -> str:
    """Rank of the first head over that untrained, and fall of the loss: 0.13 to 0.20 and 0.1% of simclr at temperature 100, 0.24 and 2% of
    dino that is not sharpened; in healthy runs 0.22 of margin, where the loss falls by a third, and 0.33 of swav, where it falls by 6%."""
    if m.encoder.rank < FEW * m.first_encoder.rank:
        return f"the encoder's features lie along {m.encoder.rank:.1f} directions, untrained along {m.first_encoder.rank:.1f}"
    name, now, first = _first_head(m)
    if not name or now.rank > NARROW * first.rank or not _confused(now, first) or not _within(m, SLOW):
        return ""
    return f"the {name} puts samples along {now.rank:.1f} directions, untrained along {first.rank:.1f}, and the loss hardly falls"


def _noise(m: Measures) -> str:
    """Two views of a sample in the first head: 0.92 and 0.88 of barlow_twins without invariance, untrained 0.78 and 0.87; 0.66 at most in
    healthy runs, and less than untrained in all."""
    name, now, first = _first_head(m)
    far = now.noise is not None and first.noise is not None and now.noise > max(NOISE, first.noise)
    return f"the {name} puts two views of a sample as far apart as two samples ({now.noise:.2f} of that)" if far else ""


def _prototypes(m: Measures) -> str:
    """Used by 64 samples: 4 prototypes of dino without its centre; 9 and more of healthy dino and ibot, 27 and more untrained."""
    for name, head in m.heads.items():
        first = m.first_heads[name]
        if head.used is not None and first.used is not None and head.used <= USED < first.used / 2:
            return f"the {name} tells all samples by {head.used} of its prototypes, untrained by {first.used}"
    return ""


def _stuck(m: Measures) -> str:
    """Fall of the loss: 0.1% of simclr at temperature 100; 17% and more in healthy runs."""
    return f"the loss stays where it was before training ({m.first_loss:.4g}, now {m.loss:.4g})" if _within(m, STUCK) else ""


def _first_head(m: Measures) -> tuple[str, Sight, Sight]:
    """The head behind the encoder, now and untrained; a predictor behind it may be narrow. "" and the encoder where there is none."""
    name = next(iter(m.heads), "")
    return (name, m.heads[name], m.first_heads[name]) if name else (name, m.encoder, m.encoder)


def _confused(now: Sight, first: Sight) -> bool:
    """Whether views of a sample are told from strangers hardly better than by the untrained network."""
    return now.confusion is not None and first.confusion is not None and now.confusion > CONFUSED * first.confusion


def _within(m: Measures, share: float) -> bool:
    """Whether the loss is within this share of that before training."""
    return m.loss is not None and m.first_loss is not None and abs(m.loss - m.first_loss) < share * abs(m.first_loss)


APART = "a term, a predictor or a stopped gradient that keeps samples apart; or a lower lr (now {lr:g})"
RULES = (  # in the order in which they are asked: what explains the others stands before them
    Rule("samples", _samples, "data without copies", knobs=False, early=True),
    Rule("views", _views, "views that differ: crops and colours of images, dropout or delete of text", knobs=False, early=True),
    Rule("shown", _shown, "a mask that hides more (rate), and an encoder that does not see what is hidden", early=True),
    Rule("bottleneck", _bottleneck, "an encoder without a layer so narrow", knobs=False, early=True),
    Rule("frozen", _frozen, "a higher lr (now {lr:g}); of an encoder that a teacher keeps, a lower momentum", knobs=False),
    Rule("destroyed", _destroyed, "a lower lr (now {lr:g}) or clip=1", knobs=False),
    Rule("constant", _constant, APART),
    Rule("narrow", _narrow, "a lower temperature, or a term that makes dimensions differ; or a lower lr (now {lr:g})"),
    Rule("noise", _noise, "a term that brings the views of a sample together, or weaker augmentations"),
    Rule("prototypes", _prototypes, "a centre or Sinkhorn-Knopp, which share samples out to all prototypes"),
    Rule("stuck", _stuck, "the method's own temperature, or a higher lr (now {lr:g})"),
)


def broken(measures: Measures, progress: float) -> tuple[Rule | None, str]:
    """The first rule that finds something wrong, and what; None and "" of a healthy run."""
    early = measures.step < FIRST or progress < EARLY
    found = ((rule, rule.broken(measures)) for rule in RULES if rule.early or not early)
    return next(((rule, what) for rule, what in found if what), (None, ""))


class CollapseDetector:
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
        self.weights = self._weights()
        encoder, _, _ = self._encoder()
        heads, loss = self._heads(0.0)
        given = self._dimensions(), _distinct(self.whole), _same(self.read) and not _drops(method), self._shown()
        self.first = Measures(0, encoder, heads, loss, 0.0, encoder, heads, loss, *given)

    def __call__(self, step: int, progress: float, lr: float, gradient_norm: float, shares: dict[str, float]) -> dict[str, Any]:
        """What metrics.jsonl holds under "health": the verdict, because of what, what to try, and the measures.

        progress: share of the training behind it; shares: of its time, by name.
        """
        encoder, alignment, uniformity = self._encoder()
        heads, loss = self._heads(progress)
        heads = {name: head for name, head in heads.items() if name in self.first.heads}  # some are first used later on
        measures = replace(self.first, step=step, encoder=encoder, heads=heads, loss=loss, moved=self._moved())
        rule, because = broken(measures, progress)
        back = " ".join(f"{name}={default}" for name, default in self.knobs.items())
        remedy = "" if rule is None else f"{back} (the default)" if back and rule.knobs else rule.remedy.format(lr=lr)
        teachers = [part for part in self.method.modules() if isinstance(part, Teacher)]
        return {
            "verdict": "collapsing" if because else "healthy",
            "because": because,
            "try": remedy,
            "effective_rank": encoder.rank,
            "effective_rank_untrained": self.first.encoder.rank,
            "std": encoder.spread,
            "std_untrained": self.first.encoder.spread,
            "alignment": alignment,
            "uniformity": uniformity,
            "teacher_lag": max(float(teacher.lag()) for teacher in teachers) if teachers else None,
            "gradient_norm": gradient_norm,
            "measures": asdict(measures),
            **shares,
        }

    def _encoder(self) -> tuple[Sight, float, float]:
        """The sight of whole views, the alignment of two augmented ones, and uniformity (Wang, Isola 2020, equations 1 and 2)."""
        kept = self.method.kept
        with _looking(self.method, self.bf16, self.device, training=False):
            x, a, b = (_directions(kept(view)) for view in (self.whole, *self.pair))
        uniformity = torch.pdist(x).square().mul(-2).exp().mean().log()
        return _sight(x, a, b), float((a - b).square().sum(1).mean()), float(uniformity)

    def _heads(self, progress: float) -> tuple[dict[str, Sight], float | None]:
        """The sight of what each head that gives a vector a sample makes of the first two views, and the loss, both as in training."""
        seen: dict[str, list[Tensor]] = {}
        used: dict[str, int] = {}
        rows = len(self.read[0])

        def see(name: str, head: nn.Module, inputs: tuple[Any, ...], out: Any) -> None:
            if not isinstance(out, Tensor) or out.ndim != 2:  # a head may read tokens as well
                return
            if isinstance(head, PrototypeHead):
                used.setdefault(name, len(out[:rows].argmax(1).unique()))
                out = head.mlp(*inputs)  # of cosines to many prototypes all are alike
            seen.setdefault(name, []).append(out)

        hooks = [head.register_forward_hook(partial(see, name)) for name, head in _heads_of(self.method)]
        try:
            terms = self._terms(self.read, progress)
            loss = None if self.method.players else _sum(terms)  # a player's loss need not fall where it learns
        except UserError:  # of a method that needs more samples than are looked at
            return {}, None
        finally:
            for hook in hooks:
                hook.remove()
        sights = {}
        for name, outs in seen.items():
            if (count := sum(map(len, outs)) // rows) > 0:
                parts = _directions(torch.cat(outs)[: rows * min(count, 2)]).split(rows)
                sights[name] = replace(_sight(parts[0], *(parts if count > 1 else ())), used=used.get(name))
        return sights, loss

    def _terms(self, views: list[View], progress: float) -> Terms:
        """With players, those of the encoder's."""
        with _looking(self.method, self.bf16, self.device, training=True):
            return self.method.validate(views, progress, self.method.player_of("encoder"))

    def _dimensions(self) -> int:
        """In float32: what bfloat16 rounds away has every dimension."""
        with _looking(self.method, False, self.device, training=False):
            x = self.method.kept(self.whole).float().nan_to_num()
        values = torch.linalg.svdvals(x - x.mean(0))
        return int((values > 1e-3 * values[0]).sum())

    def _shown(self) -> float | None:
        """What the method is shown of what it is to restore; None where no view says what that is.

        Of tokens, the share that the view leaves as they were. Of anything else, whether the loss changes with what is hidden.
        """
        for place, view in enumerate(self.read):
            if view.target is None or isinstance(view.x, dict):
                continue
            if view.target.shape == view.x.shape and not view.x.is_floating_point():
                asked = view.mask if view.mask is not None else view.target_valid
                same = view.x == view.target
                return float((same if asked is None else same[asked]).float().mean())
            if view.mask is not None and view.x.is_floating_point():
                grid = self.method.encoder.grid(view)
                places = view.x.shape[1:2] if len(grid) == 1 else view.x.shape[2:]  # of series (B,T,C), of images (B,C,H,W)
                hidden = F.interpolate(view.mask.float().unflatten(1, grid).unsqueeze(1), places)  # nearest
                hidden = hidden.transpose(1, 2) if len(grid) == 1 else hidden
                other = replace(view, x=torch.where(hidden > 0, view.x.roll(1, 0), view.x))
                both = [self._terms([*self.read[:place], view, *self.read[place + 1 :]], 0.0) for view in (view, other)]
                a, b = map(_sum, both)
                return None if a is None or b is None else float(not math.isclose(a, b, rel_tol=1e-4))
        return None

    def _weights(self) -> list[Tensor]:
        """Some weights of each tensor of the kept encoder, as long as all of them are."""
        flat = [p.detach().flatten() for p in self.method.kept.parameters()]
        some = [weights[:: max(1, len(weights) // WEIGHTS)].float() for weights in flat]
        return [part * (len(whole) / max(len(part), 1)) ** 0.5 for part, whole in zip(some, flat, strict=True)]

    def _moved(self) -> float:
        change = [now - then for now, then in zip(self._weights(), self.weights, strict=True)]
        return float((nn.utils.get_total_norm(change) / nn.utils.get_total_norm(self.weights).clamp(min=1e-12)).nan_to_num(1e30, 1e30))


def _heads_of(method: Method) -> Iterator[tuple[str, nn.Module]]:
    """What a method has beside encoder and teachers, by name; of a hybrid, what its methods have. None of the encoder's adversaries."""
    for place, part in method.named_modules():
        if isinstance(part, Method):
            prefix = f"{place.removeprefix('methods.')}." if place else ""
            for name, head in part.named_children():
                owners = {part.player_of(f"{name}.{inner}") for inner, _ in head.named_parameters()} or {""}
                if head is not method.encoder and not isinstance(head, Teacher | nn.ModuleDict) and owners == {part.player_of("encoder")}:
                    yield f"{prefix}{name}", head


def _distinct(view: View) -> float:
    """Of samples; of texts, of what stands in a window of tokens: runs of one document repeated begin anywhere in it."""
    if isinstance(view.x, dict):  # a sample is a copy if all its inputs are
        numbers = [part.flatten(1).unique(dim=0, return_inverse=True)[1] for part in view.x.values()]
        return len(torch.stack(numbers, 1).unique(dim=0)) / max(len(view), 1)
    if view.x.is_floating_point() or view.x.shape[1] < WINDOW:
        pieces = view.x.flatten(1)
    else:
        pieces = view.x.unfold(1, WINDOW, 1).flatten(0, 1)
        if view.valid is not None:
            pieces = pieces[view.valid.unfold(1, WINDOW, 1).all(2).flatten()]
    return len(pieces.unique(dim=0)) / max(len(pieces), 1)


def _same(views: list[View]) -> bool:
    """Whether there are several views and they are one."""
    first, *others = (view.x if isinstance(view.x, dict) else {"": view.x} for view in views)
    return bool(others) and all(x.keys() == first.keys() and all(torch.equal(x[key], first[key]) for key in x) for x in others)


def _drops(method: Method) -> bool:
    """Whether the network itself makes two views of one: by dropout or stochastic depth."""
    shares = (part.p if isinstance(part, _DropoutNd) else getattr(part, "drop_prob", 0.0) for part in method.modules())
    return any(share > 0 for share in shares)


def _sum(terms: Terms) -> float | None:
    """The loss; None where it is not finite, as before DeepCluster's first clusters."""
    total = float(torch.stack([value.float() for value in terms.values()]).sum())
    return total if math.isfinite(total) else None


@contextmanager
def _looking(method: Method, bf16: bool, device: torch.device, training: bool) -> Iterator[None]:
    """Without gradients, in eval mode or as in training; mode, generators and BatchNorm's statistics are put back."""
    norms = [part for part in method.modules() if isinstance(part, _BatchNorm)]
    kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()] if training else []
    before = method.training
    method.train(training)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(0)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
        method.train(before)


def _directions(x: Tensor) -> Tensor:
    """x (N,D) -> the same of length 1 each; 0 where it is not finite, so that a look never ends a run."""
    return F.normalize(x.float()).nan_to_num(0.0, 0.0, 0.0)


def _sight(x: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Sight:
    """x (N,D) of length 1 each; a, b (M,D) likewise, of two views of M samples, where there are two.

    Effective rank: Roy, Vetterli 2007, the exponential of the entropy of the singular values.
    """
    values = torch.linalg.svdvals(x)
    rank = torch.special.entr(values / values.sum().clamp(min=1e-12)).sum().exp()
    energy = torch.linalg.svdvals(x - x.mean(0)).square()
    directions = energy.sum().square() / energy.square().sum().clamp(min=1e-30)
    noise = confusion = None
    if a is not None and b is not None:
        strangers = 2 * (a - a.mean(0)).square().sum(1).mean()
        noise = float((a - b).square().sum(1).mean() / strangers.clamp(min=1e-12))
        distance = torch.cdist(a, b)
        confusion = float((distance < distance.diagonal().unsqueeze(1)).float().sum() / max(len(a) * (len(a) - 1), 1))
    spread = float((energy.sum() / len(x)).sqrt())
    return Sight(float(rank), spread, float(directions), noise, confusion)
