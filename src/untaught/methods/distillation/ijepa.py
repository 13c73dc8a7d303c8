"""I-JEPA, image-based joint-embedding predictive architecture. Assran, Duval, Misra, Bojanowski et al., CVPR 2023. https://arxiv.org/abs/2301.08243

Views:  one crop without further augmentation: a context, which the student sees, and four target blocks of 15% to 20% of the tokens
        each, which it predicts. The context lies in a block of 85% to 100% of the tokens, outside all targets (section 3).
Heads:  a predictor, a narrow transformer over the context's tokens and one mask token per position of the target block, discarded
        after training. The paper's has 384 units for encoders of 768 to 1408, and half the depth of ViT-B; the defaults here are
        half the encoder's width and half its depth. Its positions are fixed sines and cosines.
Loss:   smooth L1 between the predicted tokens and the teacher's (normalised without affine parameters) in each target block, averaged
        over tokens and dimensions, as in the authors' code; the paper writes a squared distance (section 3).
The authors' code draws the block sizes once per batch and truncates the contexts of a batch to the smallest. Here sizes are drawn per
sample, and each context is a random subset of as many tokens as lie outside four targets of the largest size: a quarter to a fifth
of all (the authors': 28% on average).
The teacher's momentum rises linearly to 1 (appendix A), from 0.996; in short runs from 0.99, since over a few hundred steps a slower
teacher barely leaves its initialisation. The encoder's positions are fixed sines and cosines with the paper's settings, learned in short
runs.
The teacher's encoder is exported, as in the paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.teacher import Teacher, ramp
from untaught.blocks.transformer import Transformer, rows_for, sine_positions
from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.ops.masking import first, take, visible_places
from untaught.ops.reconstruction import masked_smooth_l1
from untaught.ranges import FewOrNone, Share, Size, in_range


class IJEPA(Method):
    views = ("multiblock",)
    needs = frozenset({"tokens"})
    paper = {
        "optimizer": "adamw",
        "base_lr": 1.25e-4,
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "warmup": 40 / 300,
        "encoder.positions": "sines",
    }
    short = {"momentum": 0.99}
    positions: Tensor  # of the predictor, (N, width)

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        momentum: Share = 0.996,  # of the teacher at the start; rises to 1 linearly
        predictor_width: Size | None = None,  # units of the predictor; half the encoder's width, at least 64, if none
        predictor_depth: FewOrNone | None = None,  # blocks of the predictor; half the encoder's, at least 1, if none
    ) -> None:
        super().__init__()
        example = facts.views["multiblock"]
        assert example.mask is not None
        width = max(64, encoder.width // 2) if predictor_width is None else predictor_width
        depth = max(1, len(getattr(encoder, "blocks", ())) // 2) if predictor_depth is None else predictor_depth
        heads = max(1, width // 32)
        if width < 1 or width % heads:
            raise UserError(f"predictor_width={width}: must be a multiple of its {heads} heads; a multiple of 32 always is")
        self.encoder = encoder
        self.teacher_encoder = Teacher(encoder)
        self.visible = int((~example.mask[0]).sum())
        self.into = nn.Linear(encoder.width, width)
        self.mask = nn.Parameter(torch.randn(width) * 0.02)
        self.register_buffer("positions", sine_positions(encoder.grid(example), width), persistent=False)
        self.predictor = Transformer(width, depth, heads)
        self.out = nn.Linear(width, encoder.width)
        self.momentum = momentum

    def exported(self) -> dict[str, Encoder]:
        return {"encoder": self.teacher_encoder.network}  # type: ignore[dict-item]

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.meta is not None
        teacher = self.teacher_encoder.features(view, ("tokens",))
        tokens = teacher.tokens
        assert tokens is not None
        targets = view.meta["targets"]  # (B,T,N)
        count = tokens.shape[1]
        most = (count - self.visible) // targets.shape[1] if teacher.valid is None else count  # the size of the largest target
        places = first(targets, most)
        counted = targets.gather(2, places)
        target = take(F.layer_norm(tokens.float(), tokens.shape[-1:]), places.flatten(1)).unflatten(1, places.shape[1:])
        return {"distance": masked_smooth_l1(self.predict(view, places, counted), target, counted)}

    def predict(self, view: View, places: Tensor, counted: Tensor) -> Tensor:
        """The teacher's tokens, predicted at places (B,T,A) of each of T targets; counted (B,T,A) bool, the valid places -> (B,T,A,D)."""
        assert view.mask is not None
        tokens, valid = self.encoder.embed(view)
        at, at_valid = visible_places(view.mask, valid, self.visible)
        context = self.encoder.context(take(tokens, at), at_valid, at=at).tokens
        assert context is not None
        positions = rows_for(self.positions, tokens.shape[1])
        context = self.into(context) + positions[at]
        queries = (self.mask + positions[places]).flatten(0, 1).to(context.dtype)
        x = torch.cat([context.repeat_interleave(places.shape[1], 0), queries], 1)
        context_valid = torch.ones_like(at, dtype=torch.bool) if at_valid is None else at_valid
        attended = torch.cat([context_valid.repeat_interleave(places.shape[1], 0), counted.flatten(0, 1)], 1)
        predicted = self.predictor(x, attended)[:, at.shape[1] :]
        return self.out(predicted).unflatten(0, places.shape[:2])

    def after_step(self, progress: float) -> None:
        self.teacher_encoder.follow(ramp((self.momentum, 1.0), 1.0, progress))
