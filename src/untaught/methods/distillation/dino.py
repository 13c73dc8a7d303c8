"""DINO, self-distillation with no labels. Caron, Touvron, Misra, Jegou, Mairal et al., ICCV 2021. https://arxiv.org/abs/2104.14294

Views:  two large crops, seen by student and teacher, and small ones, seen by the student only (multi-crop): eight, in short runs six.
Heads:  an MLP with two hidden layers and GELU to 256 units, normalised, then cosines to prototypes (the authors' weight-normalised
        last layer with fixed norm); discarded after training. Hidden layers have four times the encoder's width; the paper has 2048
        for widths of 384 to 2048. The paper's 65,536 prototypes are one per 20 images of ImageNet; the default here is one per 20
        samples, at least 1024.
Loss:   cross-entropy between the teacher's centred and sharpened distribution over prototypes for each large crop and the
        student's for every other crop (equation 3 and algorithm 1), averaged over pairs of crops and the batch.
The centre is a moving average of the teacher's outputs over all processes (equation 4). The teacher's temperature changes linearly
over the first 0.3 of the training (the paper: 30 epochs). The prototypes are frozen for the first hundredth of the training (the
paper: one epoch). The teacher's momentum rises from its base to 1 on a cosine schedule.
For short runs, the temperature is 0.02 throughout and BatchNorm follows the hidden layers (an option of the authors' code): in a few
hundred steps, the paper's values left the distributions nearly uniform. The momentum's base is 0.99, since a slower teacher barely
leaves its initialisation.
Differs from the authors' code: the gradient is clipped by its norm over all parameters, there by that of each.
Crops of one size go through the network in one batch, as in the authors' code, and share BatchNorm statistics.
The teacher's encoder is exported, as in the paper. Its BatchNorm keeps separate statistics, of large crops.
"""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.blocks.prototypes import PrototypeHead, prototypes_for
from untaught.blocks.teacher import Teacher, cosine_momentum, ramp
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.methods.photo import BYOL, BYOL_VIEWS, photo
from untaught.ops.gather import gather
from untaught.ops.self_distillation import dino
from untaught.ranges import Positive, Positives, Share, Size, Start, in_range

LARGE = 2  # views that the teacher sees: the first ones


class DINO(Method):
    views = ("global", "global2", *("local",) * 6)
    multicrop = "local"
    paper = {
        "optimizer": "adamw",
        "base_lr": 5e-4,
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "clip": 3.0,
        "warmup": 0.1,
        "encoder.drop_path_rate": 0.1,
        "views": ("global", "global2", *("local",) * 8),
    }
    short = {"momentum": 0.99, "teacher_temperature": (0.02, 0.02), "normed": True}
    view_presets = photo({name: own | {"scale": (0.4, 1.0)} for name, own in BYOL_VIEWS.items()} | {"local": BYOL | {"scale": (0.05, 0.4)}})
    centre: Tensor  # (K,)

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        momentum: Share = 0.996,  # of the teacher at the start; rises to 1 on a cosine schedule
        temperature: Positive = 0.1,  # of the student's softmax
        teacher_temperature: Positives = (0.04, 0.07),  # the teacher's, at the start and from teacher_warmup on; lower is sharper
        teacher_warmup: Share = 0.3,  # share of the training over which the teacher's temperature changes
        frozen: Start = 0.01,  # share of the training, from its start, during which the prototypes are frozen
        centre_momentum: Share = 0.9,  # of the moving average that is subtracted from the teacher's outputs
        prototypes: Size | None = None,  # number of prototypes; one per 20 samples, from 1024 to 65,536, if none
        hidden: Size | None = None,  # units of the head's hidden layers; four times the encoder's width if none
        bottleneck: Size = 256,  # dimensions of the prototypes
        normed: bool = False,  # whether BatchNorm follows the head's hidden layers
    ) -> None:
        super().__init__()
        hidden = 4 * encoder.width if hidden is None else hidden
        prototypes = prototypes_for(facts.rows) if prototypes is None else prototypes
        self.encoder, self.head = encoder, PrototypeHead(encoder.width, hidden, bottleneck, prototypes, normed)
        self.teacher_encoder, self.teacher_head = Teacher(self.encoder), Teacher(self.head)
        self.register_buffer("centre", torch.zeros(prototypes))
        self.momentum, self.centre_momentum, self.frozen = momentum, centre_momentum, frozen
        self.temperature, self.teacher_temperature, self.teacher_warmup = temperature, teacher_temperature, teacher_warmup

    def exported(self) -> dict[str, Encoder]:
        return {"encoder": self.teacher_encoder.network}  # type: ignore[dict-item]

    def prototype_scores(self, view: View) -> Tensor:
        return self.teacher_head(self.teacher_encoder(view)).float()

    def forward(self, views: list[View], progress: float) -> Terms:
        large, small = View.cat(views[:LARGE]), View.cat(views[LARGE:])
        student = self.head(torch.cat([self.encoder(large), self.encoder(small)])).float()
        teacher = self.teacher_head(self.teacher_encoder(large)).float()
        self.pending.append(gather(teacher.mean(0, keepdim=True)).mean(0))
        rows = len(views[0])
        return {"cross_entropy": self.cross_entropy(student.unflatten(0, (-1, rows)), teacher.unflatten(0, (-1, rows)), progress)}

    def cross_entropy(self, student: Tensor, teacher: Tensor, progress: float) -> Tensor:
        """student (S,B,K) and teacher (T,B,K) outputs, T <= S, the first T of the same crops -> a scalar."""
        sharp = ramp(self.teacher_temperature, self.teacher_warmup, progress)
        return dino(student, teacher, self.centre, self.temperature, sharp)

    def before_step(self, progress: float) -> None:
        if progress < self.frozen:
            self.head.prototypes.weight.grad = None

    def after_step(self, progress: float) -> None:
        self.centre.lerp_(torch.stack(self.pending).mean(0), 1 - self.centre_momentum)
        for network in (self.teacher_encoder, self.teacher_head):
            network.follow(cosine_momentum(self.momentum, progress))
