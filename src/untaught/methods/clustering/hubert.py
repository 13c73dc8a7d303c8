"""HuBERT. Hsu, Bolte, Tsai, Lakhotia, Salakhutdinov, Mohamed, TASLP 2021. https://arxiv.org/abs/2106.07447

Views:  one part of a recording, spans of whose tokens are masked, with classical features of every token as target (of sound: 13 cepstral
        coefficients, their deltas and the deltas of these, as in the paper).
Heads:  a linear layer from the encoder's tokens to `width` dimensions, and a vector for each unit there. Both are discarded after training,
        as is the mask token.
Loss:   cross-entropy of each masked token's unit, by cosines at temperature 0.1 (equation 3), averaged over masked tokens, and, with a
        weight of 1 - `masked`, over all others (equation 2); plus 10 times the mean square of the local features, whose gradients are
        scaled by 0.1 (both from the authors' code).
Units are clusters by k-means: in the first phase, from the first epoch on, of the target features; in each later phase of the output of a
layer in the middle of a copy of the encoder, taken when the phase is due (phases are of equal length) and clustered before the next epoch.
A run whose epoch is longer than a phase therefore has fewer phases. With another unit for every token, the vectors of units begin anew.
Differs from the paper: features are standardised before clustering; units are those of the part of the recording that is seen, not of
all of it; a later phase goes on from the weights of the one before, not from random ones; phases have no lengths of their own (there
250,000 and 400,000 updates).
Differs from the authors' code (fairseq, simple_kmeans; hubert_base_librispeech.yaml, which the preset `paper` follows): k-means sees all
chosen frames at every iteration and starts once from random ones (there batches of 10,000, the best of 20 starts by k-means++); vectors of
units begin normal, not uniform in 0..1; Adam's epsilon is torch's 1e-8 (1e-6); the encoder has its own dropout, 0 by default (0.1, and 0.05
of whole layers).
"unit_perplexity" is logged: the number of units in use, by the entropy of their frequencies in the batch; "accuracy" is that of masked
tokens.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.local import HasLocal
from untaught.blocks.teacher import Teacher
from untaught.blocks.units import Units
from untaught.core import Encoder, ExtractFeatures, Facts, Method, Terms, UserError, View
from untaught.ops.discrete_codes import perplexity
from untaught.ops.kmeans import NOWHERE
from untaught.ops.masking import joined_count, mask_tokens, masked_mean, take
from untaught.ranges import Few, Positive, Share, Size, Weight, in_range

MOST, EACH = 1 << 20, 16  # frames that are clustered: in all and of a recording, at most


class HuBERT(Method):
    views = ("feature_spans",)
    needs = frozenset({"tokens", "layers", "local"})
    paper = {
        "optimizer": "adamw",
        "lr": 5e-4,
        "betas": (0.9, 0.98),
        "weight_decay": 0.01,
        "schedule": "linear",
        "warmup": 0.08,
        "clip": 10.0,
        "feature_spans.starts": 0.08,
        "feature_spans.scale": (1.0, 1.0),
        "feature_spans.longest": 15.625,  # 250,000 samples
    }
    short = {"feature_spans.starts": 0.08, "later_units": 100}
    phase: Tensor  # () int64, the number of clusterings
    copies: Tensor  # () int64, of the encoder that were taken

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        units: Size = 100,  # in the first phase, of the classical features
        later_units: Size = 500,  # in later phases, of the encoder's own features
        phases: Few = 2,  # with units of their own
        layer: Few | None = None,  # of the encoder whose output is clustered in later phases; half of its depth if none
        iterations: Few = 20,  # of k-means
        masked: Share = 1.0,  # weight of masked tokens; the others have the rest
        temperature: Positive = 0.1,  # of the cosines
        width: Size = 256,  # dimensions in which tokens and units are compared
        penalty: Weight = 10.0,  # weight of the mean square of the local features
        gradient: Weight = 0.1,  # factor on the gradients of the layers that read the input
    ) -> None:
        super().__init__()
        example = next(iter(facts.views.values()))
        assert example.target is not None
        depth = len(encoder.blocks)  # type: ignore[arg-type]
        self.layer = max(depth // 2, 1) if layer is None else layer
        if self.layer > depth:
            raise UserError(f"layer={layer}: must be from 1 to the encoder's {depth}")
        self.encoder, self.copy = encoder, Teacher(encoder)
        self.mask = nn.Parameter(torch.rand(encoder.width))
        self.predicted = nn.Linear(encoder.width, width)
        self.vectors = nn.Parameter(torch.randn(max(units, later_units), width))
        self.first, self.later = Units(example.target.shape[2], units), Units(encoder.width, later_units)
        self.phases, self.iterations, self.seed = phases, iterations, facts.seed
        self.masked, self.temperature, self.penalty, self.gradient = masked, temperature, penalty, gradient
        self.each = max(1, min(EACH, MOST // max(facts.rows, 1)))
        self.now, self.taken = 0, 0  # phase and copies, known without waiting for the device
        self.register_buffer("phase", torch.tensor(self.now))
        self.register_buffer("copies", torch.tensor(self.taken))
        self.register_load_state_dict_post_hook(_read_counts)

    # ----------------------------------------------------------------------------------------------------------- units

    def before_epoch(self, epoch: int, extract_features: ExtractFeatures) -> None:
        if self.now > self.taken:
            return
        _, rows = extract_features("copied_rows" if self.now else "described_rows", 0)
        units = self.later if self.now else self.first
        units.fit(rows.view(-1, units.mean.shape[0]), self.iterations, (self.seed << 16) + self.now)
        if self.now:
            generator = torch.Generator().manual_seed((self.seed << 16) + self.now)
            with torch.no_grad():
                self.vectors.copy_(torch.randn(self.vectors.shape, generator=generator))
        self.now = self.taken + 1
        self.phase.fill_(self.now)

    def described_rows(self, view: View) -> Tensor:
        """-> some tokens' classical features (B, n * F)."""
        assert view.target is not None
        assert view.target_valid is not None
        return _spread(view.target, view.target_valid[:, :, 0].sum(1), self.each).flatten(1)

    def copied_rows(self, view: View) -> Tensor:
        """-> the copy's features of some tokens (B, n * D)."""
        features, valid = self.copied(view)
        count = features.new_full((len(features),), features.shape[1]) if valid is None else valid.sum(1)
        return _spread(features, count, self.each).flatten(1)

    def copied(self, view: View) -> tuple[Tensor, Tensor | None]:
        """-> the output of the copy's layer (B,N,D), without masks, and its validity."""
        found = self.copy.features(view, ("layers",))
        assert found.layers is not None
        return found.layers[self.layer - 1].float(), found.valid

    @torch.no_grad()
    def units_of(self, view: View) -> tuple[Tensor, int]:
        """-> the unit of every token (B,N), and the number of all units."""
        assert view.target is not None
        if self.now > 1:
            return self.later.nearest(self.copied(view)[0]), len(self.later.centroids)
        return self.first.nearest(view.target), len(self.first.centroids)

    # ------------------------------------------------------------------------------------------------------------ loss

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.mask is not None
        assert view.meta is not None
        local = cast(HasLocal, self.encoder).local(view, self.gradient)
        valid = torch.ones_like(view.mask) if local.valid is None else local.valid
        masked = view.mask & valid
        tokens = self.encoder.context(mask_tokens(local.tokens, masked, self.mask), local.valid).tokens
        assert tokens is not None
        units, count = self.units_of(view)
        at = view.meta["places"]
        seen, own = masked.gather(1, at), units.gather(1, at)
        loss, right = self.cross_entropy(take(tokens, at), own, seen, count)
        square = torch.where(valid, local.raw.float().square().mean(2), 0.0)
        terms = {"masked": self.masked * loss, "penalty": self.penalty * masked_mean(square, valid)}
        if self.masked < 1:
            terms["unmasked"] = (1 - self.masked) * self.cross_entropy(tokens, units, valid & ~masked, count)[0]
        used = perplexity(F.one_hot(own, count).float().unsqueeze(2), seen).sum()
        return {**terms, "accuracy": right, "unit_perplexity": used}

    def cross_entropy(self, tokens: Tensor, units: Tensor, counted: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """tokens (B,M,D), units and counted (B,M) -> two scalars: the mean loss, NaN before the first clustering, and the share of tokens
        whose unit is the most probable."""
        x = self.predicted(tokens).float()
        with torch.autocast(x.device.type, enabled=False):
            scores = F.normalize(x, dim=-1) @ F.normalize(self.vectors[:count]).T / self.temperature
        target = torch.where(counted, units, NOWHERE)
        loss = F.cross_entropy(scores.flatten(0, 1), target.flatten(), ignore_index=NOWHERE, reduction="sum") / joined_count(counted)
        right = masked_mean((scores.detach().argmax(2) == units).float(), counted)
        return loss if self.now else loss * math.nan, right

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        due = min(int(progress * self.phases), self.phases - 1)
        if due > self.taken:
            self.copy.follow(0.0)
            self.taken = due
            self.copies.fill_(due)


def _spread(x: Tensor, count: Tensor, number: int) -> Tensor:
    """x (B,N,F), of which the first `count` (B,) are valid -> (B,number,F): evenly spaced ones, repeated if there are fewer."""
    at = ((torch.arange(number, device=x.device) + 0.5) / number * count.unsqueeze(1)).long()
    return take(x, at)


def _read_counts(method: Any, _: Any) -> None:
    method.now, method.taken = int(method.phase), int(method.copies)
