"""PixelRNN. van den Oord, Kalchbrenner, Kavukcuoglu, ICML 2016. https://arxiv.org/abs/1601.06759

Views:  the image as 256 integer levels.
Heads:  for each channel, ReLU and a linear layer on the encoder's vector of the values before (two 1 x 1 convolutions in the paper, the
        first of which is the encoder's last layer), discarded after training.
Loss:   the cross-entropy of every value's level given the values before it: row by row, and red, green and blue of a pixel in turn
        (equations 1 and 2), with a softmax of 256 levels. Also in bits per dimension, without gradient.
The encoder has diagonal BiLSTMs, not row LSTMs: the paper's best network on CIFAR-10, and every value sees all earlier ones.
The same objective as pixelcnn's, which came later, with a recurrent encoder. What is exported is a hidden layer of the density model,
averaged over the image; the paper evaluates densities, not features.
The paper names RMSProp and batches of 16 for small data sets, but not the learning rates, set by hand for each; 1e-3 is that of a known
reimplementation (https://github.com/carpedm20/pixel-rnn-tensorflow), here constant.
"""

from __future__ import annotations

import torch
from torch import Tensor

from untaught.blocks.level_head import LevelHead
from untaught.core import Encoder, Facts, Method, Terms, View


class PixelRNN(Method):
    views = ("levels",)
    needs = frozenset({"causal_maps", "recurrent"})
    answers = "images with the lower half completed"
    generates = "images"
    valuewise = True
    held_out = True
    paper = {"optimizer": "rmsprop", "lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0, "warmup": 0.0, "schedule": "constant"}

    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        self.encoder = encoder
        self.levels = LevelHead(encoder, facts, "pixelrnn")

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
