"""MSN, masked siamese networks. Assran, Caron, Misra, Bojanowski, Bordes et al., ECCV 2022. https://arxiv.org/abs/2204.07141

Views:  one large crop that the teacher sees (the target), and eleven that the student sees (the anchors): another large one, of
        which 15% of the tokens are dropped at random, and ten small ones, the focal masks.
Heads:  a projector of two hidden layers with BatchNorm and GELU to 256 units, thrown away after training, as are the 1024
        prototypes, which student and teacher share. Hidden layers have four times the encoder's width; the authors' code has
        2048 for ViT-S's 384.
Loss:   cross-entropy between the target's sharpened soft assignment to prototypes and each anchor's, less the entropy of the
        anchors' mean assignment over all processes (equation 1; me-max).
As in the authors' configuration, the sharpened targets are brought to equal use of the prototypes by three iterations of
Sinkhorn-Knopp (sinkhorn=0 leaves that out), and the entropy is subtracted from its greatest value, so that the term is 0 at best.
The share that is dropped is the authors' for ViT-S; larger ones stand more (global_masked.rate).
The teacher's momentum rises linearly to 1. The authors' code begins at 0.996, the default here at 0.99, since over a few
hundred steps a slower teacher is still the network that it began as.
What is kept is the teacher's encoder, as in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.blocks.prototypes import PrototypeHead
from untaught.blocks.teacher import Teacher, ramp
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.masking import shown, take
from untaught.ops.self_distillation import msn
from untaught.ranges import FewOrNone, Positive, Share, Size, Weight, in_range


class MSN(Method):
    views = ("global", "global_masked", *("local",) * 10)
    needs = frozenset({"tokens"})

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        momentum: Share = 0.99,  # of the teacher at the start; rises to 1 linearly
        temperature: Positive = 0.1,  # of the softmax of target and anchors
        sharpening: Positive = 0.25,  # temperature of the target's assignment after that; lower is sharper
        sinkhorn: FewOrNone = 3,  # iterations that bring targets to equal use of the prototypes; 0 leaves them as they are
        me_max: Weight = 1.0,  # weight of the entropy that the mean assignment lacks
        prototypes: Size = 1024,  # directions that samples are told by
        hidden: Size | None = None,  # units of the head's hidden layers; four times the encoder's width if none
        width: Size = 256,  # dimensions in which cosines to the prototypes are taken
    ) -> None:
        super().__init__()
        hidden = 4 * encoder.width if hidden is None else hidden
        example = facts.views["global_masked"]
        assert example.mask is not None
        self.seen = int((~example.mask[0]).sum())
        self.encoder, self.head = encoder, PrototypeHead(encoder.width, hidden, width, prototypes, normed=True)
        self.teacher_encoder, self.teacher_projector = Teacher(self.encoder), Teacher(self.head.mlp)
        self.momentum, self.temperature, self.sharpening = momentum, temperature, sharpening
        self.iterations, self.me_max = sinkhorn, me_max

    @property
    def kept(self) -> Encoder:
        return self.teacher_encoder.network  # type: ignore[return-value]

    def forward(self, views: list[View], progress: float) -> Terms:
        whole, masked, small = views[0], views[1], View.cat(views[2:])
        assert masked.mask is not None
        tokens, valid = self.encoder.embed(masked)
        at, at_valid = shown(masked.mask, valid, self.seen)
        large = self.encoder.context(take(tokens, at), at_valid, at=at, want=("pooled",)).pooled
        anchors = torch.cat([self.head(large), self.head(self.encoder(small))])  # crops of one size through BatchNorm together
        with torch.no_grad():
            target = self.head.cosines(self.teacher_projector(self.teacher_encoder(whole)))
        return self.terms(anchors.float(), target.float())

    def terms(self, anchors: Tensor, target: Tensor) -> Terms:
        """anchors (A x B, K), target (B,K): cosines to the prototypes."""
        cross_entropy, me_max = msn(anchors, target, self.temperature, self.sharpening, self.iterations)
        return {"cross_entropy": cross_entropy, "me_max": self.me_max * me_max}

    def after_step(self, progress: float) -> None:
        for teacher in (self.teacher_encoder, self.teacher_projector):
            teacher.follow(ramp((self.momentum, 1.0), 1.0, progress))
