"""VIME's loss and the piecewise linear encoding against their equations in plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from untaught.core import Encoder, Facts, Features, View
from untaught.methods.reconstruction.vime import VIME
from untaught.ops.piecewise_linear import piecewise_linear


class Linear(Encoder):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width, self.net = width, nn.Linear(inputs, width)

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return Features(pooled=self.net(view.x))


def test_vime_says_what_changed_and_what_was_there() -> None:
    torch.manual_seed(0)
    rows, features, inputs = 6, 3, 5
    view = View(torch.randn(rows, inputs), mask=torch.rand(rows, features) < 0.4, target=torch.randn(rows, inputs))
    encoder = Linear(inputs, 4)
    method = VIME(encoder, Facts(rows, {"redrawn": view[:2]}), reconstruction=2.0)
    terms = method([view], 0.0)

    vectors = encoder(view)
    entropy = squared = 0.0
    for i in range(rows):
        logits = method.changed.weight @ vectors[i] + method.changed.bias
        restored = method.row.weight @ vectors[i] + method.row.bias
        assert view.mask is not None
        assert view.target is not None
        for j in range(features):
            p = 1 / (1 + math.exp(-float(logits[j].detach())))
            entropy -= math.log(p) if view.mask[i, j] else math.log(1 - p)
        for j in range(inputs):
            squared += float((restored[j] - view.target[i, j]).detach()) ** 2
    assert float(terms["mask"]) == pytest.approx(entropy / (rows * features), rel=1e-5)
    assert float(terms["reconstruction"]) == pytest.approx(2 * squared / (rows * inputs), rel=1e-5)


def test_numbers_are_encoded_bin_by_bin() -> None:
    edges = [[-1.0, 0.0, 0.5, 2.0], [0.0, 4.0]]  # three bins, and one
    most = 3
    padded = torch.tensor([own + [own[-1]] * (most + 1 - len(own)) for own in edges])
    x = torch.tensor([[-2.0, 1.0], [-0.5, -4.0], [0.25, 8.0], [1.0, 4.0], [5.0, 0.0]])
    found = piecewise_linear(x, padded, torch.tensor([3, 1]))
    for i, row in enumerate(x.tolist()):
        for j, own in enumerate(edges):
            bins = len(own) - 1
            for t in range(most):
                if t >= bins or (row[j] < own[t] and t > 0):
                    expected = 0.0
                elif row[j] >= own[t + 1] and t < bins - 1:
                    expected = 1.0
                else:
                    expected = (row[j] - own[t]) / (own[t + 1] - own[t])
                assert float(found[i, j, t]) == pytest.approx(expected)
