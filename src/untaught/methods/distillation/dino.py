"""DINO, self-distillation with no labels. Caron, Touvron, Misra, Jegou, Mairal et al., ICCV 2021. https://arxiv.org/abs/2104.14294

Views:  two large crops, which student and teacher see, and six small ones, which the student alone sees (multi-crop).
Heads:  an MLP of two hidden layers and GELU to 256 units, normalised, then cosines to prototypes (the authors' last layer with
        weight normalisation of fixed norm); thrown away after training. BatchNorm after the hidden layers is an option of the
        authors' code, off there; here it is on (normed=true): without it short runs left the distributions uniform.
        Hidden layers have four times the encoder's width; the paper has 2048 for widths of 384 to 2048. The paper's 65,536
        prototypes are one for 20 images of ImageNet; the default here is one for 20 samples, at least 1024.
Loss:   cross-entropy between the teacher's distribution over prototypes of each large crop, centred and sharpened, and the
        student's of every other crop (equation 3 and algorithm 1), averaged over pairs of crops and the batch.
The centre is a moving average of the teacher's outputs over all processes (equation 4). The teacher's temperature rises
linearly in the first 0.3 of the training (the paper: 30 epochs, from 0.04 to 0.07). The default here is 0.02 throughout: in
runs of a few hundred steps the paper's left the teacher nearly uniform. The prototypes stand still in the first hundredth of
the training (the paper: one epoch). The teacher's momentum rises from its base to 1 by a cosine; the paper's base is 0.996, the
default here 0.99, since over a few hundred steps a slower teacher is still the network that it began as.
Crops of one size pass through the network together, as in the authors' code, so BatchNorm sees them together.
What is kept is the teacher's encoder, as in the paper. Its BatchNorm has statistics of its own, of large crops.
"""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.blocks.prototypes import PrototypeHead, prototypes_for
from untaught.blocks.teacher import Teacher, cosine_momentum, ramp
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.gather import gather
from untaught.ops.self_distillation import dino
from untaught.ranges import Positive, Positives, Share, Size, Start, in_range

LARGE = 2  # views that the teacher sees: the first ones


class DINO(Method):
    views = ("global", "global2", *("local",) * 6)
    centre: Tensor  # (K,)

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        momentum: Share = 0.99,  # of the teacher at the start; rises to 1 by a cosine
        temperature: Positive = 0.1,  # of the student's softmax
        teacher_temperature: Positives = (0.02, 0.02),  # the teacher's, at the start and from teacher_warmup on; lower is sharper
        teacher_warmup: Share = 0.3,  # share of the training over which the teacher's temperature changes
        frozen: Start = 0.01,  # share of the training, from its start, in which the prototypes stand still
        centre_momentum: Share = 0.9,  # of the moving average that is taken off the teacher's outputs
        prototypes: Size | None = None,  # directions that samples are told by; one for 20 of them, from 1024 to 65,536, if none
        hidden: Size | None = None,  # units of the head's hidden layers; four times the encoder's width if none
        bottleneck: Size = 256,  # dimensions in which cosines to the prototypes are taken
        normed: bool = True,  # whether BatchNorm follows the head's hidden layers
    ) -> None:
        super().__init__()
        hidden = 4 * encoder.width if hidden is None else hidden
        prototypes = prototypes_for(facts.rows) if prototypes is None else prototypes
        self.encoder, self.head = encoder, PrototypeHead(encoder.width, hidden, bottleneck, prototypes, normed)
        self.teacher_encoder, self.teacher_head = Teacher(self.encoder), Teacher(self.head)
        self.register_buffer("centre", torch.zeros(prototypes))
        self.momentum, self.centre_momentum, self.frozen = momentum, centre_momentum, frozen
        self.temperature, self.teacher_temperature, self.teacher_warmup = temperature, teacher_temperature, teacher_warmup

    @property
    def kept(self) -> Encoder:
        return self.teacher_encoder.network  # type: ignore[return-value]

    def forward(self, views: list[View], progress: float) -> Terms:
        large, small = View.cat(views[:LARGE]), View.cat(views[LARGE:])
        said = self.head(torch.cat([self.encoder(large), self.encoder(small)])).float()
        taught = self.teacher_head(self.teacher_encoder(large)).float()
        self.pending.append(gather(taught.mean(0, keepdim=True)).mean(0))
        rows = len(views[0])
        return {"cross_entropy": self.cross_entropy(said.unflatten(0, (-1, rows)), taught.unflatten(0, (-1, rows)), progress)}

    def cross_entropy(self, said: Tensor, taught: Tensor, progress: float) -> Tensor:
        """The student's said (S,B,K) and the teacher's taught (T,B,K), T <= S, whose first T are of the same crops -> a scalar."""
        sharp = ramp(self.teacher_temperature, self.teacher_warmup, progress)
        return dino(said, taught, self.centre, self.temperature, sharp)

    def before_step(self, progress: float) -> None:
        if progress < self.frozen:
            self.head.prototypes.weight.grad = None

    def after_step(self, progress: float) -> None:
        self.centre.lerp_(torch.stack(self.pending).mean(0), 1 - self.centre_momentum)
        for teacher in (self.teacher_encoder, self.teacher_head):
            teacher.follow(cosine_momentum(self.momentum, progress))
