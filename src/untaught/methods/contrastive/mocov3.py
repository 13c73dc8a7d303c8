"""MoCo v3. Chen, Xie, He, ICCV 2021. https://arxiv.org/abs/2104.02057

Views:  two strong augmentations of the same sample, of which one is solarized at times (BYOL's).
Heads:  a projector of two layers (of three over a ViT) and a predictor of two, with BatchNorm and ReLU between layers and a
        BatchNorm without scale and shift at the end, thrown away after training. The paper's 4096 hidden units are twice its
        ResNet-50's width; so is the default here. The output has 256.
Loss:   InfoNCE of the query of each view and the keys of the other (algorithm 1): the key of the same sample is to be found
        among those of the whole batch. It is multiplied by twice the temperature, so that its gradient hardly depends on it.
Keys come from a copy of encoder and projector, without predictor, whose parameters are a moving average of the query's. Its
momentum rises from 0.99 to 1 by a cosine, as in the paper. The temperature 0.2 is the authors' for ViT; their code has 1 for ResNet.
Differs from the paper: the patch projection of a ViT is trained, not frozen at random, which the paper does for stability.
Differs from the authors' code: for ResNet their predictor does not end in a BatchNorm.
"""

from __future__ import annotations

from torch import nn

from untaught.blocks.mlp import mlp
from untaught.blocks.teacher import Teacher, cosine_momentum
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.contrastive import momentum_info_nce
from untaught.ranges import Positive, Share, Size, in_range


class MoCoV3(Method):
    views = ("global", "global2")

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        temperature: Positive = 0.2,  # divides the cosines: the lower, the more the nearest of the others count
        momentum: Share = 0.99,  # of the moving average that makes the keys' network, at the start; rises to 1 by a cosine
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
        first_way, second_way = (momentum_info_nce(*pair, self.temperature) for pair in zip(queries, (second, first), strict=True))
        return {"info_nce": first_way + second_way}

    def after_step(self, progress: float) -> None:
        for teacher in (self.key_encoder, self.key_projector):
            teacher.follow(cosine_momentum(self.momentum, progress))
