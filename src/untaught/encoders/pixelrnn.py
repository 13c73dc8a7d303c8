"""The network of PixelRNN with diagonal BiLSTMs. van den Oord, Kalchbrenner, Kavukcuoglu, ICML 2016. https://arxiv.org/abs/1601.06759

A masked convolution of 7 x 7, then residual layers, each with two LSTMs that go over the image diagonal by diagonal, one from the left,
one from the right. Their state at a pixel comes from its neighbours at the side and above. The result of the one from the right is shifted
down by a row, since it has seen what is right of a pixel, and both are added (section 3.2). So every earlier value can be seen, which the
row LSTM, whose view is a triangle, does not offer. Skewing the image turns diagonals into columns: a layer takes H + W - 1 steps, both
directions at once. The maps are split into one group per channel; a value's vector sees the channels before it in its own pixel.
Differs from the paper: the LSTM from the right also reads the pixel itself, without which the last pixel of a row would be hidden from
most of the next; and the first layer reads a map of ones, as in PixelCNN++.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.causal_convolution import Masked, draw_weights, image_groups, shifted_down, with_ones
from untaught.core import Encoder, Features, View
from untaught.ranges import Few, Width, in_range

FIRST = 7  # side of the first layer's kernel


class First(nn.Module):
    """The masked convolution of the image: x with ones (B,C+1,H,W) -> (B,D,H,W); group: the group of each map."""

    def __init__(self, channels: int, group: Tensor) -> None:
        super().__init__()
        self.rows = FIRST // 2
        self.above = nn.Conv2d(channels + 1, len(group), (self.rows, FIRST), padding=(0, FIRST // 2))
        self.along = Masked(image_groups(channels), group, FIRST // 2 + 1, strict=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(F.pad(shifted_down(x), (0, 0, self.rows - 1, 0)), x)

    def join(self, above: Tensor, x: Tensor) -> Tensor:
        """above: the rows over each row of x, (B,C+1,R + rows - 1,W) for R rows."""
        return self.above(above) + self.along(x)


class Diagonal(nn.Module):
    """A residual layer with LSTMs in both directions. group: the group of each map of the image; `units` of each LSTM."""

    def __init__(self, channels: int, group: Tensor, units: int) -> None:
        super().__init__()
        own = torch.arange(units) % channels
        self.from_left = Masked(group, own.repeat(4))
        self.from_right = nn.Conv2d(len(group) + channels + 1, 4 * units, 1)  # it may see the pixel: its result is shifted down
        self.state = nn.Parameter(torch.randn(2, 2 * units, 4 * units) * (2 * units) ** -0.5)  # from the state at the side, and above
        self.out = Masked(own, group)

    def forward(self, f: Tensor, x: Tensor) -> Tensor:
        """f (B,D,H,W), the image with ones (B,C+1,H,W) -> (B,D,H,W)."""
        inputs = torch.stack([self.from_left(f), self.right_inputs(f, x).flip(3)]).permute(0, 1, 3, 4, 2)
        left, right = unskewed(self.over(skewed(inputs)), f.shape[3]).permute(0, 1, 4, 2, 3)
        return self.join(f, left + shifted_down(right.flip(3)))

    def right_inputs(self, f: Tensor, x: Tensor) -> Tensor:
        return self.from_right(torch.cat([f, x.to(f.dtype)], 1))

    def join(self, f: Tensor, states: Tensor) -> Tensor:
        return f + self.out(states)

    def over(self, inputs: Tensor) -> Tensor:
        """The inputs of both LSTMs in columns (2,B,H,T,4D) -> their states (2,B,H,T,D)."""
        columns = inputs.unbind(3)
        state = memory = columns[0].new_zeros(*columns[0].shape[:3], columns[0].shape[3] // 4)
        states = []
        for column in columns:
            above = F.pad(state, (0, 0, 1, 0))[:, :, :-1]  # in the skewed image, what is above came one column before
            state, memory = self.step(column, state, above, memory)
            states.append(state)
        return torch.stack(states, 3)

    def step(self, inputs: Tensor, side: Tensor, above: Tensor, memory: Tensor, way: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """inputs (K,B,H,4D) of K LSTMs, their states at the side and above, their memory (K,B,H,D) -> the next state and memory.
        Equation 3. Where neither inputs nor states are, both stay 0."""
        known = torch.cat([side, above], 3).flatten(1, 2)
        gates = inputs + torch.bmm(known, self.state[way].to(known.dtype)).view(inputs.shape)
        units = memory.shape[3]
        output, forget, admit = gates[..., : 3 * units].sigmoid().chunk(3, 3)
        memory = forget * memory + admit * gates[..., 3 * units :].tanh()
        return output * memory.tanh(), memory


def skewed(x: Tensor) -> Tensor:
    """x (...,H,W,D) -> (...,H,W + H - 1,D), each row one place further right than the one above, with zeros at its sides."""
    high, wide = x.shape[-3:-1]
    x = F.pad(x, (0, 0, 0, high)).flatten(-3, -2)
    return x[..., : high * (wide + high - 1), :].unflatten(-2, (high, wide + high - 1))


def unskewed(x: Tensor, wide: int) -> Tensor:
    """The inverse of `skewed`: x (...,H,T,D) -> (...,H,W,D)."""
    high = x.shape[-3]
    return F.pad(x.flatten(-3, -2), (0, 0, 0, high)).unflatten(-2, (high, wide + high))[..., :wide, :]


class PixelRNN(Encoder):
    """x (B,C,H,W) -> (B, 2 * width): the maps of a middle layer, averaged over the image. causal_maps (B,H,W,C,width).

    width: units of each LSTM; the maps between the layers have twice as many, as in the paper.
    """

    offers = frozenset({"maps", "any_size", "causal_maps", "recurrent"})
    stride = 1

    @in_range
    def __init__(self, *, channels: int = 3, size: int = 32, width: Width = 32, depth: Few = 2) -> None:
        super().__init__()
        width = -(-width // channels) * channels
        group = torch.arange(2 * width) % channels
        self.channels, self.inner, self.width = channels, width, 2 * width
        self.first = First(channels, group)
        self.layers: Any = nn.ModuleList(Diagonal(channels, group, width) for _ in range(depth))
        self.middle = (depth + 1) // 2  # layers below the features
        self.out = Masked(group, torch.arange(channels).repeat_interleave(width))
        draw_weights(self)

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        maps = list(self._maps(view.x, len(self.layers) if "maps" in want else self.middle))
        return Features(pooled=maps[self.middle].float().mean((2, 3)), maps=maps if "maps" in want else None)

    def causal_maps(self, view: View) -> Tensor:
        *_, last = self._maps(view.x, len(self.layers))
        return self.vectors(last)

    def causal_rows(self, count: int, width: int) -> RecurrentRows:
        return RecurrentRows(self, count, width)

    def _maps(self, x: Tensor, depth: int) -> Iterator[Tensor]:
        """Yields the maps of the convolution and of each of the first layers (B,D,H,W)."""
        x = with_ones(x)
        f = self.first(x)
        yield f
        for layer in self.layers[:depth]:
            f = layer(f, x)
            yield f

    def vectors(self, f: Tensor) -> Tensor:
        """The last maps (B,D,H,W) -> (B,H,W,C,D)."""
        return self.out(f.relu()).permute(0, 2, 3, 1).unflatten(3, (self.channels, self.inner))


class RecurrentRows:
    """See core.Rows: of each layer, the states of both LSTMs in the row above are kept."""

    def __init__(self, encoder: PixelRNN, count: int, width: int) -> None:
        self.encoder = encoder
        weight = encoder.out.weight
        self.above = weight.new_zeros(count, encoder.channels + 1, encoder.first.rows, width)
        self.states = [weight.new_zeros(2, count, width, layer.state.shape[1] // 2) for layer in encoder.layers]  # in image order

    def vectors(self, row: Tensor) -> Tensor:
        return self.encoder.vectors(self._pass(row, keep=False)).squeeze(1)

    def advance(self, row: Tensor) -> None:
        self._pass(row, keep=True)
        self.above = torch.cat([self.above[:, :, 1:], with_ones(row.unsqueeze(2))], 2)

    def _pass(self, row: Tensor, keep: bool) -> Tensor:
        x = with_ones(row.unsqueeze(2))
        f = self.encoder.first.join(self.above, x)
        for i, layer in enumerate(self.encoder.layers):
            before = self.states[i]
            left = self._scan(layer, layer.from_left(f), before[0], 0)
            after = layer.join(f, (left + before[1]).transpose(1, 2).unsqueeze(2))
            if keep:
                right = self._scan(layer, layer.right_inputs(f, x).flip(3), before[1].flip(1), 1).flip(1)
                self.states[i] = torch.stack([left, right])
            f = after
        return f

    def _scan(self, layer: Diagonal, inputs: Tensor, above: Tensor, way: int) -> Tensor:
        """One LSTM along a row: inputs (B,4D,1,W), the states above (B,W,D) -> (B,W,D)."""
        places = inputs.permute(3, 0, 2, 1).unsqueeze(1)  # (W,1,B,1,4D)
        state = memory = torch.zeros_like(above[:, :1]).unsqueeze(0)
        states = []
        for place, over in zip(places, above.unsqueeze(2).unbind(1), strict=True):
            state, memory = layer.step(place, state, over.unsqueeze(0), memory, slice(way, way + 1))
            states.append(state[0, :, 0])
        return torch.stack(states, 1)
