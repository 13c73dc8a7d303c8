"""Feature distillation, AM-RADIO's loss. Ranzinger, Heinrich, Kautz, Molchanov, CVPR 2024. https://arxiv.org/abs/2312.06709

Views:  one augmented view of a sample, the same for the student and all teachers ("consistent teaching": Beyer et al., CVPR 2022,
        https://arxiv.org/abs/2106.05237). Each teacher gets it in its own size and normalisation.
Heads:  for each teacher, one for the pooled vector and one for the vectors of the grid: Linear, LayerNorm, GELU, Linear, to the
        teacher's width. Discarded after training.
Loss:   the sum over teachers of the cosine distance between pooled vectors, and of 0.9 cosine distance + 0.1 smooth L1 between the
        vectors at the same place of the grid. The grid is the encoder's last map, or else its tokens.
A teacher's grid of another size is resampled to the student's; the paper resamples the student's. Where student or teacher has no
grid, or the views have padding and no tokens, only the pooled vectors count.
Teachers are frozen and used in eval mode. Their weights are in no checkpoint: a run stores their names and checksums, and resumes only
with the same weights.
With views=whole, which is the same in every epoch, a teacher sees each sample once: its pooled vectors are kept, up to 1 GiB, and the grid
does not count unless `dense` is given. So are short runs trained; the paper's settings here are its views and weights, with the loop's
optimizer.
The paper trains on two partitions with different teachers and resolutions, and weights SAM's pooled vector with 0; here every teacher
sees every sample, with the same weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.frozen import Frozen
from untaught.core import Encoder, ExtractFeatures, Facts, Features, Method, Terms, UserError, View
from untaught.ops.masking import joined_count
from untaught.ranges import Share, Size, Weight, in_range

FIXED = "whole"  # the view that is the same in every epoch
MOST = 1 << 30  # bytes of teachers' vectors that are kept


class FeatureDistillation(Method):
    views = ("global",)
    taught = True
    paper = {"views": ("global",)}
    short = {"views": ("whole",)}
    vectors: Tensor  # (rows, sum of the teachers' widths), if they are kept
    kept: Tensor  # whether `vectors` are computed

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        teachers: tuple[str, ...] = (),  # trained encoders, separated by commas: a run, an encoder folder, timm/NAME, transformers/NAME
        pooled: Weight = 1.0,  # weight of the pooled vectors
        dense: Weight | None = None,  # weight of the vectors of the grid; if none 1, or 0 where the pooled vectors can be kept
        smooth: Share = 0.1,  # share of smooth L1 in the loss of the grid, beside the cosine distance
        hidden: Size | None = None,  # units of the heads' hidden layers; the larger of the student's and the teacher's width if none
    ) -> None:
        super().__init__()
        if not facts.teachers:
            raise UserError("feature_distillation needs a trained teacher: teachers=RUN, teachers=timm/NAME or teachers=transformers/NAME")
        if not pooled and dense == 0:
            raise UserError("pooled=0 dense=0 leaves nothing to learn; give one of them a weight")
        example = next(iter(facts.views.values()))
        self.encoder, self.teachers = encoder, Frozen(facts.teachers)
        padded = example.valid is not None
        widths = [features.pooled.shape[1] for features in self.teachers(example, [("pooled",)] * len(facts.teachers))]  # type: ignore[union-attr]
        fits = FIXED in facts.views and 4 * facts.rows * sum(widths) <= MOST
        dense = (0.0 if fits and pooled else 1.0) if dense is None else dense
        self.weights, self.smooth = (pooled, dense), smooth
        self.grids = [grid_of(encoder, one.encoder, padded) if dense else "" for one in facts.teachers]
        if not pooled and not all(self.grids):
            name = facts.teachers[self.grids.index("")].name
            raise UserError(f"pooled=0: student and teacher {name} must both offer maps or tokens, which they do not; give pooled a weight")
        own = {kind: at_places(_features(encoder, example, (kind,)), kind)[0].shape[-1] for kind in set(self.grids) - {""}}
        found = self.teachers(example, [("pooled", kind) if kind else ("pooled",) for kind in self.grids])
        self.heads = nn.ModuleList(head(encoder.width, width, hidden) if pooled else nn.Identity() for width in widths)
        self.grid_heads = nn.ModuleList(
            head(own[kind], at_places(features, kind)[0].shape[-1], hidden) if kind else nn.Identity()
            for kind, features in zip(self.grids, found, strict=True)
        )
        self.keeps = fits and not any(self.grids)
        self.widths = widths
        if self.keeps:
            self.register_buffer("vectors", torch.zeros(facts.rows, sum(widths)))
            self.register_buffer("kept", torch.zeros((), dtype=torch.bool))
            self.reads_kept = False
            self.register_load_state_dict_post_hook(lambda module, _: setattr(module, "reads_kept", bool(module.kept)))

    @classmethod
    def wants_features(cls, views: Sequence[str]) -> bool:
        return FIXED in views

    def before_epoch(self, epoch: int, extract_features: ExtractFeatures) -> None:
        if self.keeps and not self.reads_kept:
            index, rows = extract_features("teach", 0)
            self.vectors[index.to(self.vectors.device)] = rows.to(self.vectors)
            self.kept.fill_(True)
            self.reads_kept = True

    def teach(self, view: View) -> Tensor:
        """The pooled vectors of all teachers, side by side, (B, sum of their widths)."""
        return torch.cat([features.pooled for features in self.teachers(view, [("pooled",)] * len(self.widths))], 1)  # type: ignore[misc]

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        kinds = tuple(sorted(set(self.grids) - {""}))
        student = self.encoder.features(view, want=("pooled", *kinds))
        assert student.pooled is not None
        if self.keeps and self.reads_kept:
            assert view.meta is not None
            taught = [Features(pooled=rows) for rows in self.vectors[view.meta["index"]].split(self.widths, 1)]
        else:
            taught = self.teachers(view, [("pooled", kind) if kind else ("pooled",) for kind in self.grids])
        terms: Terms = {}
        for number, (teacher, kind) in enumerate(zip(taught, self.grids, strict=True)):
            place = f"_{number}" if len(taught) > 1 else ""
            assert teacher.pooled is not None
            if self.weights[0]:
                terms[f"pooled{place}"] = self.weights[0] * matched(self.heads[number](student.pooled), teacher.pooled, 0.0)
            if kind:
                (x, valid), (y, _) = at_places(student, kind), at_places(teacher, kind, like=student)
                terms[f"dense{place}"] = self.weights[1] * matched(self.grid_heads[number](x), y, self.smooth, valid)
        return terms


def head(inside: int, outside: int, hidden: int | None) -> nn.Sequential:
    hidden = max(inside, outside) if hidden is None else hidden
    return nn.Sequential(nn.Linear(inside, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, outside))


def grid_of(student: Encoder, teacher: Encoder, padded: bool) -> str:
    """ "maps" or "tokens", which both offer; "" if there is none. Maps do not support padding."""
    kinds = ("tokens",) if padded else ("maps", "tokens")
    return next((kind for kind in kinds if kind in student.offers and kind in teacher.offers), "")


def at_places(features: Features, kind: str, like: Features | None = None) -> tuple[Tensor, Tensor | None]:
    """The vectors of the last map or of the tokens, (B,N,D), and their validity (B,N); with `like`, resampled to the grid of those."""
    if kind == "maps":
        assert features.maps is not None
        last = features.maps[-1]
        if like is not None and like.maps is not None and like.maps[-1].shape[2:] != last.shape[2:]:
            last = F.interpolate(last.float(), like.maps[-1].shape[2:], mode="bilinear", align_corners=False, antialias=True)
        return last.flatten(2).transpose(1, 2), None
    assert features.tokens is not None
    tokens = features.tokens
    if like is not None and like.tokens is not None and like.tokens.shape[1] != tokens.shape[1]:
        if features.valid is not None or like.valid is not None:
            raise UserError(
                f"the teacher has {tokens.shape[1]} tokens where the student has {like.tokens.shape[1]}, which can't be matched with "
                "padding; choose a teacher with the same tokens, or dense=0"
            )
        tokens = F.interpolate(tokens.float().transpose(1, 2), like.tokens.shape[1], mode="linear", align_corners=False).transpose(1, 2)
    return tokens, features.valid


def matched(x: Tensor, y: Tensor, smooth: float, valid: Tensor | None = None) -> Tensor:
    """x, y (...,D), valid (...) or None -> a scalar: (1 - smooth) * cosine distance + smooth * smooth L1, averaged over valid vectors."""
    x, y = x.float(), y.float()
    distance = 1 - F.cosine_similarity(x, y, dim=-1)
    if smooth:
        distance = (1 - smooth) * distance + smooth * F.smooth_l1_loss(x, y, reduction="none").mean(-1)
    return distance.mean() if valid is None else (distance * valid).sum() / joined_count(valid)


@torch.no_grad()
def _features(encoder: Encoder, example: View, want: tuple[str, ...]) -> Features:
    training = encoder.training
    features = encoder.eval().features(example, want=want)
    encoder.train(training)
    return features
