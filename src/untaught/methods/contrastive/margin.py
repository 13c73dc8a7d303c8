"""A margin between strangers. Hadsell, Chopra, LeCun, CVPR 2006. https://doi.org/10.1109/CVPR.2006.100

Views:  two strong augmentations of the same sample.
Heads:  a projector of one hidden layer with BatchNorm and ReLU, thrown away after training. The paper measures distances in
        the network's own output, of two or three dimensions.
Loss:   half the squared distance of two views of a sample, and half the squared shortfall of the distance of two samples from
        the margin (equation 4), with Euclidean distances (equation 1).
The paper learns from pairs that are given, neighbours or not, and sums over all of them; here the neighbours are two views of a
sample, the strangers all views of the other samples of the batch, and each of the two terms is the mean of its pairs.
The margin is 10, about twice the distance of samples under an untrained projector of 128 dimensions. One that all of them exceed
lets the first term shrink everything before the second has a say.
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
        margin: Positive = 10.0,  # distance that two samples are to keep at least
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
