"""BYOL, bootstrap your own latent. Grill, Strub, Altche, Tallec, Richemond et al., NeurIPS 2020. https://arxiv.org/abs/2006.07733

Views:  two strong augmentations of the same sample, one sometimes solarized (appendix B).
Heads:  a projector and a predictor, each with one hidden layer, BatchNorm and ReLU, discarded after training. The paper's 4096
        hidden units are twice its ResNet-50's width, as is the default here. The output has 256, as in the paper.
Loss:   the squared distance between the normalised prediction of one view and the teacher's normalised projection of the other
        (equation 2), symmetrised, averaged over the batch.
The teacher's momentum rises from its base to 1 on a cosine schedule (section 3.2). The paper's base for 1000 epochs is 0.996; in short
runs it is 0.99, since over a few hundred steps a slower teacher barely leaves its initialisation.
The online encoder is exported, as in the paper. The teacher's BatchNorm keeps separate statistics.
"""

from __future__ import annotations

from untaught.blocks.mlp import mlp
from untaught.blocks.teacher import Teacher, cosine_momentum
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.methods.photo import BYOL_VIEWS, photo
from untaught.ops.cosine import cosine_distance
from untaught.ranges import Share, Size, in_range


class BYOL(Method):
    views = ("global", "global2")
    paper = {"optimizer": "lars", "base_lr": 0.2, "weight_decay": 1.5e-6, "warmup": 0.01}
    short = {"momentum": 0.99}
    view_presets = photo(BYOL_VIEWS)

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        momentum: Share = 0.996,  # of the teacher at the start; rises to 1 on a cosine schedule
        hidden: Size | None = None,  # units of the projector's and the predictor's hidden layer; twice the encoder's width if none
        width: Size = 256,  # dimensions of projection and prediction
    ) -> None:
        super().__init__()
        hidden = 2 * encoder.width if hidden is None else hidden
        self.encoder = encoder
        self.projector = mlp(encoder.width, hidden, width)
        self.predictor = mlp(width, hidden, width)
        self.teacher_encoder, self.teacher_projector = Teacher(self.encoder), Teacher(self.projector)
        self.momentum = momentum

    def forward(self, views: list[View], progress: float) -> Terms:
        predicted = [self.predictor(self.projector(self.encoder(view))) for view in views]
        first, second = (self.teacher_projector(self.teacher_encoder(view)) for view in views)
        return {"distance": cosine_distance(predicted[0], second) + cosine_distance(predicted[1], first)}

    def after_step(self, progress: float) -> None:
        for teacher in (self.teacher_encoder, self.teacher_projector):
            teacher.follow(cosine_momentum(self.momentum, progress))
