"""iBOT, image BERT pre-training with an online tokenizer. Zhou, Wei, Wang, Shen, Xie, Yuille, Kong, ICLR 2022. https://arxiv.org/abs/2111.07832

Views:  two large crops and ten small ones (multi-crop). Of a large crop, blocks of 10% to 50% of the tokens are hidden from the
        student with probability 0.5; the teacher sees the whole of both.
Heads:  one for the pooled vector and for tokens (section 3.2), as DINO's: two hidden layers, a bottleneck, cosines to
        prototypes. Thrown away after training, with the token that stands for what is hidden.
Loss:   DINO's cross-entropy between pooled vectors of different crops, plus the cross-entropy of the student's and the teacher's
        distributions at each hidden token of the same crop (equation 3), averaged over the tokens of a crop, then over crops.
Both have a centre of their own, a moving average of the teacher's outputs; that of tokens is taken over all tokens of a crop in
the authors' code, here over as many as can be hidden, those first, which are all that pass through the head.
The pooled vector is the class token, or the mean of the tokens where the encoder is pooled so.
What differs from the paper for short runs differs as in DINO: the head has BatchNorm (normed=true), one prototype for 20 samples
(the paper: 8192), a teacher's temperature of 0.02 throughout (0.04 to 0.07), and a momentum that starts at 0.99 (0.996).
What is kept is the teacher's encoder, as in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from untaught.blocks.prototypes import PrototypeHead, prototypes_for
from untaught.blocks.teacher import Teacher, cosine_momentum, ramp
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.gather import gather
from untaught.ops.masking import hide, joined_count, take
from untaught.ops.self_distillation import dino, ibot_tokens
from untaught.ranges import Positive, Positives, Share, Size, Start, in_range

LARGE = 2  # views that the teacher sees: the first ones


class IBOT(Method):
    views = ("global_blocks", "global2_blocks", *("local",) * 10)
    needs = frozenset({"tokens"})
    centre: Tensor  # (2,K) of pooled vectors, and of tokens

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
        self.mask = nn.Parameter(torch.randn(encoder.width) * 0.02)
        self.teacher_encoder, self.teacher_head = Teacher(self.encoder), Teacher(self.head)
        self.register_buffer("centre", torch.zeros(2, prototypes))
        self.momentum, self.centre_momentum, self.frozen = momentum, centre_momentum, frozen
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
        taught = self.teacher_head(whole.pooled).float()
        said_tokens = self.head(take(seen.tokens, places)).float()  # (2B,M,K)
        taught_tokens = self.teacher_head(take(whole.tokens, places)).float()
        self.pending.append(gather(torch.stack([taught.mean(0), mean_token(taught_tokens, places, valid)])[None]).mean(0))
        how = self.temperature, ramp(self.teacher_temperature, self.teacher_warmup, progress)
        return {
            "cross_entropy": dino(said.unflatten(0, (-1, rows)), taught.unflatten(0, (-1, rows)), self.centre[0], *how),
            "tokens": ibot_tokens(said_tokens, taught_tokens, hidden.gather(1, places), self.centre[1], *how),
        }

    def before_step(self, progress: float) -> None:
        if progress < self.frozen:
            self.head.prototypes.weight.grad = None

    def after_step(self, progress: float) -> None:
        self.centre.lerp_(torch.stack(self.pending).mean(0), 1 - self.centre_momentum)
        for teacher in (self.teacher_encoder, self.teacher_head):
            teacher.follow(cosine_momentum(self.momentum, progress))


def mean_token(x: Tensor, places: Tensor, valid: Tensor | None) -> Tensor:
    """x (B,M,K) of tokens at places (B,M), valid (B,N) or None: the mean over those that are not padding (K,); the mean of the processes'
    is that of all."""
    if valid is None:
        return x.mean((0, 1))
    counted = valid.gather(1, places)
    return (x * counted.unsqueeze(-1)).sum((0, 1)) / joined_count(counted)
