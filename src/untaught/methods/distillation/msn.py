"""MSN, masked siamese networks. Assran, Caron, Misra, Bojanowski, Bordes et al., ECCV 2022. https://arxiv.org/abs/2204.07141

Views:  one large crop that the teacher sees (the target), and eleven that the student sees (the anchors): another large one with
        15% of its tokens dropped at random, and ten small ones (focal masks).
Heads:  a projector with two hidden layers, BatchNorm and GELU to 256 units, and 1024 prototypes shared by student and teacher, both
        discarded after training. Hidden layers have four times the encoder's width; the authors' code has 2048 for ViT-S's 384.
Loss:   cross-entropy between the target's sharpened soft assignment to prototypes and each anchor's, minus the entropy of the
        anchors' mean assignment over all processes (equation 1; me-max).
As in the authors' configuration, three Sinkhorn-Knopp iterations give the prototypes equal shares of the sharpened targets
(sinkhorn=0 disables that). The me-max term is the maximum entropy minus the entropy, so that its minimum is 0.
The share of dropped tokens is the authors' for ViT-S; larger encoders can take more (global_masked.rate).
The teacher's momentum rises linearly to 1, from 0.996; in short runs from 0.99, since over a few hundred steps a slower teacher barely
leaves its initialisation. As in the authors' code, prototypes are not decayed.
The teacher's encoder is exported, as in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.blocks.prototypes import PrototypeHead
from untaught.blocks.teacher import Teacher, ramp
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.methods.photo import MOCO, photo
from untaught.ops.masking import take, visible_places
from untaught.ops.self_distillation import msn
from untaught.ranges import FewOrNone, Positive, Share, Size, Weight, in_range


class MSN(Method):
    views = ("global", "global_masked", *("local",) * 10)
    needs = frozenset({"tokens"})
    multicrop = "local"
    groups = {"head.prototypes": {"weight_decay": 0.0}}
    paper = {
        "optimizer": "adamw",
        "base_lr": 2.5e-4,
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "clip": 3.0,
        "warmup": 15 / 800,
    }
    short = {"momentum": 0.99}
    view_presets = photo(
        dict.fromkeys(("global", "global_masked"), MOCO | {"scale": (0.3, 1.0)}) | {"local": MOCO | {"scale": (0.05, 0.3)}}
    )

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        momentum: Share = 0.996,  # of the teacher at the start; rises to 1 linearly
        temperature: Positive = 0.1,  # of the softmax of target and anchors
        sharpening: Positive = 0.25,  # temperature that sharpens the target's assignment; lower is sharper
        sinkhorn: FewOrNone = 3,  # Sinkhorn-Knopp iterations on the targets; 0 disables them
        me_max: Weight = 1.0,  # weight of the mean-entropy maximisation term
        prototypes: Size = 1024,  # number of prototypes
        hidden: Size | None = None,  # units of the head's hidden layers; four times the encoder's width if none
        width: Size = 256,  # dimensions of the prototypes
    ) -> None:
        super().__init__()
        hidden = 4 * encoder.width if hidden is None else hidden
        example = facts.views["global_masked"]
        assert example.mask is not None
        self.visible = int((~example.mask[0]).sum())
        self.encoder, self.head = encoder, PrototypeHead(encoder.width, hidden, width, prototypes, normed=True)
        self.teacher_encoder, self.teacher_projector = Teacher(self.encoder), Teacher(self.head.mlp)
        self.momentum, self.temperature, self.sharpening = momentum, temperature, sharpening
        self.iterations, self.me_max = sinkhorn, me_max

    def exported(self) -> dict[str, Encoder]:
        return {"encoder": self.teacher_encoder.network}  # type: ignore[dict-item]

    def prototype_scores(self, view: View) -> Tensor:
        return self.head.cosines(self.teacher_projector(self.teacher_encoder(view))).float()

    def forward(self, views: list[View], progress: float) -> Terms:
        target_view, masked, small = views[0], views[1], View.cat(views[2:])
        assert masked.mask is not None
        tokens, valid = self.encoder.embed(masked)
        at, at_valid = visible_places(masked.mask, valid, self.visible)
        large = self.encoder.context(take(tokens, at), at_valid, at=at, want=("pooled",)).pooled
        anchors = torch.cat([self.head(large), self.head(self.encoder(small))])  # crops of one size share BatchNorm statistics
        with torch.no_grad():
            target = self.head.cosines(self.teacher_projector(self.teacher_encoder(target_view)))
        return self.terms(anchors.float(), target.float())

    def terms(self, anchors: Tensor, target: Tensor) -> Terms:
        """anchors (A x B, K), target (B,K): cosines to the prototypes."""
        cross_entropy, me_max = msn(anchors, target, self.temperature, self.sharpening, self.iterations)
        return {"cross_entropy": cross_entropy, "me_max": self.me_max * me_max}

    def after_step(self, progress: float) -> None:
        for teacher in (self.teacher_encoder, self.teacher_projector):
            teacher.follow(ramp((self.momentum, 1.0), 1.0, progress))
