"""MAE, masked autoencoder. He, Chen, Xie, Li, Dollar, Girshick, CVPR 2022. https://arxiv.org/abs/2111.06377

Views:  one mild crop with most tokens masked (the view carries the mask and the target).
Heads:  a lightweight transformer decoder over visible and mask tokens, discarded after training. The paper's decoder for ViT-L has
        half its width and a third of its depth, as is the default here.
Loss:   mean squared error on the masked tokens, each normalised by its own mean and standard deviation (section 3), unless the view
        marks its tokens as too small for that (meta["few"]): normalised, a single value is always 0.
Masked tokens never enter the encoder. The decoder's positions are fixed sines and cosines, as are the encoder's with the paper's
settings; short runs learn the encoder's. The authors' decoder also sees the class token.
`solve` returns the masked tokens in the units of the target. Where tokens are normalised, the network says nothing of their mean and
standard deviation, and those of a masked token must not be used: mean and log standard deviation are interpolated from the visible tokens,
with weights of the inverse squared distance on the grid. The authors' demonstration of reconstructions uses a network without
normalisation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from untaught.blocks.transformer import Transformer, rows_for, sine_positions
from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.ops.masking import take, visible_places
from untaught.ops.reconstruction import interpolated_moments, masked_reconstruction
from untaught.ranges import FewOrNone, Size, in_range


class MAE(Method):
    views = ("masked",)
    needs = frozenset({"tokens"})
    find_unused_parameters = True  # the encoder's pooling
    answers = "reconstructed tokens"
    paper = {
        "optimizer": "adamw",
        "base_lr": 1.5e-4,
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
        "warmup": 40 / 800,
        "encoder.positions": "sines",
    }
    positions: Tensor  # of the decoder, (N, width)

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        decoder_width: Size | None = None,  # units of the decoder; half the encoder's width, at least 64, if none
        decoder_depth: FewOrNone | None = None,  # blocks of the decoder; a third of the encoder's, at least 1, if none
        normalise: bool | None = None,  # whether each target token is normalised by itself; if none, unless the view marks it as too small
    ) -> None:
        super().__init__()
        example = facts.views["masked"]
        assert example.mask is not None
        assert example.target is not None
        width = max(64, encoder.width // 2) if decoder_width is None else decoder_width
        depth = max(1, len(getattr(encoder, "blocks", ())) // 3) if decoder_depth is None else decoder_depth
        heads = max(1, width // 32)
        if width < 1 or width % heads:
            raise UserError(f"decoder_width={width}: must be a multiple of its {heads} heads; a multiple of 32 always is")
        self.encoder = encoder
        self.visible = int((~example.mask[0]).sum())
        few = (example.meta or {}).get("few")
        self.normalise = (few is None or not bool(few.any())) if normalise is None else normalise
        self.into = nn.Linear(encoder.width, width)
        self.mask = nn.Parameter(torch.randn(width) * 0.02)
        self.register_buffer("positions", sine_positions(encoder.grid(example), width), persistent=False)
        self.decoder = Transformer(width, depth, heads)
        self.out = nn.Linear(width, example.target.shape[-1])

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.mask is not None
        assert view.target is not None
        return {"reconstruction": masked_reconstruction(self.restore(view), view.target, view.mask, self.normalise, view.target_valid)}

    def restore(self, view: View) -> Tensor:
        """The decoder's output for every token: (B,N,P), in the units of the (normalised) target."""
        assert view.mask is not None
        tokens, valid = self.encoder.embed(view)
        at, at_valid = visible_places(view.mask, valid, self.visible)
        visible = self.encoder.context(take(tokens, at), at_valid, at=at).tokens
        assert visible is not None
        visible = self.into(visible)
        mask = self.mask.to(visible.dtype)
        if at_valid is not None:
            visible = torch.where(at_valid.unsqueeze(-1), visible, mask)
        full = mask.expand(tokens.shape[0], tokens.shape[1], -1)
        full = full.scatter(1, at.unsqueeze(-1).expand_as(visible), visible)
        return self.out(self.decoder(full + rows_for(self.positions, full.shape[1]), valid))

    @torch.no_grad()
    def solve(self, views: list[View]) -> Tensor:
        """-> the masked tokens in the units of the target (B,N,P), with interpolated mean and standard deviation if `normalise`; visible
        ones as they are."""
        (view,) = views
        assert view.mask is not None
        assert view.target is not None
        restored = self.restore(view).float()
        if self.normalise:
            mean, std = interpolated_moments(view.target, ~view.mask, self.encoder.grid(view), view.target_valid)
            restored = restored * std + mean
        return torch.where(view.mask.unsqueeze(2), restored, view.target)
