"""Optimizers from torch and timm, parameter groups, schedules.

The default is Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; scaled as in Liu et al. 2025,
https://arxiv.org/abs/2502.16982, equation 4): matrices are updated with their orthogonalised momentum, everything else with
AdamW. In short runs it learns several times as fast as AdamW from the same number of images.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from untaught.config.overrides import unknown
from untaught.config.train_config import TrainConfig
from untaught.core import Method, UserError

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
    groups = parameter_groups(method, train_config.weight_decay)
    assert train_config.lr is not None
    for group in groups:
        group.setdefault("lr_scale", group.pop("lr", train_config.lr) / train_config.lr)
    if train_config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=train_config.lr, fused=True)
    if train_config.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=train_config.lr, momentum=train_config.momentum, nesterov=train_config.momentum > 0, fused=not sharded
        )
    from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers  # pyright: ignore[reportPrivateImportUsage]

    try:
        info = get_optimizer_info(train_config.optimizer)
    except ValueError:
        raise unknown("optimizer", train_config.optimizer, [str(name) for name in list_optimizers()]) from None
    momentum = {"momentum": train_config.momentum} if info.has_momentum else {}
    return create_optimizer_v2(groups, opt=train_config.optimizer, lr=train_config.lr, **momentum)  # type: ignore[arg-type]


def parameter_groups(method: Method, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups; none mixes players ("player" names its owner).

    As Muon's authors advise, embeddings, of which a step touches only some rows, are updated with AdamW (`use_fallback`).
    """
    groups: dict[tuple, dict[str, Any]] = {}
    embeddings = {id(part.weight) for part in method.modules() if isinstance(part, nn.Embedding)}
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        own = next((overrides for prefix, overrides in method.groups.items() if name.startswith(prefix)), {})
        decays = parameter.ndim > 1 and not name.endswith(("pos_embed", "cls_token", "reg_token"))
        if id(parameter) in embeddings:
            own = {**own, "use_fallback": True}
        if player := method.player_of(name):
            own = {**own, "player": player}
        key = (*sorted(own.items()), decays)
        group = groups.setdefault(key, {"params": [], "weight_decay": weight_decay if decays else 0.0, **own})
        group["params"].append(parameter)
    return list(groups.values())


def rate(schedule: str, warmup: float, progress: float) -> float:
    """The factor on lr at `progress` (0 to 1) of the training."""
    if progress < warmup:
        return progress / warmup
    left = (progress - warmup) / max(1 - warmup, 1e-9)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(left, 1.0)))
    return 1 - min(left, 1.0) if schedule == "linear" else 1.0


def set_rate(optimizer: torch.optim.Optimizer, lr: float, share: float) -> None:
    """Sets each group's learning rate to share * lr, or lr in a group whose "schedule" is "constant"."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0) * (1.0 if group.get("schedule") == "constant" else share)
