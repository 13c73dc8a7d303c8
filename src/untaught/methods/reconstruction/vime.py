"""VIME, its self-supervised part. Yoon et al., NeurIPS 2020. https://papers.nips.cc/paper/2020/hash/7d97667a3e056acab9aaf653807b4a03-Abstract.html

Views:  one row in which each feature is replaced, with probability 0.3, by a draw from its distribution in the training rows
        (`redrawn.level`); the view carries the mask of the features that changed, and the clean row.
Heads:  one linear layer each from the encoder's pooled vector to the mask and to the row. Discarded after training.
Loss:   binary cross-entropy of the mask, averaged over features, plus `reconstruction` times the mean squared error of the row. The
        weight is 2, as in the authors' code.
As in that code, the mask is of the values that differ, not of those that were drawn again. The encoder is exported for clean rows: its
BatchNorm statistics are those of clean ones, and those of corrupted ones are kept beside them.
Differs from the paper: numbers are scores on a normal scale and a category is several values, where the authors' code scales all to 0..1
and puts a sigmoid behind the reconstruction. The semi-supervised part (section 4.2) is not offered.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.dense_decoder import mean_over
from untaught.blocks.parts import PartEncoding
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ranges import Weight, in_range


class VIME(Method):
    views = ("redrawn",)
    paper = {"optimizer": "rmsprop", "lr": 1e-3, "weight_decay": 0.0, "warmup": 0.0, "schedule": "constant"}

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        reconstruction: Weight = 2.0,  # of the squared error, relative to the cross-entropy of the mask
    ) -> None:
        super().__init__()
        example = facts.views["redrawn"]
        assert example.mask is not None
        assert example.target is not None
        self.encoder, self.corrupted = encoder, PartEncoding(encoder)
        self.changed = nn.Linear(encoder.width, example.mask.shape[1])
        self.row = nn.Linear(encoder.width, example.target.shape[1])
        self.weight = reconstruction

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.mask is not None
        assert view.target is not None
        vectors = self.vectors(view)
        mask = F.binary_cross_entropy_with_logits(self.changed(vectors).float(), view.mask.float())
        error = (self.row(vectors).float() - view.target).square()
        return {"mask": mask, "reconstruction": self.weight * mean_over(error, None)}

    def vectors(self, view: View) -> Tensor:
        """-> the vectors of corrupted rows (B,D)."""
        return self.corrupted.read(self.encoder, view, View(view.target), None)
