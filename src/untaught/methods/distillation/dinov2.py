"""DINOv2. Oquab, Darcet, Moutakanni et al., TMLR 2024. https://arxiv.org/abs/2304.07193

Views:  two large crops and eight small ones (multi-crop). With probability 0.5, blocks covering 10% to 50% of a large crop's tokens
        are masked for the student; the teacher sees all tokens of both.
Heads:  DINO's, one for the pooled vector and one for tokens, with untied weights (section 4). Discarded after training, as is the
        mask token.
Loss:   DINO's cross-entropy between pooled vectors of different crops, plus iBOT's at the masked tokens, plus 0.1 KoLeo, which
        spreads the student's pooled vectors of a large crop (before the head) over the batch.
Instead of DINO's and iBOT's centring, three Sinkhorn-Knopp iterations at the teacher's temperature give the prototypes equal shares
of the batch (for tokens: of the masked tokens).
As in the authors' code, KoLeo is computed for each of the two large crops and summed; there over the batch of each process, here over
the gathered batch.
The pooled vector is the class token, or the mean of the tokens, depending on the encoder's pooling. Registers are the encoder's
(encoder.reg_tokens=4), as are stochastic depth and LayerScale.
The paper's settings are the authors' of ImageNet-1k (ViT-L/16, 100 epochs). The default is one prototype per 20 samples (the code:
65,536, and 131,072 for ViT-L). For short runs, as in DINO, the heads have BatchNorm, the teacher a temperature of 0.02 throughout and a
momentum that starts at 0.99.
Differs from the authors' code: the learning rate is scaled linearly with the batch, there with its square root; gradients are clipped
together, there those of encoder and heads apart; stochastic depth rises over the depth, there it is uniform.
The teacher's encoder is exported, as in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from untaught.blocks.prototypes import PrototypeHead, prototypes_for
from untaught.blocks.teacher import Teacher, cosine_momentum, ramp
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.methods.photo import BYOL, BYOL_VIEWS, photo
from untaught.ops.cross_view import cross_view_entropy, token_entropy
from untaught.ops.koleo import koleo
from untaught.ops.masking import mask_tokens, take
from untaught.ops.sinkhorn import sinkhorn
from untaught.ranges import Positive, Positives, Share, Size, Start, Weight, in_range

LARGE = 2  # views that the teacher sees: the first ones


class DINOv2(Method):
    views = ("global_blocks", "global2_blocks", *("local",) * 8)
    needs = frozenset({"tokens"})
    multicrop = "local"
    paper = {
        "optimizer": "adamw",
        "base_lr": 1e-3,
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "clip": 3.0,
        "warmup": 0.1,
        "layer_decay": 0.9,
        "patch_lr": 0.2,
        "encoder.drop_path_rate": 0.3,
        "encoder.init_values": 1e-5,
    }
    short = {"momentum": 0.99, "teacher_temperature": (0.02, 0.02), "normed": True}
    view_presets = photo(
        {f"{name}_blocks": own | {"scale": (0.32, 1.0)} for name, own in BYOL_VIEWS.items()} | {"local": BYOL | {"scale": (0.05, 0.32)}}
    )

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        momentum: Share = 0.992,  # of the teacher at the start; rises to 1 on a cosine schedule
        temperature: Positive = 0.1,  # of the student's softmax
        teacher_temperature: Positives = (0.04, 0.07),  # the teacher's, at the start and from teacher_warmup on; lower is sharper
        teacher_warmup: Share = 0.3,  # share of the training over which the teacher's temperature changes
        frozen: Start = 0.01,  # share of the training, from its start, during which the prototypes are frozen
        koleo: Weight = 0.1,  # weight of KoLeo, which spreads the student's pooled vectors
        prototypes: Size | None = None,  # number of prototypes; one per 20 samples, from 1024 to 65,536, if none
        hidden: Size | None = None,  # units of the head's hidden layers; four times the encoder's width if none
        bottleneck: Size = 256,  # dimensions of the prototypes
        normed: bool = False,  # whether BatchNorm follows the head's hidden layers
    ) -> None:
        super().__init__()
        hidden = 4 * encoder.width if hidden is None else hidden
        prototypes = prototypes_for(facts.rows) if prototypes is None else prototypes
        self.encoder = encoder
        self.head, self.token_head = (PrototypeHead(encoder.width, hidden, bottleneck, prototypes, normed) for _ in range(2))
        self.mask = nn.Parameter(torch.randn(encoder.width) * 0.02)
        self.teacher_encoder = Teacher(self.encoder)
        self.teacher_head, self.teacher_token_head = Teacher(self.head), Teacher(self.token_head)
        self.momentum, self.koleo_weight, self.frozen = momentum, koleo, frozen
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
        student_tokens = self.token_head(take(masked_features.tokens, places)).float()  # (2B,M,K)
        teacher = self.teacher_head(unmasked.pooled)
        teacher_tokens = self.teacher_token_head(take(unmasked.tokens, places))

        sharp, counted = ramp(self.teacher_temperature, self.teacher_warmup, progress), masked.gather(1, places)
        target, target_tokens = sinkhorn(teacher, sharp), sinkhorn(teacher_tokens.flatten(0, 1), sharp, valid=counted.flatten())
        log_student, log_student_tokens = ((z / self.temperature).log_softmax(-1) for z in (student, student_tokens))
        return {
            "cross_entropy": cross_view_entropy(log_student.unflatten(0, (-1, rows)), target.unflatten(0, (-1, rows))),
            "tokens": token_entropy(log_student_tokens, target_tokens.unflatten(0, places.shape), counted),
            "koleo": self.koleo_weight * torch.stack([koleo(crop) for crop in masked_features.pooled.chunk(LARGE)]).sum(),
        }

    def before_step(self, progress: float) -> None:
        if progress < self.frozen:
            self.head.prototypes.weight.grad = self.token_head.prototypes.weight.grad = None

    def after_step(self, progress: float) -> None:
        for network in (self.teacher_encoder, self.teacher_head, self.teacher_token_head):
            network.follow(cosine_momentum(self.momentum, progress))
