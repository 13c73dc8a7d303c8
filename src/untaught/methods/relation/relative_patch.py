"""Context prediction: the relative position of two patches. Doersch, Gupta, Efros, ICCV 2015. https://arxiv.org/abs/1505.05192

Views:  a patch and its eight neighbours in a 3 x 3 grid, with gaps of half a patch between them and a jitter of up to 7 of 96 pixels;
        and the whole image, for the statistics of BatchNorm only (see below).
Heads:  the vectors of the central patch and of a neighbour, from the same encoder, are concatenated; two hidden layers (fc7 and fc8) and
        a linear classifier of the eight positions follow. All are discarded after training.
Loss:   the mean cross-entropy of the eight positions. The accuracy is logged; guessing reaches 12.5%.
Against shortcuts (sections 3.1 and 3.2, and the authors' code): gap and jitter, so that lines do not continue; all colour channels but
one, drawn for each patch, are replaced by noise with a hundredth of its standard deviation, so that chromatic aberration gives nothing
away (neighbours.drop=1; or neighbours.drop=0 neighbours.project=1 for the paper's other remedy, projection); a third of the patches is
downsampled, to 10 x 10 of 96 x 96 pixels at most, and back; each patch is normalised by itself.
A patch has a quarter of the view's side, rounded to a multiple of the encoder's stride; the paper's has 96 pixels in images of
150,000 to 450,000 pixels, which the random crop covers.
Differs from the paper and the authors' code: they train on pairs of neighbours in a larger grid; here all pairs have the same central
patch, so that its place in the image says nothing about the answer. Hidden layers are as wide as the encoder (the paper:
4096, as fc6), with BatchNorm that has scale and shift. Their encoder ends in fc6, ours in pooled vectors.
The authors' code has plain SGD at a constant rate of 1e-5, for a loss summed over the pairs of a batch: for their mean and 256 images of
eight pairs, 1e-5 x 2,048. The paper finds that high momentum, such as 0.999, learns faster; their code has none.
The encoder is exported for full images: its BatchNorm statistics are those of full images, and those of patches are kept beside them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.blocks.mlp import mlp
from untaught.blocks.parts import PartEncoding, check_parts, check_tiles
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.classification import classified
from untaught.ranges import Size, in_range


class RelativePatch(Method):
    views = ("neighbours", "whole")
    answers = "patches at their places"
    paper = {"optimizer": "sgd", "base_lr": 1e-5 * 8 * 256, "momentum": 0.0, "weight_decay": 0.0, "warmup": 0.0, "schedule": "constant"}

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        hidden: Size | None = None,  # units of each hidden layer of the head; the encoder's width if none
    ) -> None:
        super().__init__()
        example = next(iter(facts.views.values()))
        classes = check_parts(example, "relative_patch", "neighbours", count=9).shape[-1]
        check_tiles(encoder, example, "neighbours")
        hidden = encoder.width if hidden is None else hidden
        self.encoder, self.parts = encoder, PartEncoding(encoder)
        self.head = mlp(2 * encoder.width, hidden, hidden, classes)
        self.chance = 1 / classes

    def forward(self, views: list[View], progress: float) -> Terms:
        assert views[0].target is not None
        return classified(self.score(views), views[0].target)

    def score(self, views: list[View]) -> Tensor:
        """-> the logits of each neighbour's position (B,8,8)."""
        vectors = self.parts(self.encoder, *views)
        pairs = torch.cat([vectors[:, :1].expand(-1, vectors.shape[1] - 1, -1), vectors[:, 1:]], 2)
        return self.head(pairs.flatten(0, 1)).unflatten(0, pairs.shape[:2])

    @torch.no_grad()
    def solve(self, views: list[View]) -> Tensor:
        """-> the probability of each neighbour's position (B,8,8)."""
        return self.score(views).float().softmax(2)
