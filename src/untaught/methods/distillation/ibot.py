"""iBOT, image BERT pre-training with an online tokenizer. Zhou, Wei, Wang, Shen, Xie, Yuille, Kong, ICLR 2022. https://arxiv.org/abs/2111.07832

Views:  two large crops and ten small ones (multi-crop). With probability 0.5, blocks covering 10% to 50% of a large crop's tokens
        are masked for the student; the teacher sees all tokens of both.
Heads:  one shared by the pooled vector and the tokens (section 3.2), as DINO's: two hidden layers, a bottleneck, cosines to
        prototypes. Discarded after training, as is the mask token.
Loss:   DINO's cross-entropy between pooled vectors of different crops, plus the cross-entropy between the student's and the teacher's
        distributions at each masked token of the same crop (equation 3), averaged over the tokens of a crop, then over crops.
Each of the two has its own centre, a moving average of the teacher's outputs. For tokens, the authors' code averages over all tokens
of a crop; here only as many as can be masked pass through the head (the masked ones first), and the centre averages over those.
The pooled vector is the class token, or the mean of the tokens, depending on the encoder's pooling.
The default is one prototype per 20 samples (the paper: 8192). For short runs, as in DINO, the head has BatchNorm, the teacher a
temperature of 0.02 throughout and a momentum that starts at 0.99. The gradient is clipped by its norm over all parameters, in the
authors' code by that of each.
The teacher's encoder is exported, as in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from untaught.blocks.prototypes import PrototypeHead, prototypes_for
from untaught.blocks.teacher import Teacher, cosine_momentum, ramp
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.methods.photo import BYOL, BYOL_VIEWS, photo
from untaught.ops.gather import gather
from untaught.ops.masking import joined_count, mask_tokens, take
from untaught.ops.self_distillation import dino, ibot_tokens
from untaught.ranges import Positive, Positives, Share, Size, Start, in_range

LARGE = 2  # views that the teacher sees: the first ones


class IBOT(Method):
    views = ("global_blocks", "global2_blocks", *("local",) * 10)
    needs = frozenset({"tokens"})
    multicrop = "local"
    paper = {
        "optimizer": "adamw",
        "base_lr": 5e-4,
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "clip": 3.0,
        "warmup": 10 / 800,
        "encoder.drop_path_rate": 0.1,
    }
    short = {"momentum": 0.99, "teacher_temperature": (0.02, 0.02), "normed": True}
    view_presets = photo(
        {f"{name}_blocks": own | {"scale": (0.25, 1.0)} for name, own in BYOL_VIEWS.items()} | {"local": BYOL | {"scale": (0.05, 0.25)}}
    )
    centre: Tensor  # (2,K) of pooled vectors, and of tokens

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
        self.mask = nn.Parameter(torch.randn(encoder.width) * 0.02)
        self.teacher_encoder, self.teacher_head = Teacher(self.encoder), Teacher(self.head)
        self.register_buffer("centre", torch.zeros(2, prototypes))
        self.momentum, self.centre_momentum, self.frozen = momentum, centre_momentum, frozen
        self.temperature, self.teacher_temperature, self.teacher_warmup = temperature, teacher_temperature, teacher_warmup

    def exported(self) -> dict[str, Encoder]:
        return {"encoder": self.teacher_encoder.network}  # type: ignore[dict-item]

    def prototype_scores(self, view: View) -> Tensor:
        return self.teacher_head(self.teacher_encoder(view)).float()

    def forward(self, views: list[View], progress: float) -> Terms:
        large, rows = View.cat(views[:LARGE]), len(views[0])
        assert large.mask is not None
        assert large.meta is not None
        masked, places = large.mask, large.meta["places"]
        tokens, valid = self.encoder.embed(large)
        masked_features = self.encoder.context(mask_tokens(tokens, masked, self.mask), valid, want=("pooled", "tokens"))
        unmasked = self.teacher_encoder.features(large, ("pooled", "tokens"))
        assert masked_features.pooled is not None
        assert masked_features.tokens is not None
        assert unmasked.tokens is not None

        student = self.head(torch.cat([masked_features.pooled, self.encoder(View.cat(views[LARGE:]))])).float()
        teacher = self.teacher_head(unmasked.pooled).float()
        student_tokens = self.head(take(masked_features.tokens, places)).float()  # (2B,M,K)
        teacher_tokens = self.teacher_head(take(unmasked.tokens, places)).float()
        self.pending.append(gather(torch.stack([teacher.mean(0), mean_token(teacher_tokens, places, valid)])[None]).mean(0))
        temperatures = self.temperature, ramp(self.teacher_temperature, self.teacher_warmup, progress)
        return {
            "cross_entropy": dino(student.unflatten(0, (-1, rows)), teacher.unflatten(0, (-1, rows)), self.centre[0], *temperatures),
            "tokens": ibot_tokens(student_tokens, teacher_tokens, masked.gather(1, places), self.centre[1], *temperatures),
        }

    def before_step(self, progress: float) -> None:
        if progress < self.frozen:
            self.head.prototypes.weight.grad = None

    def after_step(self, progress: float) -> None:
        self.centre.lerp_(torch.stack(self.pending).mean(0), 1 - self.centre_momentum)
        for network in (self.teacher_encoder, self.teacher_head):
            network.follow(cosine_momentum(self.momentum, progress))


def mean_token(x: Tensor, places: Tensor, valid: Tensor | None) -> Tensor:
    """x (B,M,K) of tokens at places (B,M), valid (B,N) or None -> (K,), the mean over valid tokens. Averaging the processes' results
    gives the mean over all of them."""
    if valid is None:
        return x.mean((0, 1))
    counted = valid.gather(1, places)
    return (x * counted.unsqueeze(-1)).sum((0, 1)) / joined_count(counted)
