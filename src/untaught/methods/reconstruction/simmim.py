"""SimMIM. Xie, Zhang, Cao, Lin, Bao, Yao, Dai, Hu, CVPR 2022. https://arxiv.org/abs/2111.09886

Views:  one mild crop with 60% of its patches masked; patches of 32 pixels for the paper's views of 192 and 224, whatever the encoder's own.
Heads:  one linear layer from each position of the encoder's last map to its pixels (section 3.3: as good as heavier heads). Discarded after
        training.
Loss:   the mean absolute error of the masked pixels, normalised per channel as in the input (section 3.4).
The encoder sees the whole image. Of an encoder with tokens (vision transformers), the token of a masked patch is replaced by a learned
vector before positions are added, as in the authors' code. Other encoders have no such tokens: there the masked pixels of the input are
replaced by a learned value of each channel; their BatchNorm statistics stay those of whole images, and those of masked ones are kept
beside them.
On images up to 64 pixels a masked patch is the encoder's own, an eighth of the side for vit_mini, or its stride, a quarter for conv_small;
in the paper it is a sixth or a seventh.
Differs from the authors' code: positions are the encoder's (theirs: a relative position bias shared by all layers), the number of masked
patches is rounded to the nearest, not up, and the learning rate follows the training loop's schedule; theirs for ViTs drops in a step.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.maps import map_shapes
from untaught.blocks.parts import PartEncoding
from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.ops.masking import mask_tokens
from untaught.ops.reconstruction import masked_l1


class SimMIM(Method):
    views = ("masked",)
    needs = frozenset({"maps"})
    answers = "reconstructed patches"
    find_unused_parameters = True  # the encoder's pooling
    paper = {
        "optimizer": "adamw",
        "base_lr": 5e-5,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
        "clip": 5.0,
        "warmup": 10 / 800,
        "encoder.drop_path_rate": 0.1,
    }
    view_presets = {
        "photo": {"masked.scale": (0.67, 1.0), "masked.patch": 32, "masked.rate": 0.6},
        "small": {"masked.scale": (0.67, 1.0), "masked.rate": 0.6},
        "upright": {"masked.rate": 0.6},
    }

    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        example = next(iter(facts.views.values()))
        if example.mask is None or example.target is None or example.x.ndim != 4:
            raise UserError("simmim reads images with masked patches and their pixels as target: the view masked")
        channels = example.x.shape[1]
        self.patch = math.isqrt(example.target.shape[2] // channels)
        own: Any = encoder.patch if "tokens" in encoder.offers else 1
        if self.patch % own:
            raise UserError(f"masked.patch={self.patch}: must be a multiple of the encoder's patch of {own}")
        width, high, wide = map_shapes(encoder, example)[-1]
        self.grid = high, wide
        self.side = max(-(-pixels // places) for pixels, places in zip(example.x.shape[2:], self.grid, strict=True))
        self.encoder, self.masked = encoder, PartEncoding(encoder)
        self.mask = nn.Parameter(torch.zeros(encoder.width if "tokens" in encoder.offers else channels))
        nn.init.trunc_normal_(self.mask, std=0.02)
        self.out = nn.Conv2d(width, channels * self.side**2, 1)

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.mask is not None
        assert view.target is not None
        return {"reconstruction": masked_l1(self.restore(view), view.target, view.mask)}

    def restore(self, view: View) -> Tensor:
        """-> the pixels of every patch (B,N,P), in the units of the target."""
        pixels = F.pixel_shuffle(self.out(self.encode(view)).float(), self.side)[:, :, : view.x.shape[2], : view.x.shape[3]]
        return F.unfold(pixels, self.patch, stride=self.patch).transpose(1, 2)

    def encode(self, view: View) -> Tensor:
        """-> the last map (B,D,h,w) of the masked image."""
        hidden = self.hidden(view)
        if "tokens" not in self.encoder.offers:
            x = torch.where(hidden, self.mask.view(-1, 1, 1), view.x)
            return self.masked.read(self.encoder, View(x), View(view.x), self.grid)
        step = self.encoder.patch
        grid = self.encoder.grid(view)
        masked = hidden[:, 0, ::step, ::step][:, : grid[0], : grid[1]].flatten(1)
        tokens, _ = self.encoder.embed(view)
        tokens = self.encoder.context(mask_tokens(tokens, masked, self.mask)).tokens
        assert tokens is not None
        return tokens.transpose(1, 2).unflatten(2, grid)

    def hidden(self, view: View) -> Tensor:
        """Which pixels are masked, (B,1,H,W) bool; those beyond the last whole patch are not."""
        assert view.mask is not None
        high, wide = view.x.shape[2:]
        rows, columns = high // self.patch, wide // self.patch
        pixels = view.mask.view(-1, 1, rows, columns).repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        return F.pad(pixels, (0, wide - columns * self.patch, 0, high - rows * self.patch))

    @torch.no_grad()
    def solve(self, views: list[View]) -> Tensor:
        """-> the pixels of the masked patches in the units of the target (B,N,P); visible ones as they are."""
        (view,) = views
        assert view.mask is not None
        assert view.target is not None
        return torch.where(view.mask.unsqueeze(2), self.restore(view), view.target)
