"""T-Loss. Franceschi, Dieuleveut, Jaggi, NeurIPS 2019. https://arxiv.org/abs/1901.10738

Views:  a random subseries and a random subseries of it, and another random subseries (algorithm 1), all of random lengths.
Heads:  none.
Loss:   equation 1: -log sigmoid of the dot product of a subseries and the one within it, minus the sum over K negatives, subseries of
        other series, of log sigmoid of the negated dot product.
The vectors are the encoder's pooled ones; the paper's encoder is causal, here any does.
Differs from the paper: K is not a knob. The negatives are the other series of the batch, over all processes, one subseries of each; the
paper draws K of the whole data set for every sample, its own series included. Lengths are drawn per series, where the authors' code draws
one of positives and negatives for the batch; the loss is the paper's sum over negatives, where their code takes the mean.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.gather import gather, rank


class TLoss(Method):
    views = ("nested", "subseries")
    paper = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0}  # Adam
    short = dict(paper)

    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, views: list[View], progress: float) -> Terms:
        return self.objective(self.project(views), progress)

    def project(self, views: list[View]) -> list[Tensor]:
        outer, other = views
        return [self.encoder(view) for view in (outer, inside(outer), other)]

    def objective(self, vectors: list[Tensor], progress: float) -> Terms:
        """Vectors (B,D) of the subseries, of the ones within them, and of the negatives."""
        with torch.autocast(vectors[0].device.type, enabled=False):
            outer, inner, other = (x.float() for x in vectors)
            similar = outer @ gather(other).T  # (B, world x B)
            place = torch.arange(len(outer), device=outer.device)
            own = F.one_hot(place + rank() * len(outer), similar.shape[1]).bool()
            positive = F.softplus(-(outer * inner).sum(1)).mean()
            negative = F.softplus(similar).masked_fill(own, 0.0).sum(1).mean()
        return {"positive": positive, "negative": negative}


def inside(view: View) -> View:
    """The view of the steps from meta["inner"][:, 0] to before meta["inner"][:, 1]."""
    assert view.meta is not None
    start, end = view.meta["inner"].unbind(1)
    place = torch.arange(view.x.shape[1], device=view.x.device)
    at = (start.unsqueeze(1) + place).clamp(max=view.x.shape[1] - 1)
    valid = place < (end - start).unsqueeze(1)
    x = view.x.gather(1, at.unsqueeze(2).expand_as(view.x))
    return View(torch.where(valid.unsqueeze(2), x, 0.0), valid)
