"""DCL, decoupled contrastive learning. Yeh, Hong, Hsu, Liu, Chen, LeCun, ECCV 2022. https://arxiv.org/abs/2110.06848

Views:  two strong augmentations of the same sample.
Heads:  SimCLR's projector with one hidden layer, discarded after training.
Loss:   SimCLR's, without the positive pair in the denominator (equation 6), averaged over views and the batch.
weighted=true is DCLW: positives are weighted by the negative von Mises-Fisher function
2 - exp(a.b / sigma) / mean(exp(a.b / sigma)), with sigma 0.5, so that distant pairs count more. The weights have no gradient.
The temperature 0.1 and the settings of training are SimCLR's for ImageNet; the authors' are not public.
"""

from __future__ import annotations

from torch import Tensor

from untaught.blocks.mlp import mlp
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.contrastive import decoupled_info_nce
from untaught.ranges import Positive, Size, in_range


class DCL(Method):
    views = ("global", "global")
    paper = {"optimizer": "lars", "base_lr": 0.3, "weight_decay": 1e-6, "warmup": 0.05}

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        temperature: Positive = 0.1,  # divides the cosines; lower values emphasise hard negatives
        weighted: bool = False,  # whether distant positives count more (DCLW)
        sigma: Positive = 0.5,  # of that weighting; lower values weight them more
        width: Size = 128,  # dimensions of the projection
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = mlp(encoder.width, encoder.width, width, last_norm=True)
        self.temperature, self.weighted, self.sigma = temperature, weighted, sigma

    def forward(self, views: list[View], progress: float) -> Terms:
        return self.objective(self.project(views), progress)

    def project(self, views: list[View]) -> list[Tensor]:
        return [self.projector(self.encoder(view)) for view in views]  # two passes: BatchNorm sees one view

    def objective(self, projected: list[Tensor], progress: float) -> Terms:
        a, b = projected
        return {"decoupled": decoupled_info_nce(a, b, self.temperature, self.sigma if self.weighted else None)}
