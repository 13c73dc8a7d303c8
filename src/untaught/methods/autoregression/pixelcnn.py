"""Gated PixelCNN. van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu, NIPS 2016. https://arxiv.org/abs/1606.05328

Views:  the image as 256 integer levels.
Heads:  for each channel, ReLU and a linear layer on the encoder's vector of the values before (two 1 x 1 convolutions in the paper, the
        first of which is the encoder's last layer), discarded after training.
Loss:   the cross-entropy of every value's level given the values before it: row by row, and the channels of a pixel in turn (equation 1).
        Also in bits per dimension, without gradient.
A value's distribution is a softmax of 256 levels, as in the paper, not PixelCNN++'s mixture of logistics: it assumes no shape, and images
whose histogram has peaks (a black ground, few colours) are common.
The density is not conditioned on a class. What is exported is a hidden layer of the density model itself, averaged over the image; the
paper's auto-encoder, in which a conditional PixelCNN decodes another encoder's vector, is not this method.
The paper names no optimizer; its settings here are those of pixelrnn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.blocks.level_head import LevelHead
from untaught.core import Encoder, Facts, Method, Terms, View


class PixelCNN(Method):
    views = ("levels",)
    needs = frozenset({"causal_maps"})
    answers = "images with the lower half completed"
    generates = "images"
    valuewise = True
    held_out = True
    paper = {"optimizer": "rmsprop", "lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0, "warmup": 0.0, "schedule": "constant"}

    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        self.encoder = encoder
        self.levels = LevelHead(encoder, facts, "pixelcnn")

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.target is not None
        return self.levels(self.encoder.causal_maps(view), view.target)

    @torch.no_grad()
    def solve(self, views: list[View]) -> Tensor:
        """Keeps the upper half of each image and draws the lower one -> levels (B,C,H,W)."""
        return self.levels.completed(self.encoder, views[0])

    def given(self, view: View) -> View:
        return self.levels.upper(view)

    @torch.no_grad()
    def sample(self, count: int, seed: int) -> Tensor:
        """-> (count,C,H,W), drawn value by value, normalised as the view's x."""
        return self.levels.sampled(self.encoder, count, seed)
