"""Jigsaw puzzles. Noroozi, Favaro, ECCV 2016. https://arxiv.org/abs/1603.09246

Views:  the nine tiles of a 3 x 3 grid, in an order drawn from a set of permutations that are far apart (algorithm 1); and the whole
        image, for the statistics of BatchNorm only (see below).
Heads:  a layer that is applied to the vector of each tile (fc6, shared like the encoder); the nine results are concatenated, and a hidden
        layer (fc7) and a linear classifier of the permutation follow. All are discarded after training.
Loss:   the cross-entropy of the permutation's number. The accuracy is logged; guessing reaches 1 / permutations.
Tiles are encoded one by one (the paper's context-free network): only the head compares them.
Against shortcuts: each tile is placed at random in its cell (64 of 85 pixels), which leaves gaps; it is normalised by its own
mean and standard deviation; 30% of the images are grey; the colour channels of a tile are displaced by up to 2 of 64 pixels.
There are 1,000 of the 9! permutations, as in the paper, and 100 for images up to 64 pixels (presets small and upright), as in the authors'
published code: of 1,000, a short run sees each too rarely. In the paper's ablation, features of the two hardly differ.
A tile has a quarter of the view's side, rounded to a multiple of the encoder's stride, and the view is enlarged where the grid needs it.
Differs from the paper: one puzzle per image and step; crops of 60% to 100% of the image, where the paper has its central square; widths
follow the encoder's (the authors' code: 1024 for fc6, 4096 for fc7), with BatchNorm before the ReLU of fc7 instead of dropout.
Their learning rate drops in steps; here it follows the training loop's schedule.
The encoder is exported for full images: its BatchNorm statistics are those of full images, and those of tiles are kept beside them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from untaught.blocks.mlp import mlp
from untaught.blocks.parts import PartEncoding, check_parts, check_tiles
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.classification import classified
from untaught.ranges import Size, in_range


class Jigsaw(Method):
    views = ("puzzle", "whole")
    answers = "solved puzzles"
    paper = {"optimizer": "momentum", "lr": 0.01, "weight_decay": 5e-4, "warmup": 0.0}

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        tile_width: Size | None = None,  # units of the layer applied to each tile; the encoder's width if none
        hidden: Size | None = None,  # units of the layer that sees all tiles; four times the encoder's width if none
    ) -> None:
        super().__init__()
        example = next(iter(facts.views.values()))
        self.permutations = check_parts(example, "jigsaw", "puzzle").shape[-1]
        check_tiles(encoder, example, "puzzle")
        tiles = example.x.shape[1]
        tile_width = encoder.width if tile_width is None else tile_width
        hidden = 4 * encoder.width if hidden is None else hidden
        self.encoder, self.parts = encoder, PartEncoding(encoder)
        self.each = nn.Sequential(nn.Linear(encoder.width, tile_width), nn.ReLU(inplace=True))
        self.head = mlp(tiles * tile_width, hidden, self.permutations)
        self.chance = 1 / self.permutations

    def forward(self, views: list[View], progress: float) -> Terms:
        assert views[0].target is not None
        return classified(self.score(views), views[0].target)

    def score(self, views: list[View]) -> Tensor:
        """-> the logits of the permutation (B,permutations)."""
        return self.head(self.each(self.parts(self.encoder, *views)).flatten(1))

    @torch.no_grad()
    def solve(self, views: list[View]) -> Tensor:
        """-> the probability of each permutation (B,permutations)."""
        return self.score(views).float().softmax(1)
