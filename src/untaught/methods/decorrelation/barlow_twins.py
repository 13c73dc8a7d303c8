"""Barlow Twins. Zbontar, Jing, Misra, LeCun, Deny, ICML 2021. https://arxiv.org/abs/2103.03230

Views:  two strong augmentations of the same sample, one sometimes solarized (BYOL's).
Heads:  a projector of three layers with BatchNorm and ReLU between them, discarded after training. The paper's 8192 is four
        times its ResNet-50's width, as is the default here.
Loss:   the distance of the views' cross-correlation matrix (each dimension standardised along the full batch) from the identity:
        squared differences from 1 on the diagonal, plus 0.005 times the squared off-diagonal entries (equations 1 and 2).
As in the authors' code, biases and norms learn at 0.024 of the weights' rate, without decay and without LARS's adaptation.
"""

from __future__ import annotations

from torch import Tensor

from untaught.blocks.mlp import mlp
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.methods.photo import BYOL_VIEWS, photo
from untaught.ops.decorrelation import barlow_twins
from untaught.ranges import Size, Weight, in_range


class BarlowTwins(Method):
    views = ("global", "global2")
    paper = {"optimizer": "lars", "base_lr": 0.2, "bias_lr": 0.024, "weight_decay": 1e-6, "warmup": 0.01}
    view_presets = photo(BYOL_VIEWS)

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        redundancy: Weight = 0.005,  # weight of the squared off-diagonal entries
        width: Size | None = None,  # units of the projector's layers; four times the encoder's width if none
    ) -> None:
        super().__init__()
        width = 4 * encoder.width if width is None else width
        self.encoder = encoder
        self.projector = mlp(encoder.width, width, width, width)
        self.redundancy = redundancy

    def forward(self, views: list[View], progress: float) -> Terms:
        return self.objective(self.project(views), progress)

    def project(self, views: list[View]) -> list[Tensor]:
        return [self.projector(self.encoder(view)) for view in views]  # two passes: BatchNorm sees one view

    def objective(self, projected: list[Tensor], progress: float) -> Terms:
        invariance, redundancy = barlow_twins(*projected)
        return {"invariance": invariance, "redundancy": self.redundancy * redundancy}
