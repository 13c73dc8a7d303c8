"""Optimizers from torch and timm, parameter groups, schedules.

By default, in short runs, it is Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; scaled as in Liu et al. 2025,
https://arxiv.org/abs/2502.16982, equation 4): the weights of linear and convolutional layers are updated with their
orthogonalised momentum, everything else with AdamW. In short runs it learns several times as fast as AdamW from the same number of
images. It is timm's. It differs from Jordan's code: momentum 0.9 without Nesterov, not 0.95 with it; a learning rate of 0.02 in the
units of Liu et al., which is 1.4 to 6.8 times Jordan's step, also for the part with AdamW (there 3e-4); and first convolutions, the
projector's last layer and prototypes are updated with Muon too.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from untaught.config.overrides import unknown
from untaught.config.train_config import TrainConfig
from untaught.core import Method, UserError
from untaught.encoders.layers import layer_numbers

SHARDED = ("muon", "adamw", "sgd")  # optimizers whose sharded updates were checked against unsharded ones


def default_lr(optimizer: str, batch_size: int) -> float:
    """Scales linearly with the batch if a step scales with the gradient, and with its square root if not (Malladi et al. 2022)."""
    if optimizer == "muon":
        return 0.02 * (batch_size / 512) ** 0.5
    return {"sgd": 0.05, "lars": 0.3}.get(optimizer, 1e-3) * batch_size / 256


def optimizer_for(method: Method, train_config: TrainConfig) -> torch.optim.Optimizer:
    """One group with and one without weight decay (biases, norms, single vectors), each with the method's own overrides.

    A group of the method may set `lr`, or `lr_scale` (relative to the config's lr), and schedule "constant".
    """
    sharded = train_config.strategy == "fsdp"
    if sharded and method.players:
        raise UserError(f"strategy=fsdp does not support adversarial methods such as {type(method).__name__}; use strategy=ddp")
    if sharded and train_config.optimizer not in SHARDED:
        raise UserError(f"optimizer={train_config.optimizer} is not tested with strategy=fsdp; use one of {', '.join(SHARDED)}")
    groups = parameter_groups(method, train_config.weight_decay, _rates(method, train_config))
    assert train_config.lr is not None
    for group in groups:
        group.setdefault("lr_scale", group.pop("lr", train_config.lr) / train_config.lr)
    betas: Any = {"betas": train_config.betas} if train_config.betas else {}
    if train_config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=train_config.lr, fused=True, **betas)
    if train_config.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=train_config.lr, momentum=train_config.momentum, nesterov=train_config.momentum > 0, fused=not sharded
        )
    from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers  # pyright: ignore[reportPrivateImportUsage]

    try:
        info = get_optimizer_info(train_config.optimizer)
    except ValueError:
        raise unknown("optimizer", train_config.optimizer, [str(name) for name in list_optimizers()]) from None
    momentum: Any = {"momentum": train_config.momentum} if info.has_momentum else {}
    own = momentum | (betas if info.has_betas else {})
    optimizer = create_optimizer_v2(groups, opt=train_config.optimizer, lr=train_config.lr, **own)  # type: ignore[arg-type]
    if train_config.optimizer == "muon":
        optimizer.register_step_pre_hook(_route(set(map(id, layer_weights(method)))))
    return optimizer


def _route(matrices: set[int]) -> Any:
    """Decides before a parameter's first step whether Muon or AdamW updates it, by its role; timm would decide by its shape."""

    def hook(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            if parameter.grad is not None:
                optimizer.state[parameter].setdefault("use_muon", id(parameter) in matrices)

    return hook


def layer_weights(module: nn.Module) -> list[nn.Parameter]:
    """The weight matrices of linear, convolutional and attention layers. Not embeddings, of which a step touches only some rows, as Muon's
    authors advise; not depthwise convolutions or layers with one output, whose weights are vectors; not positions and mask tokens."""
    embeddings = _embeddings(module)
    named = [(name, p) for part in module.modules() for name, p in part.named_parameters(recurse=False) if p.ndim > 1]
    weights = [p for name, p in named if name.endswith("weight") and id(p) not in embeddings and 1 not in p.shape[:2]]
    return list({id(p): p for p in weights}.values())


def _embeddings(module: nn.Module) -> set[int]:
    """The ids of the embeddings' weights."""
    return {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}


def _rates(method: Method, train_config: TrainConfig) -> dict[str, float]:
    """The factor on lr of each parameter, by name, where it is not 1: of layers of the encoders, patch projections, biases and norms."""
    decay, found = train_config.layer_decay, dict.fromkeys((name for name, _ in method.named_parameters()), 1.0)
    for role in method.roles():
        numbers = layer_numbers(getattr(method, role)) if decay != 1 else {}
        depth = max(numbers.values(), default=0) + 1
        for name, number in numbers.items():
            found[f"{role}.{name}"] *= decay ** (depth - number)
    for name, parameter in method.named_parameters():
        found[name] *= (train_config.patch_lr if "patch_embed." in name else 1.0) * (train_config.bias_lr if parameter.ndim == 1 else 1.0)
    return {name: factor for name, factor in found.items() if factor != 1}


def parameter_groups(method: Method, weight_decay: float, rates: dict[str, float] | None = None) -> list[dict[str, Any]]:
    """Parameter groups; none mixes players ("player" names its owner). rates: factors on lr, by name.

    "use_fallback": of embeddings, which Muon leaves to AdamW.
    """
    groups: dict[tuple, dict[str, Any]] = {}
    embeddings = _embeddings(method)
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        own = next((overrides for prefix, overrides in method.groups.items() if name.startswith(prefix)), {})
        decays = parameter.ndim > 1 and not name.endswith(("pos_embed", "cls_token", "reg_token"))
        if id(parameter) in embeddings:
            own = {**own, "use_fallback": True}
        if rates and name in rates:
            own = {**own, "lr_scale": own.get("lr_scale", 1.0) * rates[name]}
        if player := method.player_of(name):
            own = {**own, "player": player}
        key = (*sorted(own.items()), decays)
        base = {"params": [], "weight_decay": weight_decay if decays else 0.0, "decays": decays and own.get("weight_decay") != 0.0}
        groups.setdefault(key, {**base, **own})["params"].append(parameter)
    return list(groups.values())


def rate(schedule: str, warmup: float, progress: float) -> float:
    """The factor on lr at `progress` (0 to 1) of the training."""
    if progress < warmup:
        return progress / warmup
    left = (progress - warmup) / max(1 - warmup, 1e-9)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(left, 1.0)))
    return 1 - min(left, 1.0) if schedule == "linear" else 1.0


def set_decay(optimizer: torch.optim.Optimizer, decay: float, end: float | None, progress: float) -> None:
    """Sets the weight decay of each group that has one to its value at `progress`, from `decay` to `end` on a cosine schedule."""
    if end is not None:
        now = end + 0.5 * (decay - end) * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["weight_decay"] = now if group.get("decays", group["weight_decay"] > 0) else 0.0


def set_rate(optimizer: torch.optim.Optimizer, lr: float, share: float) -> None:
    """Sets each group's learning rate to share * lr, or lr in a group whose "schedule" is "constant"."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0) * (1.0 if group.get("schedule") == "constant" else share)
