"""VICReg. Bardes, Ponce, LeCun, ICLR 2022. https://arxiv.org/abs/2105.04906

Views:  two strong augmentations of the same sample.
Heads:  an expander of three layers, discarded after training. The paper's 8192 is four times its ResNet-50's width, as is the
        default here.
Loss:   25 invariance + 25 variance + 1 covariance (section 4.1, equation 6). The invariance is averaged over dimensions,
        as in the paper's Algorithm 1, not summed as in its equation 5.
Differs from the authors' code: the variance term is not halved; the paper does not halve it.
"""

from __future__ import annotations

from torch import Tensor

from untaught.blocks.mlp import mlp
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.methods.photo import BYOL_VIEWS, photo
from untaught.ops.decorrelation import vicreg
from untaught.ranges import Size, Weight, in_range


class VICReg(Method):
    views = ("global", "global2")
    paper = {"optimizer": "lars", "base_lr": 0.2, "weight_decay": 1e-6, "warmup": 0.01}
    view_presets = photo(BYOL_VIEWS)

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        width: Size | None = None,  # units of the expander's layers; four times the encoder's width if none
        invariance: Weight = 25.0,  # weight of the distance between a sample's two views
        variance: Weight = 25.0,  # weight of the hinge that pulls each dimension's standard deviation up to 1
        covariance: Weight = 1.0,  # weight of the squared covariances between dimensions
    ) -> None:
        super().__init__()
        width = 4 * encoder.width if width is None else width
        self.encoder = encoder
        self.expander = mlp(encoder.width, width, width, width)
        self.weights = invariance, variance, covariance

    def forward(self, views: list[View], progress: float) -> Terms:
        return self.objective(self.project(views), progress)

    def project(self, views: list[View]) -> list[Tensor]:
        return [self.expander(self.encoder(view)) for view in views]  # two passes: BatchNorm sees one view

    def objective(self, projected: list[Tensor], progress: float) -> Terms:
        w_invariance, w_variance, w_covariance = self.weights
        invariance, variance, covariance = vicreg(*projected)
        return {
            "invariance": w_invariance * invariance,
            "variance": w_variance * variance,
            "covariance": w_covariance * covariance,
        }
