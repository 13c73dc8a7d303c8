"""Densities of images of integer levels: the loss of an autoregressive network, samples, and completions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from untaught.core import Encoder, Facts, Terms, UserError, View
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.cross_entropy import mean_cross_entropy
from untaught.ops.sampling import linear_sample

LEVELS = 256
GREY = 0.5  # of what is not given


class LevelHead(nn.Module):
    """The probabilities of each value's 256 levels, from the network's vectors of those before it: a linear layer for each channel."""

    mean: Tensor  # (C,1) of the data's channels, in 0..1
    std: Tensor

    def __init__(self, encoder: Encoder, facts: Facts, method: str) -> None:
        super().__init__()
        example = facts.views["levels"]
        if example.target is None or example.x.ndim != 4 or not {"mean", "std"} <= facts.statistics.keys():
            raise UserError(f"{method} is a density of images of 256 levels, which these samples are not; allowed: image")
        self.shape = (example.x.shape[1], example.x.shape[2], example.x.shape[3])
        with torch.no_grad():
            width = encoder.causal_maps(example).shape[-1]
        self.channels: Any = nn.ModuleList(nn.Linear(width, LEVELS) for _ in range(self.shape[0]))
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(facts.statistics[name]).unsqueeze(1), persistent=False)

    def forward(self, vectors: Tensor, target: Tensor) -> Terms:
        """vectors (B,H,W,C,D) and levels (B,C,H,W) -> the mean "nll" of a value in nats, and the same in bits, without gradient."""
        vectors = vectors.relu()
        each = [mean_cross_entropy(vectors[..., c, :], linear.weight, linear.bias, target[:, c]) for c, linear in enumerate(self.channels)]
        nll = torch.stack(each).mean()
        return {"nll": nll, "bits_per_dim": nll.detach() / math.log(2)}

    @torch.no_grad()
    def drawn(self, encoder: Encoder, levels: Tensor, first: int, index: Tensor, seed: int) -> Tensor:
        """Images with the rows from `first` on drawn value by value, given those above: levels (B,C,H,W) -> the same.

        index (B,) names the images: each has the same draws in any batch.
        """
        levels = levels.clone()
        rows = encoder.causal_rows(len(levels), levels.shape[3])
        for y in range(levels.shape[2]):
            row = levels[:, :, y]
            if y >= first:
                units = CounterRNG(seed, 0, index, y).uniform(row.shape[2], row.shape[1])
                for x in range(row.shape[2]):
                    for c, linear in enumerate(self.channels):
                        vectors = rows.vectors(self.normalised(row))[:, x, c].relu()
                        row[:, c, x] = linear_sample(vectors, linear.weight, linear.bias, units[:, x, c])
            rows.advance(self.normalised(row))
        return levels

    def normalised(self, levels: Tensor) -> Tensor:
        """Levels of a row (B,C,W) -> as the view has them."""
        return (levels / (LEVELS - 1) - self.mean) / self.std

    def sampled(self, encoder: Encoder, count: int, seed: int) -> Tensor:
        """-> (count,C,H,W), normalised as the view's x."""
        index = torch.arange(count, device=self.mean.device)
        levels = self.drawn(encoder, index.new_zeros(count, *self.shape), 0, index, seed)
        return self.normalised(levels.flatten(2)).view(levels.shape)

    def completed(self, encoder: Encoder, view: View) -> Tensor:
        """Keeps the upper half of each image, and draws the lower one -> levels (B,C,H,W)."""
        assert view.target is not None
        index = (view.meta or {}).get("index", torch.arange(len(view), device=view.target.device))
        return self.drawn(encoder, view.target, view.target.shape[2] // 2, index, seed=0)

    def upper(self, view: View) -> View:
        """What `completed` keeps of a view: its upper half, the lower one grey."""
        x = view.x.clone()
        x[:, :, x.shape[2] // 2 :] = ((GREY - self.mean) / self.std).unsqueeze(2)
        return View(x, meta=view.meta)
