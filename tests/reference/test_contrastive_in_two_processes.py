"""Two processes have the losses, gradients and queues of one with the joined batch, whose sample i is on process i % 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from untaught.config.registry import method_class
from untaught.core import Encoder, Facts, Features, Method, View

WORLD, ROWS, SIDE, STEPS = 2, 24, 8, 2
KNOBS: dict[str, dict[str, Any]] = {  # small, so that groups, queues and slices are cut more than once
    "margin": {"width": 6},
    "moco": {"queue": 40, "width": 6},
    "mocov3": {"width": 6},
    "nnclr": {"queue": 40, "width": 6},
    "dcl": {"weighted": True, "width": 6},
    "cpc": {"group": 4},
    "deep_infomax": {"alpha": 0.5, "units": 12},
    "barlow_twins": {"width": 6},
    "w_mse": {"width": 4, "slice": 6},
    "vicregl": {"width": 6, "local_width": 6},
    "lejepa": {"width": 6, "directions": 8},
}


class Maps(Encoder):
    """Two convolutions without BatchNorm, which the engine converts: x (B,3,H,W) -> (B,6)."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3, 2, 1), nn.Conv2d(5, 6, 3, 2, 1)

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        fine = self.first(view.x).tanh()
        coarse = self.second(fine).tanh()
        return Features(pooled=coarse.mean((2, 3)), maps=[fine, coarse])


def built(name: str) -> tuple[Method, list[View]]:
    torch.manual_seed(0)
    cls: Any = method_class(name)
    views = []
    for _ in cls.views:
        affine = torch.eye(2, 3) * (0.5 + torch.rand(ROWS, 1, 1))
        views.append(View(torch.randn(ROWS, 3, SIDE, SIDE), meta={"affine": affine}))
    method = cls(Maps(), Facts(rows=ROWS, views={cls.views[0]: views[0]}), **KNOBS[name])
    for module in list(method.modules()):
        for key, child in module.named_children():
            if isinstance(child, nn.BatchNorm1d):
                setattr(module, key, nn.Identity())
    return method, views


def trained(name: str, place: int = 0, world: int = 1) -> dict[str, Tensor]:
    """Terms, gradients and state of some steps on the process's own samples, averaged as DDP does."""
    method, views = built(name)
    found = {}
    for step in range(STEPS):
        method.zero_grad()
        own = [View(view.x[place::world] + step, meta={k: v[place::world] for k, v in (view.meta or {}).items()}) for view in views]
        terms = method(own, 0.5)
        torch.stack(list(terms.values())).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
        for key, value in {**terms, "gradient": gradient}.items():
            value = value.detach().clone()
            if world > 1:
                dist.all_reduce(value)
            found[f"{name} {key} {step}"] = value / world
        method.after_step(0.5)
        method.pending.clear()
    return found | {f"{name} {key}": value for key, value in method.state_dict().items() if "queue" in key}


def worker(place: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=place, world_size=WORLD)
    found = {key: value for name in KNOBS for key, value in trained(name, place, WORLD).items()}
    torch.save(found, f"{folder}/{place}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_losses_gradients_and_queues_of_one(tmp_path: Path) -> None:
    mp.spawn(worker, (str(tmp_path),), nprocs=WORLD)  # type: ignore[attr-defined]
    alone = {key: value for name in KNOBS for key, value in trained(name).items()}
    assert {key.split()[0] for key in alone if "queue.vectors" in key} == {"moco", "nnclr"}
    for place in range(WORLD):
        found = torch.load(tmp_path / f"{place}.pt", weights_only=True)
        assert found.keys() == alone.keys()
        for key, value in alone.items():
            assert (found[key] - value).float().norm() <= 1e-4 * value.float().norm(), key
