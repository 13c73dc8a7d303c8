"""An encoder with a head: which layers are trained, and at which learning rates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from untaught.config.overrides import knobs_of
from untaught.core import Encoder, View
from untaught.encoders.layers import layer_numbers
from untaught.ranges import Few, Within, check

WEIGHT_RATE = 0.02  # learning rate of the weights of layers: their softmax needs large steps


@dataclass(frozen=True)
class TrainedLayers:
    """Which layers of an encoder learn beside its head, and how fast."""

    train: Literal["full", "partial", "frozen"] = "full"  # all layers, the last ones, or none
    last: Few = 1  # layers that learn with train=partial
    layer_decay: Annotated[float, Within(1e-3, 1)] = 0.75  # a layer's learning rate over that of the layer above it

    def __post_init__(self) -> None:
        check(vars(self), {name: kind for name, (kind, _) in knobs_of(type(self)).items()})

    @property
    def count(self) -> int | None:
        """How many of the encoder's last layers learn; None: all."""
        return {"frozen": 0, "partial": self.last, "full": None}[self.train]


Read = Callable[[Encoder, View], Any]  # computes the head's input from a view


def pooled(encoder: Encoder, view: View) -> Tensor:
    """(B,D)."""
    return encoder(view).float()


def tokens(encoder: Encoder, view: View) -> Tensor:
    """(B,N,D). Only with "tokens"."""
    found = encoder.features(view, want=("tokens",)).tokens
    assert found is not None
    return found.float()


def maps(encoder: Encoder, view: View) -> list[Tensor]:
    """(B,Di,hi,wi) each, fine to coarse. Only with "maps"."""
    found = encoder.features(view, want=("maps",)).maps
    assert found is not None
    return [m.float() for m in found]


class WeightedLayers(nn.Module):
    """Averaged layers (B,L,D) -> linear(their weighted sum); the weights (L,) are a softmax of free parameters, equal at first."""

    def __init__(self, linear: nn.Module, count: int) -> None:
        super().__init__()
        self.free, self.linear = nn.Parameter(torch.zeros(count)), linear

    @property
    def weights(self) -> Tensor:
        return self.free.softmax(0)

    def forward(self, layers: Tensor) -> Tensor:
        return self.linear((layers * self.weights.unsqueeze(1)).sum(1))


class Network(nn.Module):
    """view -> head(read(encoder, view)) in float32, where `read` gives pooled vectors, tokens or maps.

    The encoder's layers that don't learn stand still as in use, BatchNorm statistics and dropout included.
    """

    def __init__(self, encoder: Encoder, head: nn.Module, layers: TrainedLayers | None = None, read: Read = pooled) -> None:
        super().__init__()
        self.encoder, self.head, self.read = encoder, head, read
        self.layers, self.numbers = layers or TrainedLayers(), layer_numbers(encoder)
        depth, learning = self.depth, self.layers.count
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(learning is None or self.numbers[name] >= depth - learning)

    @property
    def depth(self) -> int:
        """The layers of the encoder."""
        return max(self.numbers.values(), default=-1) + 1

    def forward(self, view: View) -> Tensor:
        found = self.read(self.encoder, view)
        with torch.autocast(view.x.device.type, enabled=False):
            return self.head(found)

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        for module in self.encoder.modules():
            own = list(module.parameters())
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()
        return self

    def groups(self, prefix: str) -> dict[str, dict[str, Any]]:
        """Optimizer overrides by parameter name: a layer learns at `layer_decay` times the rate of the one above it, the head at the full
        one, weights of layers at a rate of their own."""
        decay = self.layers.layer_decay
        found = {f"{prefix}encoder.{name}": {"lr_scale": decay ** (self.depth - number)} for name, number in self.numbers.items()}
        return {**found, f"{prefix}head.free": {"lr": WEIGHT_RATE}} if isinstance(self.head, WeightedLayers) else found
