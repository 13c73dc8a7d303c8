"""SimSiam. Chen, He, CVPR 2021. https://arxiv.org/abs/2011.10566

Views:  two strong augmentations of the same sample.
Heads:  a projector of three layers, BatchNorm after each, and a predictor of two layers with a bottleneck of a quarter of its
        width (section 3); both discarded after training. The paper's 2048 units are its ResNet-50's width, as is the default here.
Loss:   the negative cosine between the prediction of one view and the projection of the other, with a stop-gradient on the latter
        (algorithm 1), symmetrised and averaged.
There are no teacher and no negatives. The predictor's learning rate does not decay (section 4.2).
As in the authors' code, the projector's last BatchNorm has no affine parameters. That code decays all parameters, here biases and norms
are not decayed.
"""

from __future__ import annotations

from torch import Tensor, nn

from untaught.blocks.mlp import mlp
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.methods.photo import MOCO, photo
from untaught.ops.cosine import negative_cosine
from untaught.ranges import Size, in_range


class SimSiam(Method):
    views = ("global", "global")
    groups = {"predictor": {"schedule": "constant"}}
    paper = {"optimizer": "momentum", "base_lr": 0.05, "weight_decay": 1e-4, "warmup": 0.0}
    view_presets = photo({"global": MOCO | {"scale": (0.2, 1.0)}})

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        width: Size | None = None,  # units of the projector's layers; the encoder's width if none
        bottleneck: Size | None = None,  # units of the predictor's hidden layer; a quarter of width if none
    ) -> None:
        super().__init__()
        width = encoder.width if width is None else width
        bottleneck = max(width // 4, 1) if bottleneck is None else bottleneck
        self.encoder = encoder
        last = nn.BatchNorm1d(width, affine=False)
        self.projector = nn.Sequential(*mlp(encoder.width, width, width, width, last_norm=True)[:-1], last)
        self.predictor = mlp(width, bottleneck, width)

    def forward(self, views: list[View], progress: float) -> Terms:
        return self.objective(self.project(views), progress)

    def project(self, views: list[View]) -> list[Tensor]:
        return [self.projector(self.encoder(view)) for view in views]  # two passes: BatchNorm sees one view

    def objective(self, projected: list[Tensor], progress: float) -> Terms:
        a, b = projected
        return {"distance": (negative_cosine(self.predictor(a), b) + negative_cosine(self.predictor(b), a)) / 2}
