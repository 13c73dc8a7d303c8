"""Gram anchoring, DINOv3's term for dense features. Simeoni, Vo, Seitzer, Baldassarre, Oquab et al., 2025. https://arxiv.org/abs/2508.10104

A term beside a method with tokens, as in dinov2+gram:2; alone it learns nothing, since it only holds the similarities of tokens.

Views:  one large crop, seen whole by the student and the anchor.
Heads:  none.
Loss:   the squared difference between the Gram matrices of the student's and the anchor's normalised tokens of a sample, whose entries
        are the cosines between all pairs of tokens, averaged over pairs and samples (section 4.2; there the sum over pairs, in the
        authors' code the mean).
The anchor is an earlier teacher: a snapshot of a moving average of the encoder, taken at `start` and again after every `refresh` of the
training; before `start` the term is 0. The paper begins after a million steps, renews the anchor every 10,000 and at most three times,
and weights the term by 2. The moving average is kept here, also where the partner has a teacher of its own, so that the partner needs
none; its momentum is the paper's.
Differs from the paper: `start` and `refresh` are shares of the training; the student's tokens are those of the unmasked crop, in a pass
of their own, where the authors' code takes those of the partner's masked pass; the anchor sees the same crop at the same size (the paper
also refines with an anchor at twice the resolution, and shows it crops without colour distortion). Positions of padding do not count.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.blocks.teacher import Teacher
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.masking import joined_count
from untaught.ranges import Share, Start, in_range


class Gram(Method):
    views = ("global",)
    needs = frozenset({"tokens"})
    alone = False
    find_unused_parameters = True  # those of the pooled vector
    snapshots: Tensor  # how many have been taken

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        start: Start = 0.5,  # share of the training after which the first snapshot is taken
        refresh: Share = 0.1,  # share of the training between snapshots; 0: the first one is kept
        momentum: Share = 0.999,  # of the moving average of which snapshots are taken
    ) -> None:
        super().__init__()
        self.encoder, self.average, self.anchor = encoder, Teacher(encoder), Teacher(encoder)
        self.start, self.refresh, self.momentum = start, refresh, momentum
        self.taken = 0 if start else 1  # the number of snapshots, known without waiting for the device
        self.register_buffer("snapshots", torch.tensor(self.taken))
        self.register_load_state_dict_post_hook(_read_count)

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        own = self.encoder.features(view, ("tokens",))
        assert own.tokens is not None
        if not self.taken:
            return {"gram": 0 * own.tokens.float().sum()}
        anchor = self.anchor.features(view, ("tokens",)).tokens
        assert anchor is not None
        return {"gram": gram(own.tokens, anchor, own.valid)}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        self.average.follow(self.momentum)
        if progress < self.start:
            return
        due = 1 + (int((progress - self.start) / self.refresh) if self.refresh else 0)
        if due > self.taken:
            for kept, value in zip(self.anchor.parameters(), self.average.parameters(), strict=True):
                kept.copy_(value)
            for kept, value in zip(self.anchor.buffers(), self.average.buffers(), strict=True):
                kept.copy_(value)
            self.taken = due
            self.snapshots.fill_(due)


def gram(student: Tensor, anchor: Tensor, valid: Tensor | None = None) -> Tensor:
    """student (B,N,D), anchor (B,N,E), valid (B,N) or None -> a scalar: the mean squared difference of the cosines between all pairs of
    valid tokens of a sample."""
    x, y = (F.normalize(z.float(), dim=-1) for z in (student, anchor))
    with torch.autocast(x.device.type, enabled=False):
        difference = (x @ x.transpose(1, 2) - y @ y.transpose(1, 2)).square()
    if valid is None:
        return difference.mean()
    pairs = valid.unsqueeze(1) & valid.unsqueeze(2)
    return (difference * pairs).sum() / joined_count(pairs)


def _read_count(method: Any, _: Any) -> None:
    method.taken = int(method.snapshots)
