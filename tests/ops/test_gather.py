"""Two processes are one: the loss and, after DDP's averaging, the gradients of the joined batch."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from untaught.core import Facts, View
from untaught.encoders.plain import Plain
from untaught.methods.decorrelation.vicreg import VICReg
from untaught.ops.gather import gather, rank, world_size
from untaught.ops.info_nce import nt_xent

WORLD, ROWS = 2, 6


def views() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, 4, generator=generator), torch.randn(ROWS, 4, generator=generator)


def losses(x: Tensor, y: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The loss and the gradient of a shared layer."""
    result = {}
    vicreg = VICReg(Plain(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), View(torch.zeros(2, 1, 4, 4))), Facts(rows=ROWS))
    for name in ("nt_xent", "vicreg"):
        layer = nn.Linear(4, 3, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.arange(12).view(3, 4) / 6 - 1)
        a, b = layer(x), layer(y)
        loss = nt_xent(a, b, 0.5) if name == "nt_xent" else torch.stack(list(vicreg.objective([a, b], 0.0).values())).sum()
        loss.backward()
        assert layer.weight.grad is not None
        result[name] = loss.detach(), layer.weight.grad
    return result


def worker(place: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=place, world_size=WORLD)
    part = slice(place * ROWS // WORLD, (place + 1) * ROWS // WORLD)
    results = losses(*(v[part] for v in views()))
    for pair in results.values():
        for value in pair:
            dist.all_reduce(value)
            value /= WORLD  # as DDP does
    order = gather(torch.full((2,), rank()))
    if place == 0:
        torch.save({"results": results, "order": order}, f"{folder}/results.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    mp.spawn(worker, (str(tmp_path),), nprocs=WORLD)  # type: ignore[attr-defined]
    found = torch.load(tmp_path / "results.pt", weights_only=True)
    assert found["order"].tolist() == [0, 0, 1, 1]
    for name, (loss, gradient) in losses(*views()).items():
        torch.testing.assert_close(found["results"][name][0], loss)
        torch.testing.assert_close(found["results"][name][1], gradient, atol=1e-6, rtol=1e-4)


def test_alone_nothing_is_gathered() -> None:
    x = torch.randn(3)
    assert gather(x) is x
    assert (world_size(), rank()) == (1, 0)
