"""SimCLR. Chen, Kornblith, Norouzi, Hinton, ICML 2020. https://arxiv.org/abs/2002.05709

Views:  two strong augmentations of the same sample.
Heads:  a projector with one hidden layer (section 2.1: g(h) = W2 relu(W1 h)), discarded after training.
Loss:   NT-Xent (equation 1): the positive is the sample's other view, the negatives are the 2(N - 1) views of the other samples.
The temperature 0.1 is the paper's for ImageNet (table 5); for CIFAR-10, trained to convergence, the paper uses 0.5 (appendix B.9).
As in the authors' code, the projector's layers are followed by BatchNorm; there its statistics are of both views together, here of
each, and the last one has no offset.
"""

from __future__ import annotations

from torch import Tensor

from untaught.blocks.mlp import mlp
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.info_nce import nt_xent
from untaught.ranges import Positive, Size, in_range


class SimCLR(Method):
    views = ("global", "global")
    paper = {"optimizer": "lars", "base_lr": 0.3, "weight_decay": 1e-6, "warmup": 0.1}

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        temperature: Positive = 0.1,  # divides the cosines; lower values emphasise hard negatives
        width: Size = 128,  # dimensions of the projection
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = mlp(encoder.width, encoder.width, width, last_norm=True)
        self.temperature = temperature

    def forward(self, views: list[View], progress: float) -> Terms:
        return self.objective(self.project(views), progress)

    def project(self, views: list[View]) -> list[Tensor]:
        return [self.projector(self.encoder(view)) for view in views]  # two passes: BatchNorm sees one view

    def objective(self, projected: list[Tensor], progress: float) -> Terms:
        a, b = projected
        return {"nt_xent": nt_xent(a, b, self.temperature)}
