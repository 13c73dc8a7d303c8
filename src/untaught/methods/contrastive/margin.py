"""Contrastive loss with a margin. Hadsell, Chopra, LeCun, CVPR 2006. https://doi.org/10.1109/CVPR.2006.100

Views:  two strong augmentations of the same sample.
Heads:  a projector with one hidden layer, BatchNorm and ReLU, discarded after training. The paper measures distances in
        the network's own output, of two or three dimensions.
Loss:   half the squared distance of a positive pair, and half the squared shortfall of a negative pair's distance from the margin
        (equation 4), with Euclidean distances (equation 1).
The paper is given positive and negative pairs and sums over all of them. Here the two views of a sample are the positive pair, all
views of the other samples in the batch are negatives, and each of the two terms is the mean over its pairs.
The margin is 10, about twice the distance between samples under a randomly initialised projector of 128 dimensions. With a margin
that all distances exceed, the first term would shrink the embedding before the second acts.
"""

from __future__ import annotations

from torch import Tensor

from untaught.blocks.mlp import mlp
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.contrastive import margin
from untaught.ranges import Positive, Size, in_range


class Margin(Method):
    views = ("global", "global")

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        margin: Positive = 10.0,  # distance beyond which a negative pair no longer contributes
        width: Size = 128,  # dimensions of the projection
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = mlp(encoder.width, encoder.width, width)
        self.margin = margin

    def forward(self, views: list[View], progress: float) -> Terms:
        return self.objective(self.project(views), progress)

    def project(self, views: list[View]) -> list[Tensor]:
        return [self.projector(self.encoder(view)) for view in views]  # two passes: BatchNorm sees one view

    def objective(self, projected: list[Tensor], progress: float) -> Terms:
        a, b = projected
        together, apart = margin(a, b, self.margin)
        return {"together": together, "apart": apart}
