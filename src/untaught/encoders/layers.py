"""The layers of an encoder, numbered from its input, for learning rates by layer."""

from __future__ import annotations

from torch import nn


def layer_numbers(encoder: nn.Module) -> dict[str, int]:
    """The layer number of every parameter, from 0 at the input: timm's grouping for its models, else the order of the module's children."""
    from timm.models import group_parameters  # takes seconds to import

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
