"""State that is written in parts: any number of processes reads what any other number wrote, also where rows can't be shared equally."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from processes import together
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from untaught.config.train_config import TrainConfig
from untaught.core import UserError
from untaught.distributed.process_group import ProcessGroup
from untaught.training import sharded_checkpoint as shards


class Odd(nn.Module):
    """Parameters of 5, 3 and 1 rows, a buffer without rows, and a parameter that never has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3), nn.Linear(3, 1))
        self.idle = nn.Parameter(torch.randn(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).square().mean() + 0 * self.idle.detach().sum()


def steps(place: str, before: str | None, rows: int = 5) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State after two steps, or as it was read and then two steps on; both are saved."""
    torch.manual_seed(0)
    group = ProcessGroup(TrainConfig(batch_size=12, steps=1, strategy="fsdp"))
    method = Odd()
    if rows != 5:
        method.body[0] = nn.Linear(4, rows)
    wrapped = group.fabric.setup_module(method)
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.01)
    if before:
        nn.init.zeros_(method.idle)
        shards.load(Path(before), method, optimizer, group)
    read = in_one_piece(method, optimizer)
    x = torch.arange(48.0).view(12, 4).cos()
    for _ in range(2):
        wrapped(x).backward()
        optimizer.step()
        optimizer.zero_grad()
    Path(place).mkdir(exist_ok=True)
    shards.save(Path(place), method, optimizer, group)
    return read, in_one_piece(method, optimizer)


def in_one_piece(method: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    parameters = dict(method.named_parameters())
    state = {f"{name} {key}": x for name, p in parameters.items() for key, x in optimizer.state.get(p, {}).items()}
    return {name: x.full_tensor() if isinstance(x, DTensor) else x.clone() for name, x in {**method.state_dict(), **state}.items()}


@pytest.mark.parametrize(("wrote", "reads"), [(2, 1), (1, 2), (2, 3), (3, 2)])
def test_what_some_wrote_others_read(wrote: int, reads: int, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    _, written = together(wrote, steps, str(first), None, folder=tmp_path)[0]
    assert len(list(first.iterdir())) == wrote
    assert "body.0.weight exp_avg" in written
    assert "idle exp_avg" not in written
    found = together(reads, steps, str(second), str(first), folder=tmp_path)
    expected = together(1, steps, str(second), str(first), folder=tmp_path)[0][1]
    for read, after in found:
        assert read.keys() == written.keys()
        assert all(torch.equal(read[name], x) for name, x in written.items())
        for name, x in expected.items():
            torch.testing.assert_close(after[name], x, rtol=1e-5, atol=1e-6)


def test_another_shape_is_refused_by_all(tmp_path: Path) -> None:
    together(2, steps, str(tmp_path / "first"), None, folder=tmp_path)
    with pytest.raises(AssertionError, match=r"UserError: .* can't be read: method.body.0.weight has shapes \[\[3, 4\], \[2, 4\]\]"):
        together(2, steps, str(tmp_path / "second"), str(tmp_path / "first"), 7, folder=tmp_path)


def test_an_incomplete_state_of_the_optimizer_is_refused(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    tensors = {f"method.{name}": x.clone() for name, x in network.state_dict().items()}
    save_file({**tensors, "optimizer.weight.exp_avg": torch.zeros(2, 2)}, tmp_path / "part-00000.safetensors")
    with pytest.raises(UserError, match=r"can't be read: 'optimizer.weight.\w+'"):
        shards.load(tmp_path, network, optimizer, ProcessGroup())
