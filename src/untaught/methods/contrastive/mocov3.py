"""MoCo v3. Chen, Xie, He, ICCV 2021. https://arxiv.org/abs/2104.02057

Views:  two strong augmentations of the same sample, one sometimes solarized (BYOL's).
Heads:  a projector of two layers (three for a ViT) and a predictor of two, with BatchNorm and ReLU between layers and a final
        BatchNorm without affine parameters, discarded after training. The paper's 4096 hidden units are twice its ResNet-50's
        width, as is the default here. The output has 256.
Loss:   symmetrised InfoNCE of the queries of one view and the keys of the other (algorithm 1), with the keys of the full batch as
        negatives. It is multiplied by twice the temperature, which makes the gradient's scale nearly independent of it.
Keys come from a copy of encoder and projector, without predictor, whose parameters are a moving average of the query network's. The
momentum rises from 0.99 to 1 on a cosine schedule, as in the paper. The temperature 0.2 is the authors' for ViT; for ResNet their
code has 1.
The paper's settings are those of a ViT, with fixed positions and a patch projection frozen at random init for stability; short runs
train both. For ResNet the authors have LARS with base_lr=0.3, weight decay 1e-6 and temperature 1.
Differs from the authors' code: for ResNet their predictor does not end in a BatchNorm; they decay all parameters of a ViT.
"""

from __future__ import annotations

from torch import nn

from untaught.blocks.mlp import mlp
from untaught.blocks.teacher import Teacher, cosine_momentum
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.methods.photo import BYOL_VIEWS, photo
from untaught.ops.contrastive import momentum_info_nce
from untaught.ranges import Positive, Share, Size, in_range


class MoCoV3(Method):
    views = ("global", "global2")
    paper = {
        "optimizer": "adamw",
        "base_lr": 1.5e-4,
        "weight_decay": 0.1,
        "warmup": 40 / 300,
        "encoder.positions": "sines",
        "encoder.freeze_patches": True,
    }
    view_presets = photo(BYOL_VIEWS)

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        temperature: Positive = 0.2,  # divides the cosines; lower values emphasise hard negatives
        momentum: Share = 0.99,  # initial momentum of the moving average that is the key network; rises to 1 on a cosine schedule
        hidden: Size | None = None,  # units of the hidden layers; twice the encoder's width if none
        width: Size = 256,  # dimensions of projection and prediction
    ) -> None:
        super().__init__()
        hidden = 2 * encoder.width if hidden is None else hidden
        inside = (hidden, hidden) if "tokens" in encoder.offers else (hidden,)
        self.encoder = encoder
        self.projector = nn.Sequential(mlp(encoder.width, *inside, width), nn.BatchNorm1d(width, affine=False))
        self.predictor = nn.Sequential(mlp(width, hidden, width), nn.BatchNorm1d(width, affine=False))
        self.key_encoder, self.key_projector = Teacher(self.encoder), Teacher(self.projector)
        self.temperature, self.momentum = temperature, momentum

    def forward(self, views: list[View], progress: float) -> Terms:
        queries = [self.predictor(self.projector(self.encoder(view))) for view in views]
        first, second = (self.key_projector(self.key_encoder(view)) for view in views)
        forwards, backwards = (momentum_info_nce(*pair, self.temperature) for pair in zip(queries, (second, first), strict=True))
        return {"info_nce": forwards + backwards}

    def after_step(self, progress: float) -> None:
        for teacher in (self.key_encoder, self.key_projector):
            teacher.follow(cosine_momentum(self.momentum, progress))
