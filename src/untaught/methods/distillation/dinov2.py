"""DINOv2. Oquab, Darcet, Moutakanni et al., TMLR 2024. https://arxiv.org/abs/2304.07193

Views:  two large crops and eight small ones (multi-crop). Of a large crop, blocks of 10% to 50% of the tokens are hidden from the
        student with probability 0.5; the teacher sees the whole of both.
Heads:  one for the pooled vector and one for tokens, whose weights are not tied (section 4), each as DINO's. Thrown away after
        training, with the token that stands for what is hidden.
Loss:   DINO's cross-entropy between pooled vectors of different crops, plus iBOT's at the hidden tokens, plus 0.1 KoLeo, which
        spreads the student's pooled vectors of a large crop over the batch, before the head.
In the place of DINO's centre and iBOT's, the teacher's outputs are brought to equal use of the prototypes over the batch by three
iterations of Sinkhorn-Knopp, at the teacher's temperature; of tokens, over those that are hidden.
As in the authors' code, KoLeo is summed over the two large crops, each by itself; there over the batch of each process, here over
that of all.
The pooled vector is the class token, or the mean of the tokens where the encoder is pooled so. Registers are the encoder's
(encoder.reg_tokens=4), as are stochastic depth and LayerScale.
What differs from the authors' code for short runs differs as in DINO: the heads have BatchNorm (normed=true), one prototype for 20
samples (the code: 65,536, and 131,072 for ViT-L), a teacher's temperature of 0.02 throughout (0.04 to 0.07), and a momentum that
starts at 0.99 (0.992, and 0.994 for ViT-L).
What is kept is the teacher's encoder, as in the paper.
"""

from __future__ import annotations

import torch
from torch import nn

from untaught.blocks.prototypes import PrototypeHead, prototypes_for
from untaught.blocks.teacher import Teacher, cosine_momentum, ramp
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.cross_view import cross_view_entropy, token_entropy
from untaught.ops.koleo import koleo
from untaught.ops.masking import hide, take
from untaught.ops.sinkhorn import sinkhorn
from untaught.ranges import Positive, Positives, Share, Size, Start, Weight, in_range

LARGE = 2  # views that the teacher sees: the first ones


class DINOv2(Method):
    views = ("global_blocks", "global2_blocks", *("local",) * 8)
    needs = frozenset({"tokens"})

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
        koleo: Weight = 0.1,  # weight of the term that spreads the student's pooled vectors
        prototypes: Size | None = None,  # directions that samples are told by; one for 20 of them, from 1024 to 65,536, if none
        hidden: Size | None = None,  # units of the head's hidden layers; four times the encoder's width if none
        bottleneck: Size = 256,  # dimensions in which cosines to the prototypes are taken
        normed: bool = True,  # whether BatchNorm follows the head's hidden layers
    ) -> None:
        super().__init__()
        hidden = 4 * encoder.width if hidden is None else hidden
        prototypes = prototypes_for(facts.rows) if prototypes is None else prototypes
        self.encoder = encoder
        self.head, self.token_head = (PrototypeHead(encoder.width, hidden, bottleneck, prototypes, normed) for _ in range(2))
        self.mask = nn.Parameter(torch.randn(encoder.width) * 0.02)
        self.teacher_encoder = Teacher(self.encoder)
        self.teacher_head, self.teacher_token_head = Teacher(self.head), Teacher(self.token_head)
        self.momentum, self.spread, self.frozen = momentum, koleo, frozen
        self.temperature, self.teacher_temperature, self.teacher_warmup = temperature, teacher_temperature, teacher_warmup

    @property
    def kept(self) -> Encoder:
        return self.teacher_encoder.network  # type: ignore[return-value]

    def forward(self, views: list[View], progress: float) -> Terms:
        large, rows = View.cat(views[:LARGE]), len(views[0])
        assert large.mask is not None
        assert large.meta is not None
        hidden, places = large.mask, large.meta["places"]
        tokens, valid = self.encoder.embed(large)
        seen = self.encoder.context(hide(tokens, hidden, self.mask), valid, want=("pooled", "tokens"))
        whole = self.teacher_encoder.features(large, ("pooled", "tokens"))
        assert seen.pooled is not None
        assert seen.tokens is not None
        assert whole.tokens is not None

        said = self.head(torch.cat([seen.pooled, self.encoder(View.cat(views[LARGE:]))])).float()
        said_tokens = self.token_head(take(seen.tokens, places)).float()  # (2B,M,K)
        taught = self.teacher_head(whole.pooled)
        taught_tokens = self.teacher_token_head(take(whole.tokens, places))

        sharp, counted = ramp(self.teacher_temperature, self.teacher_warmup, progress), hidden.gather(1, places)
        target, target_tokens = sinkhorn(taught, sharp), sinkhorn(taught_tokens.flatten(0, 1), sharp, valid=counted.flatten())
        log_said, log_said_tokens = ((z / self.temperature).log_softmax(-1) for z in (said, said_tokens))
        return {
            "cross_entropy": cross_view_entropy(log_said.unflatten(0, (-1, rows)), target.unflatten(0, (-1, rows))),
            "tokens": token_entropy(log_said_tokens, target_tokens.unflatten(0, places.shape), counted),
            "koleo": self.spread * torch.stack([koleo(crop) for crop in seen.pooled.chunk(LARGE)]).sum(),
        }

    def before_step(self, progress: float) -> None:
        if progress < self.frozen:
            self.head.prototypes.weight.grad = self.token_head.prototypes.weight.grad = None

    def after_step(self, progress: float) -> None:
        for teacher in (self.teacher_encoder, self.teacher_head, self.teacher_token_head):
            teacher.follow(cosine_momentum(self.momentum, progress))
