"""The network of the gated PixelCNN. van den Oord et al., NIPS 2016. https://arxiv.org/abs/1606.05328

A vertical stack sees the rows above, a horizontal stack what is left of a pixel in its row, and in each layer the horizontal stack reads
the vertical one (section 2.2), so that the receptive field has no blind spot. Activations are gated: tanh(a) * sigmoid(b) (equation 2).
The feature maps of the horizontal stack are split into one group per channel; a value's vector sees the channels before it in its own
pixel. Beside the image, the first layer reads a map of ones, so that what is outside the image (zeros) differs from an average pixel, and
the vertical stack has residual connections like the horizontal one: both as in PixelCNN++ (Salimans et al., ICLR 2017).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.causal_convolution import Masked, draw_weights, image_groups, shifted_down, with_ones
from untaught.core import Encoder, Features, View
from untaught.ranges import Few, FewOrNone, Width, in_range

FIRST = 7  # side of the first layer's kernel


class Layer(nn.Module):
    """One gated layer of both stacks. inside: the group of each map that it reads; `width` maps out, in `groups` groups."""

    def __init__(self, inside: Tensor, width: int, groups: int, kernel: int, first: bool) -> None:
        super().__init__()
        group = torch.arange(width) % groups
        pairs = group.repeat(2)
        self.rows = kernel // 2 + (0 if first else 1)  # rows that the vertical stack reads; the image comes shifted by one
        self.above = nn.Conv2d(len(inside), 2 * width, (self.rows, kernel), padding=(0, kernel // 2))
        self.across = nn.Conv2d(2 * width, 2 * width, 1)
        self.along = Masked(inside, pairs, kernel // 2 + 1, strict=first)
        self.out = Masked(group, group)
        self.residual = not first

    def see(self, v: Tensor) -> Tensor:
        """The vertical stack's rows (B,I,R + rows - 1,W) -> its next activations, before the gate (B,2D,R,W)."""
        return self.above(v)

    def rise(self, v: Tensor, seen: Tensor) -> Tensor:
        """-> the vertical stack's next maps (B,D,R,W)."""
        return v + gate(seen) if self.residual else gate(seen)

    def move(self, h: Tensor, known: Tensor) -> Tensor:
        """The horizontal stack h (B,I,R,W), and what the vertical one tells it (B,2D,R,W) -> its next maps (B,D,R,W)."""
        moved = self.out(gate(self.along(h) + known))
        return h + moved if self.residual else moved


def gate(x: Tensor) -> Tensor:
    """(B,2D,H,W) -> (B,D,H,W)."""
    a, b = x.chunk(2, 1)
    return a.tanh() * b.sigmoid()


class PixelCNN(Encoder):
    """x (B,C,H,W) -> (B,width): the maps of the vertical stack before the last layer, averaged over the image.

    The vertical stack tells images apart better than the horizontal one, which is about the next value (on held-out training images of
    Fashion-MNIST; so was the layer chosen). maps: of the vertical stack, from the first layer on. causal_maps (B,H,W,C,width).
    """

    offers = frozenset({"maps", "any_size", "causal_maps"})
    stride = 1

    @in_range
    def __init__(self, *, channels: int = 3, size: int = 32, width: Width = 64, depth: FewOrNone = 6, kernel: Few = 3) -> None:
        super().__init__()
        width = -(-width // channels) * channels
        group = torch.arange(width) % channels
        self.channels, self.width = channels, width
        self.layers: Any = nn.ModuleList([Layer(image_groups(channels), width, channels, FIRST, first=True)])
        self.layers.extend(Layer(group, width, channels, kernel, first=False) for _ in range(depth))
        self.chosen = max(depth - 1, 0)  # the layer of the features
        self.out = Masked(group, torch.arange(channels).repeat_interleave(width))
        draw_weights(self)

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        maps = [v for v, _ in self._stacks(view.x, len(self.layers) if "maps" in want else self.chosen + 1)]
        return Features(pooled=maps[self.chosen].float().mean((2, 3)), maps=maps if "maps" in want else None)

    def causal_maps(self, view: View) -> Tensor:
        *_, (_, h) = self._stacks(view.x, len(self.layers))
        return self.vectors(h)

    def causal_rows(self, count: int, width: int) -> GatedRows:
        return GatedRows(self, count, width)

    def _stacks(self, x: Tensor, depth: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the maps of the vertical and the horizontal stack after each of the first layers, (B,D,H,W)."""
        h = with_ones(x)
        v = shifted_down(h)
        for layer in self.layers[:depth]:
            seen = layer.see(F.pad(v, (0, 0, layer.rows - 1, 0)))
            v, h = layer.rise(v, seen), layer.move(h, layer.across(seen))
            yield v, h

    def vectors(self, h: Tensor) -> Tensor:
        """The horizontal stack's last maps (B,D,H,W) -> (B,H,W,C,D)."""
        return self.out(h.relu()).permute(0, 2, 3, 1).unflatten(3, (self.channels, self.width))


class GatedRows:
    """See core.Rows: of the vertical stack, the rows that the kernels still read are kept."""

    def __init__(self, encoder: PixelCNN, count: int, width: int) -> None:
        self.encoder = encoder
        weight = encoder.out.weight
        self.kept = [weight.new_zeros(count, layer.above.in_channels, layer.rows - 1, width) for layer in encoder.layers]
        self._rise(weight.new_zeros(count, encoder.channels + 1, 1, width))

    def vectors(self, row: Tensor) -> Tensor:
        h = with_ones(row.unsqueeze(2))
        for layer, known in zip(self.encoder.layers, self.known, strict=True):
            h = layer.move(h, known)
        return self.encoder.vectors(h).squeeze(1)

    def advance(self, row: Tensor) -> None:
        self._rise(with_ones(row.unsqueeze(2)))

    def _rise(self, v: Tensor) -> None:
        self.known = []
        for i, layer in enumerate(self.encoder.layers):
            rows = torch.cat([self.kept[i].to(v.dtype), v], 2)
            self.kept[i] = rows[:, :, 1:]
            seen = layer.see(rows)
            self.known.append(layer.across(seen))
            v = layer.rise(v, seen)
