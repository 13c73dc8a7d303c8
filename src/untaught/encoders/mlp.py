"""A multilayer perceptron on a view's numbers, whatever they are."""

from __future__ import annotations

from torch import nn

from untaught.blocks.mlp import mlp
from untaught.core import Encoder, Features, View
from untaught.ranges import Few, Size, Width, in_range


class Mlp(Encoder):
    """x (B, ...) of `inputs` numbers a sample -> (B, width): linear layers with BatchNorm and ReLU behind each."""

    @in_range
    def __init__(self, *, inputs: Size, width: Width = 256, depth: Few = 2) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.Flatten(), mlp(inputs, *[width] * depth, last_norm=True), nn.ReLU())

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return Features(pooled=self.layers(view.x))
