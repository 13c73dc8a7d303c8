"""An encoder with a head: which of its layers learn, and how fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from timm.models import group_parameters
from torch import Tensor, nn

from untaught.core import Encoder, View
from untaught.ranges import Within

Decay = Annotated[float, Within(1e-3, 1)]  # of a layer's learning rate to that of the layer above it


Read = Callable[[Encoder, View], Any]  # what a head reads of an encoder's view


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


class Network(nn.Module):
    """A view -> head(read(encoder, view)) in float32: pooled vectors, tokens or maps, and a head on them.

    Of the encoder's layers, counted from the input, the last `learning` learn (None: all). The others stand still as in use,
    BatchNorm statistics and dropout included.
    """

    def __init__(self, encoder: Encoder, head: nn.Module, learning: int | None = None, read: Read = pooled) -> None:
        super().__init__()
        self.encoder, self.head, self.read = encoder, head, read
        self.layers = layer_numbers(encoder)
        count = max(self.layers.values(), default=-1) + 1
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(learning is None or self.layers[name] >= count - learning)

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

    def groups(self, prefix: str, decay: float) -> dict[str, dict[str, Any]]:
        """Optimizer overrides by parameter name: a layer learns at `decay` times the rate of the one above it, the head at the full one."""
        count = max(self.layers.values(), default=-1) + 1
        return {f"{prefix}encoder.{name}": {"lr_scale": decay ** (count - number)} for name, number in self.layers.items()}


def layer_numbers(encoder: nn.Module) -> dict[str, int]:
    """The layer of every parameter, from 0 at the input: as timm groups them, for its models; else by the module's children in order."""
    model, inside = getattr(encoder, "model", None), ""
    if model is not None and hasattr(model, "group_matcher"):
        numbers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
        inside = "model."
        named = {name: int(numbers[name]) for name, _ in model.named_parameters()}  # type: ignore[call-overload,index]
    else:
        module: nn.Module = encoder
        while len(children := _with_parameters(module)) == 1 and not list(module.parameters(recurse=False)):
            name, module = children[0]
            inside += f"{name}."
        places = {name: i for i, (name, _) in enumerate(children)}
        named = {name: places.get(name.split(".")[0], 0) for name, _ in module.named_parameters()}
    ranks = {number: rank for rank, number in enumerate(sorted(set(named.values())))}
    return {inside + name: ranks[number] for name, number in named.items()}


def _with_parameters(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]


def learning_layers(train: str, last: int) -> int | None:
    """How many of the encoder's last layers learn: none, `last`, or all (None)."""
    return {"frozen": 0, "partial": last, "full": None}[train]
