"""NNCLR, nearest neighbours as positives. Dwibedi, Aytar, Tompson, Sermanet, Zisserman, ICCV 2021. https://arxiv.org/abs/2104.14548

Views:  two strong augmentations of the same sample.
Heads:  a projector of three layers, each followed by BatchNorm, and a predictor of two with BatchNorm after the hidden one, both
        with ReLU between layers, discarded after training. The paper's projector is as wide as its ResNet-50 and the predictor's
        hidden layer twice as wide, as are the defaults here. The output has 256.
Loss:   InfoNCE (equation 3): one view's projection is replaced by its nearest neighbour in a queue of past projections; the
        positive is the prediction of the other view, the negatives are the other predictions of the batch. Symmetrised and averaged.
Only projections of the first view enter the queue. The paper's queue of 98,304 holds a thirteenth of ImageNet; the default
here is a thirteenth of the data, at least 256. Temperature 0.1. The authors' code is not public; its settings are those of the paper.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from untaught.blocks.mlp import mlp
from untaught.blocks.queue import Queue
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.contrastive import nearest, neighbour_info_nce
from untaught.ops.gather import gather
from untaught.ranges import Positive, Size, in_range


class NNCLR(Method):
    views = ("global", "global")
    paper = {"optimizer": "lars", "base_lr": 0.3, "weight_decay": 1e-6, "warmup": 0.01}

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        temperature: Positive = 0.1,  # divides the cosines; lower values emphasise hard negatives
        queue: Size | None = None,  # past projections searched for neighbours; a 13th of the data, from 256 to 98,304, if none
        hidden: Size | None = None,  # units of the projector's hidden layers, half of the predictor's; the encoder's width if none
        width: Size = 256,  # dimensions of projection and prediction
    ) -> None:
        super().__init__()
        queue = min(98_304, max(256, facts.rows // 13)) if queue is None else queue
        hidden = encoder.width if hidden is None else hidden
        self.encoder = encoder
        self.projector = mlp(encoder.width, hidden, hidden, width, last_norm=True)
        self.predictor = mlp(width, 2 * hidden, width)
        self.queue = Queue(queue, width)
        self.temperature = temperature

    def forward(self, views: list[View], progress: float) -> Terms:
        return self.objective(self.project(views), progress)

    def project(self, views: list[View]) -> list[Tensor]:
        return [self.projector(self.encoder(view)) for view in views]  # two passes: BatchNorm sees one view

    def objective(self, projected: list[Tensor], progress: float) -> Terms:
        predicted = [F.normalize(self.predictor(z).float(), dim=1) for z in projected]
        first, second = (F.normalize(z.detach().float(), dim=1) for z in projected)
        self.pending.append(gather(first))
        pairs = zip((first, second), reversed(predicted), strict=True)
        found = [neighbour_info_nce(nearest(z, self.queue.vectors), other, self.temperature) for z, other in pairs]
        return {"info_nce": (found[0] + found[1]) / 2}

    def after_step(self, progress: float) -> None:
        for projections in self.pending:
            self.queue.push(projections)
