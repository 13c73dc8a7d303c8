"""Collapse detection: a verdict on a fixed probe batch, by a table of rules whose limits benchmarks/collapse.py measures."""

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

from untaught.blocks.codes import CodeHead, GroupedCodes
from untaught.blocks.prototypes import PrototypeHead
from untaught.blocks.teacher import Teacher
from untaught.core import Batch, Method, Role, Terms, UserError, View
from untaught.pipeline.view_pipeline import Views

PROBE = 128  # samples in the probe batch
EARLY = 0.1  # share of the training before which only `early` rules apply
FIRST = 50  # steps before which only `early` rules apply
WINDOW = 8  # consecutive tokens, the unit in which texts are compared
WEIGHTS = 1024  # weights sampled from each tensor to measure how far it has moved

# Limits of the rules. "Initial" is before training. Figures in the rules are those of benchmarks/collapse.py at 40% of 200 steps.
COPIES = 0.2  # distinct share of the data below which it is mostly duplicates
SHOWN = 0.5  # visible share of the reconstruction target above which the task is trivial
DIMENSIONS = 4  # dimensions spanned by the initial features, up to which the encoder has a bottleneck
STILL = 1e-3  # relative change of the weights below which they do not train
LOST = 0.5  # relative change / sqrt(steps) above which they diverged: noise grows with that root until weight decay bounds it
SAME, FEW = 0.05, 0.2  # std of the encoder's features, and rank relative to the initial rank: healthy encoders stay above
SHRUNK, NARROW = 0.125, 0.28  # rank times std, and rank, of the first head relative to the initial values: collapsed heads are below
CONFUSED = 0.25  # confusion of that head relative to the initial one: narrow heads that serve the method are below
CLOSER = 0.8  # std relative to the initial one, below which a head that can't match views has collapsed
NOISE = 0.6  # above which two views of a sample may be as far apart as two samples
SLOW, STUCK = 0.04, 0.01  # relative change of the loss below which a narrow head is a failure, and below which nothing is learned
USED = 5  # prototypes or codes in use, up to which their head has collapsed


@dataclass(frozen=True)
class FeatureStats:
    """Statistics of the L2-normalised vectors of a set of samples."""

    rank: float  # effective rank: from 1 (all on a line through the origin) to min(samples, width)
    spread: float  # std, the root mean squared distance from the mean: 0 all the same, 1 all over the sphere
    directions: float  # participation ratio of the covariance's eigenvalues
    noise: float | None  # squared distance of two views of a sample over that of two samples: 0 invariant, 1 unrelated
    confusion: float | None  # share of other samples' second views nearer to a sample's first view than its own: 0 at best, 0.5 by chance
    used: int | None = None  # prototypes that are nearest to at least one sample
    codes: int | None = None  # discrete codes chosen at a place of at least one sample
    code_perplexity: float | None = None  # the same by the entropy of their frequencies, on average over groups of codes


@dataclass(frozen=True)
class Measures:
    """All inputs of a verdict, without labels; `first_` values are from before the first step."""

    step: int
    encoder: FeatureStats
    heads: dict[str, FeatureStats]
    loss: float | None  # on the probe batch, as in training
    moved: float  # norm of the change of the exported encoder's weights over their initial norm
    first_encoder: FeatureStats
    first_heads: dict[str, FeatureStats]
    first_loss: float | None
    dimensions: int  # spanned by the initial features: singular values of at least a thousandth of the largest
    distinct: float  # distinct share of the samples (for texts: of windows of 8 tokens)
    same_views: bool  # whether all views of a sample are identical
    shown: float | None  # visible share of the reconstruction target

    @classmethod
    def read(cls, row: dict[str, Any]) -> Measures:
        """From the "measures" of a row of metrics.jsonl."""
        read: dict[str, Any] = {key: FeatureStats(**row[key]) for key in ("encoder", "first_encoder")}
        read |= {key: {name: FeatureStats(**head) for name, head in row[key].items()} for key in ("heads", "first_heads")}
        return cls(**row | read)


class Rule(NamedTuple):
    name: str
    broken: Callable[[Measures], str]  # what is wrong; "" if the rule is satisfied
    remedy: str  # {lr} is replaced by the run's
    knobs: bool = True  # whether non-default method knobs may be the cause
    early: bool = False  # whether it applies from the first check on, because training does not change what it tests


# ------------------------------------------------------------------------------------------------------ data and views


def _samples(m: Measures) -> str:
    """Distinct: 1.00 for images, 0.95 and more for news and reviews; 0.02 for one document repeated."""
    return f"only {m.distinct:.1%} of the data is distinct, the rest are duplicates" if m.distinct < COPIES else ""


def _views(m: Measures) -> str:
    return "all views of a sample are identical, and the network has no dropout that would make them differ" if m.same_views else ""


def _shown(m: Measures) -> str:
    """BERT's masking leaves 10% to 15% of the target tokens unchanged."""
    return "the reconstruction target is visible in the input" if m.shown is not None and m.shown > SHOWN else ""


def _bottleneck(m: Measures) -> str:
    return f"the encoder's features span only {m.dimensions} dimensions, even before training" if m.dimensions <= DIMENSIONS else ""


# -------------------------------------------------------------------------------------------------------------- weights


def _frozen(m: Measures) -> str:
    """Moved: 0.09 and more in healthy runs (a teacher), 5e-6 to 2e-5 at a learning rate of 1e-7."""
    return f"the encoder hardly trains: its weights changed by {m.moved:.1g} of their norm" if m.moved < STILL else ""


def _destroyed(m: Measures) -> str:
    """Moved over the root of the steps: at most 0.13 in healthy runs, 0.6 to 20 at a thousand times the learning rate."""
    diverged = m.moved > LOST * m.step**0.5
    return f"the weights diverged: in {m.step} steps they changed by {m.moved:.0f} times their norm" if diverged else ""


# ------------------------------------------------------------------------------------------------------------ features


def _constant(m: Measures) -> str:
    """Rank times std of the first head, relative to the initial values: 0.001 to 0.10 where a constant minimises the loss (0.14 for vicreg
    without variance on text); in healthy runs 0.13 and 0.28 for dino, 0.20 and more for all others."""
    if m.encoder.spread < min(SAME, m.first_encoder.spread):
        return f"the encoder maps all samples to nearly the same vector (std {m.encoder.spread:.3f})"
    name, now, first = _first_head(m)
    shrunk = now.rank * now.spread < SHRUNK * first.rank * first.spread and now.spread < CLOSER * first.spread
    strangers = bool(_noise(m)) and now.spread < CLOSER * first.spread
    if not name or not ((shrunk and _confused(now, first)) or strangers):
        return ""
    return f"the {name} maps all samples to nearly the same vector (std {now.spread:.2f}, before training {first.spread:.2f})"


def _narrow(m: Measures) -> str:
    """Rank of the first head relative to the initial rank, and fall of the loss: 0.13 to 0.20 and 0.1% for simclr at temperature 100, 0.24
    and 2% for dino without sharpening (confusion 0.28 of the initial after 140 of 1,000 steps); in healthy runs 0.22 and a third for
    margin, 0.33 and 6% for swav."""
    if m.encoder.rank < FEW * m.first_encoder.rank:
        return f"the encoder's features have effective rank {m.encoder.rank:.1f} (before training {m.first_encoder.rank:.1f})"
    name, now, first = _first_head(m)
    if not name or now.rank > NARROW * first.rank or not _confused(now, first) or not _within(m, SLOW):
        return ""
    return f"the {name}'s output has effective rank {now.rank:.1f} (before training {first.rank:.1f}), and the loss hardly falls"


def _noise(m: Measures) -> str:
    """Two views of a sample in the first head: 0.92 and 0.88 for barlow_twins without invariance (initially 0.78 and 0.87); at most 0.66 in
    healthy runs, and below the initial value in all."""
    name, now, first = _first_head(m)
    far = now.noise is not None and first.noise is not None and now.noise > max(NOISE, first.noise)
    return f"the {name} maps two views of a sample as far apart as two samples (squared distance ratio {now.noise:.2f})" if far else ""


def _prototypes(m: Measures) -> str:
    """Used by 64 samples: 4 prototypes for dino without centring; 9 and more for healthy dino and ibot, initially 27 and more."""
    for name, head in m.heads.items():
        first = m.first_heads[name]
        if head.used is not None and first.used is not None and head.used <= USED < first.used / 2:
            return f"the {name} assigns all samples to {head.used} of its prototypes (before training {first.used})"
    return ""


def _codes(m: Measures) -> str:
    """The discrete codes of a grid: a healthy discrete_vae uses many, one whose divergence weighs too much a few. Of a group of codes of
    wav2vec2 on 50 minutes of speech, by the entropy of their frequencies: 2.2, 1.4 and 1.0 after 40, 80 and 120 steps with
    distinct negatives, 57 in short runs (before training 28 and 47)."""
    for name, head in m.heads.items():
        first = m.first_heads[name]
        if head.codes is not None and first.codes is not None and head.codes <= USED < first.codes / 2:
            return f"the {name} of all samples are the same {head.codes} (before training {first.codes})"
        now, then = head.code_perplexity, first.code_perplexity
        if now is not None and then is not None and now <= USED < then / 2:
            return f"the {name} in use, by the entropy of their frequencies, are {now:.1f} (before training {then:.0f})"
    return ""


def _stuck(m: Measures) -> str:
    """Fall of the loss: 0.1% for simclr at temperature 100; 17% and more in healthy runs."""
    return f"the loss has not changed since before training ({m.first_loss:.4g}, now {m.loss:.4g})" if _within(m, STUCK) else ""


def _first_head(m: Measures) -> tuple[str, FeatureStats, FeatureStats]:
    """The first head after the encoder, now and before training; later ones (a predictor) may be narrow. Without heads: "", the encoder."""
    name = next(iter(m.heads), "")
    return (name, m.heads[name], m.first_heads[name]) if name else (name, m.encoder, m.encoder)


def _confused(now: FeatureStats, first: FeatureStats) -> bool:
    """Whether views of a sample are matched hardly better than before training."""
    return now.confusion is not None and first.confusion is not None and now.confusion > CONFUSED * first.confusion


def _within(m: Measures, share: float) -> bool:
    """Whether the loss is within this share of its value before training."""
    return m.loss is not None and m.first_loss is not None and abs(m.loss - m.first_loss) < share * abs(m.first_loss)


APART = "a term, a predictor or a stop-gradient that prevents collapse; or a lower lr (now {lr:g})"
RULES = (  # causes before their symptoms: the first broken rule is the verdict
    Rule("samples", _samples, "data without duplicates", knobs=False, early=True),
    Rule("views", _views, "views that differ: crops and colour jitter for images, dropout or delete for text", knobs=False, early=True),
    Rule("shown", _shown, "a higher masking rate, and an encoder that does not see masked input", early=True),
    Rule("bottleneck", _bottleneck, "an encoder without such a narrow layer", knobs=False, early=True),
    Rule("frozen", _frozen, "a higher lr (now {lr:g}); if a teacher's encoder is exported, a lower momentum", knobs=False),
    Rule("destroyed", _destroyed, "a lower lr (now {lr:g}) or clip=1", knobs=False),
    Rule("constant", _constant, APART),
    Rule("narrow", _narrow, "a lower temperature, or a term that decorrelates dimensions; or a lower lr (now {lr:g})"),
    Rule("noise", _noise, "a term that pulls the views of a sample together, or weaker augmentations"),
    Rule("prototypes", _prototypes, "centring or Sinkhorn-Knopp, which balance the use of the prototypes"),
    Rule(
        "codes",
        _codes,
        "a lower weight of the codes' divergence from the uniform distribution, or a longer rise of that weight; for wav2vec2, "
        "defaults=short, or a higher weight of the diversity of codes",
    ),
    Rule("stuck", _stuck, "the method's default temperature, or a higher lr (now {lr:g})"),
)


def broken(measures: Measures, progress: float) -> tuple[Rule | None, str]:
    """The first broken rule and what is wrong; None and "" for a healthy run."""
    early = measures.step < FIRST or progress < EARLY
    found = ((rule, rule.broken(measures)) for rule in RULES if rule.early or not early)
    return next(((rule, what) for rule, what in found if what), (None, ""))


class CollapseDetector:
    """Measures the exported encoders and the outputs of the method's heads on a probe batch, relative to their state before training.

    Build it before training. views: the method's training views. whole: by role, the view in which its encoder is used. batch: samples, of
    which the first 128 are probed. knobs: the method's knobs with a non-default value, with their defaults: the first remedy to suggest. A
    role whose encoder is frozen is not probed.
    """

    def __init__(
        self, method: Method, views: Views, whole: dict[str, Views], batch: Batch, knobs: dict[str, Any], bf16: bool = False
    ) -> None:
        self.method, self.knobs, self.bf16 = method, knobs, bf16
        self.device = next(method.parameters()).device
        batch = {key: value[:PROBE].to(self.device) for key, value in batch.items()}
        half = {key: value[: PROBE // 2] for key, value in batch.items()}
        self.read = views(batch, 0)
        self.logged = self._only_logged()
        heads, loss = self._heads(0.0)
        same, shown = _same(self.read) and not _drops(method), self._shown()
        self.looks = [
            _RoleProbe(self, role, views, whole[role.name], batch, half, heads, loss, same, shown)
            for role in method.roles().values()
            if any(p.requires_grad for p in getattr(method, role.name).parameters())
        ]

    def __call__(self, step: int, progress: float, lr: float, gradient_norm: float, shares: dict[str, float]) -> dict[str, Any]:
        """The "health" entry of metrics.jsonl: verdict, cause, remedy and measures.

        With several roles: of the first that collapses, else of the first; "roles" has the measures of each.
        progress: share of the training done; shares: shares of its time by name, added to the entry.
        """
        heads, loss = self._heads(progress)
        found = {look.role.name: look(step, progress, lr, heads, loss) for look in self.looks}
        name, first = next(((name, one) for name, one in found.items() if one["because"]), next(iter(found.items())))
        teachers = [part for part in self.method.modules() if isinstance(part, Teacher)]
        several = len(self.method.roles()) > 1
        because = f"in role {name}: {first['because']}" if several and first["because"] else first["because"]
        return {
            **first,
            "because": because,
            **({"roles": found} if several else {}),
            "teacher_lag": max(float(teacher.lag()) for teacher in teachers) if teachers else None,
            "gradient_norm": gradient_norm,
            **shares,
        }

    def _heads(self, progress: float) -> tuple[dict[str, FeatureStats], float | None]:
        """Statistics of each head with one output vector per sample, on the first two views, and the loss, both as in training."""
        outputs: dict[str, list[Tensor]] = {}
        used: dict[str, int] = {}
        codes: dict[str, Tensor] = {}  # how often each chosen code is
        groups: dict[str, int] = {}  # of codes
        rows = len(self.read[0])

        def see(name: str, head: nn.Module, inputs: tuple[Any, ...], out: Any) -> None:
            if isinstance(head, CodeHead | GroupedCodes):
                counted = [value[:rows] for value in inputs[1:]]  # what is valid, if anything may be invalid
                groups[name] = head.groups
                codes.setdefault(name, head.chosen(out[:rows], *counted).unique(return_counts=True)[1])
                out = head.chances(out, *inputs[1:])
            if not isinstance(out, Tensor) or out.ndim != 2:  # a head may read tokens as well
                return
            if isinstance(head, PrototypeHead):
                used.setdefault(name, len(out[:rows].argmax(1).unique()))
                out = head.mlp(*inputs)  # before the cosines, which are nearly alike for many prototypes
            outputs.setdefault(name, []).append(out)

        hooks = [head.register_forward_hook(partial(see, name)) for name, head in _heads_of(self.method)]
        try:
            terms = self._terms(self.read, progress)
            loss = None if self.method.players else self._sum(terms)  # a player's loss need not fall as it learns
        except UserError:  # the method needs more samples than the probe batch has
            return {}, None
        finally:
            for hook in hooks:
                hook.remove()
        stats = {}
        for name, outs in outputs.items():
            if (count := sum(map(len, outs)) // rows) > 0:
                parts = _normalised(torch.cat(outs)[: rows * min(count, 2)]).split(rows)
                found = _stats(parts[0], *(parts if count > 1 else ()))
                if name in codes:
                    found = replace(found, codes=len(codes[name]), code_perplexity=_perplexity(codes[name]) / groups[name])
                stats[name] = replace(found, used=used.get(name))
        return stats, loss

    def _terms(self, views: list[View], progress: float) -> Terms:
        """The method's terms; with players, those of the encoder's player."""
        with _probing(self.method, self.bf16, self.device, training=True):
            return self.method.validate(views, progress, self.method.player_of(next(iter(self.method.roles()))))

    def _only_logged(self) -> set[str]:
        """The terms without a gradient, such as an accuracy; empty if the method needs more samples than the probe batch has."""
        try:
            with _probing(self.method, self.bf16, self.device, training=True), torch.enable_grad():
                terms = self.method.validate(self.read[:], 0.0) if not self.method.players else {}
        except UserError:
            return set()
        return {name for name, value in terms.items() if not value.requires_grad}

    def _sum(self, terms: Terms) -> float | None:
        """The loss; None if not finite, as before DeepCluster's first clustering."""
        total = float(torch.stack([value.float() for name, value in terms.items() if name not in self.logged]).sum())
        return total if math.isfinite(total) else None

    def _shown(self) -> float | None:
        """Visible share of the reconstruction target; None if no view has such a target.

        For tokens, the share that the view leaves unchanged. For anything else, 1 if the loss depends on the masked input, else 0.
        """
        for place, view in enumerate(self.read):
            if view.target is None or isinstance(view.x, dict):
                continue
            if view.target.shape == view.x.shape and not view.x.is_floating_point():
                scored = view.mask if view.mask is not None else view.target_valid
                same = view.x == view.target
                return float((same if scored is None else same[scored]).float().mean())
            if view.mask is not None and view.x.is_floating_point() and view.x.ndim > 2:  # tokens of waveforms overlap
                grid = _mask_grid(view)
                places = view.x.shape[1:2] if len(grid) == 1 else view.x.shape[2:]  # of series (B,T,C), of images (B,C,H,W)
                masked = F.interpolate(view.mask.float().unflatten(1, grid).unsqueeze(1), places)  # nearest
                masked = masked.transpose(1, 2) if len(grid) == 1 else masked
                other = replace(view, x=torch.where(masked > 0, view.x.roll(1, 0), view.x))
                both = [self._terms([*self.read[:place], view, *self.read[place + 1 :]], 0.0) for view in (view, other)]
                a, b = map(self._sum, both)
                return None if a is None or b is None else float(not math.isclose(a, b, rel_tol=1e-4))
        return None


def _mask_grid(view: View) -> tuple[int, ...]:
    """The grid of the tokens of a view's mask (B,N): (N,) for series (B,T,C), rows and columns for images (B,C,H,W), whose tokens are
    square."""
    assert view.mask is not None
    count = view.mask.shape[1]
    if view.x.ndim == 3:
        return (count,)
    rows = round((count * view.x.shape[2] / view.x.shape[3]) ** 0.5)
    return rows, count // rows


class _RoleProbe:
    """Probes one role: its exported encoder on the exported view, and on two draws of the first view that it reads."""

    def __init__(
        self,
        detector: CollapseDetector,
        role: Role,
        views: Views,
        whole: Views,
        batch: Batch,
        half: Batch,
        heads: dict[str, FeatureStats],
        loss: float | None,
        same: bool,
        shown: float | None,
    ) -> None:
        self.detector, self.role = detector, role
        place = role.reads[0] if role.reads else 0
        whole.channels_last = views.channels_last
        first = Views(views.names[place : place + 1] * 2, views.prep, views.options[place : place + 1] * 2, seed=0)
        first.channels_last = views.channels_last
        (self.whole,), self.pair = whole(batch, 0), first(half, 0)
        self.weights = self._weights()
        encoder, _, _ = self._statistics()
        heads = self._own(heads)
        given = self._dimensions(), _distinct(self.whole), same, shown
        self.first = Measures(0, encoder, heads, loss, 0.0, encoder, heads, loss, *given)

    def __call__(self, step: int, progress: float, lr: float, heads: dict[str, FeatureStats], loss: float | None) -> dict[str, Any]:
        """The verdict on this role, its cause, a remedy, and the measures."""
        encoder, alignment, uniformity = self._statistics()
        heads = {name: head for name, head in self._own(heads).items() if name in self.first.heads}  # some are first used later on
        measures = replace(self.first, step=step, encoder=encoder, heads=heads, loss=loss, moved=self._moved())
        rule, because = broken(measures, progress)
        back = " ".join(f"{name}={default}" for name, default in self.detector.knobs.items())
        remedy = "" if rule is None else f"{back} (the default)" if back and rule.knobs else rule.remedy.format(lr=lr)
        return {
            "verdict": "collapsing" if because else "healthy",
            "because": because,
            "try": remedy,
            "effective_rank": encoder.rank,
            "effective_rank_random_init": self.first.encoder.rank,
            "std": encoder.spread,
            "std_random_init": self.first.encoder.spread,
            "alignment": alignment,
            "uniformity": uniformity,
            "measures": asdict(measures),
        }

    @property
    def encoder(self) -> nn.Module:
        return self.detector.method.exported()[self.role.name]

    def _own(self, heads: dict[str, FeatureStats]) -> dict[str, FeatureStats]:
        """The heads without those behind other roles' encoders."""
        shared = self.detector.method.shared_space()
        others = {id(head) for role, head in shared.items() if role != self.role.name}
        return {name: head for name, head in heads.items() if id(getattr(self.detector.method, name, None)) not in others}

    def _statistics(self) -> tuple[FeatureStats, float, float]:
        """Statistics on unaugmented views, alignment of two augmented ones, and uniformity (Wang, Isola 2020, equations 1 and 2)."""
        with _probing(self.detector.method, self.detector.bf16, self.detector.device, training=False):
            x, a, b = (_normalised(_vectors(self.encoder, view)) for view in (self.whole, *self.pair))
        uniformity = torch.pdist(x).square().mul(-2).exp().mean().log()
        return _stats(x, a, b), float((a - b).square().sum(1).mean()), float(uniformity)

    def _dimensions(self) -> int:
        """Dimensions spanned by the features, in float32: bfloat16's rounding noise spans all of them."""
        with _probing(self.detector.method, False, self.detector.device, training=False):
            x = self.encoder(self.whole).float().nan_to_num()
        values = torch.linalg.svdvals(x - x.mean(0))
        return int((values > 1e-3 * values[0]).sum())

    def _weights(self) -> list[Tensor]:
        """A sample of the weights of each tensor of the exported encoder, scaled to the tensor's norm."""
        flat = [p.detach().flatten() for p in self.encoder.parameters()]
        some = [weights[:: max(1, len(weights) // WEIGHTS)].float() for weights in flat]
        return [part * (len(full) / max(len(part), 1)) ** 0.5 for part, full in zip(some, flat, strict=True)]

    def _moved(self) -> float:
        change = [now - then for now, then in zip(self._weights(), self.weights, strict=True)]
        return float((nn.utils.get_total_norm(change) / nn.utils.get_total_norm(self.weights).clamp(min=1e-12)).nan_to_num(1e30, 1e30))


def _vectors(encoder: nn.Module, view: View) -> Tensor:
    """(B,D); of a view with several inputs per sample, the mean of their vectors."""
    found = encoder(view.apart())
    return found if view.parts is None else found.unflatten(0, (len(view), -1)).mean(1)


def _heads_of(method: Method) -> Iterator[tuple[str, nn.Module]]:
    """A method's modules other than encoder and teachers, by name; for a hybrid, its members'. Excludes the encoder's adversaries."""
    roles = method.roles()
    encoders, first = [getattr(method, role) for role in roles], next(iter(roles))
    for place, part in method.named_modules():
        if isinstance(part, Method):
            prefix = f"{place.removeprefix('methods.')}." if place else ""
            for name, head in part.named_children():
                owners = {part.player_of(f"{name}.{inner}") for inner, _ in head.named_parameters()} or {""}
                encoder = any(head is one for one in encoders)
                if not encoder and not isinstance(head, Teacher | nn.ModuleDict) and owners == {part.player_of(first)}:
                    yield f"{prefix}{name}", head


def _distinct(view: View) -> float:
    """Distinct share of the samples; for texts, of windows of tokens, since repetitions of a document may start anywhere in it."""
    if isinstance(view.x, dict):  # a sample is a duplicate if all its inputs are
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
    """Whether there are several views, all identical."""
    first, *others = (view.x if isinstance(view.x, dict) else {"": view.x} for view in views)
    return bool(others) and all(x.keys() == first.keys() and all(torch.equal(x[key], first[key]) for key in x) for x in others)


def _drops(method: Method) -> bool:
    """Whether the network is stochastic: dropout or stochastic depth."""
    shares = (part.p if isinstance(part, _DropoutNd) else getattr(part, "drop_prob", 0.0) for part in method.modules())
    return any(share > 0 for share in shares)


@contextmanager
def _probing(method: Method, bf16: bool, device: torch.device, training: bool) -> Iterator[None]:
    """No gradients, in eval or training mode; mode, random generators and BatchNorm's statistics are restored afterwards."""
    norms = [part for part in method.modules() if isinstance(part, _BatchNorm)]
    saved = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()] if training else []
    before = method.training
    method.train(training)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(0)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                yield
    finally:
        for buffer, value in saved:
            buffer.copy_(value)
        method.train(before)


def _normalised(x: Tensor) -> Tensor:
    """x (N,D) -> L2-normalised; 0 where not finite, so that a check never ends a run."""
    return F.normalize(x.float()).nan_to_num(0.0, 0.0, 0.0)


def _perplexity(counts: Tensor) -> float:
    """The exponential of the entropy of frequencies (K,)."""
    return float(torch.special.entr(counts / counts.sum().clamp(min=1)).sum().exp())


def _stats(x: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> FeatureStats:
    """x (N,D), L2-normalised; a, b (M,D) likewise, of two views of M samples, if there are two.

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
    return FeatureStats(float(rank), spread, float(directions), noise, confusion)
