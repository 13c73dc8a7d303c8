"""data2vec. Baevski, Hsu, Xu, Babu, Gu, Auli, ICML 2022. https://arxiv.org/abs/2202.03555

Views:  one crop; blocks covering 60% of its tokens are masked for the student, the teacher sees all of them.
Heads:  one linear layer from the student's tokens to the targets, discarded after training, as is the mask token.
Loss:   smooth L1 (section 3.4) at the masked tokens, averaged over tokens and dimensions. The target is the mean of the teacher's
        top K layers, each normalised without affine parameters (section 3.3). As in the authors' command for ViT-B, K is half the
        depth and beta is 2; that command also normalises the mean, which the paper does not mention and is not done here.
The teacher's momentum can rise linearly to `end`. It is 0.9998 throughout in the authors' command (--ema_start_at 0), and rises from
0.99 to 0.999 in short runs, since over a few hundred steps a slower teacher barely leaves its initialisation.
Differs from the authors' code: the teacher's encoder is exported, there the student's; positions are absolute, there relative biases.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.teacher import Teacher, ramp
from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.methods.photo import photo
from untaught.ops.masking import mask_tokens
from untaught.ops.reconstruction import masked_smooth_l1
from untaught.ranges import Few, Positive, Share, in_range


class Data2Vec(Method):
    views = ("blocks",)
    needs = frozenset({"tokens", "layers"})
    paper = {
        "optimizer": "adamw",
        "base_lr": 2.5e-4,
        "weight_decay": 0.05,
        "clip": 3.0,
        "warmup": 10 / 800,
        "encoder.drop_path_rate": 0.25,
        "encoder.init_values": 1e-4,
    }
    short = {"momentum": 0.99, "end": 0.999}
    view_presets = photo({"blocks": {"scale": (0.08, 1.0)}})

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        momentum: Share = 0.9998,  # of the teacher at the start
        end: Share = 0.9998,  # the teacher's momentum at the end, after a linear rise
        layers: Few | None = None,  # top layers of the teacher that are averaged into the target; half of them if none
        beta: Positive = 2.0,  # error above which smooth L1 is linear
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.teacher_encoder = Teacher(encoder)
        with torch.no_grad():
            depth = len(self.teacher_encoder.features(facts.views["blocks"], ("layers",)).layers or ())
        self.layers = max(depth // 2, 1) if layers is None else layers
        if not 1 <= self.layers <= depth:
            raise UserError(f"layers={layers}: must be from 1 to the encoder's {depth}")
        self.head = nn.Linear(encoder.width, encoder.width)
        self.mask = nn.Parameter(torch.randn(encoder.width) * 0.02)
        self.momentum, self.beta = (momentum, end), beta

    def exported(self) -> dict[str, Encoder]:
        return {"encoder": self.teacher_encoder.network}  # type: ignore[dict-item]

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.mask is not None
        tokens, valid = self.encoder.embed(view)
        student = self.encoder.context(mask_tokens(tokens, view.mask, self.mask), valid).tokens
        assert student is not None
        counted = view.mask if valid is None else view.mask & valid
        return {"distance": masked_smooth_l1(self.head(student), self.target(view), counted, self.beta)}

    def target(self, view: View) -> Tensor:
        """-> (B,N,D)."""
        layers = self.teacher_encoder.features(view, ("layers",)).layers
        assert layers is not None
        return torch.stack([F.layer_norm(layer.float(), layer.shape[-1:]) for layer in layers[-self.layers :]]).mean(0)

    def after_step(self, progress: float) -> None:
        self.teacher_encoder.follow(ramp(self.momentum, 1.0, progress))
