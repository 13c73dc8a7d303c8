"""TS2Vec with two processes, of which each pads its batch to its own longest series, is TS2Vec on the joined batch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import together
from torch import Tensor

from untaught.core import Facts, View
from untaught.encoders.conv_series import ConvSeries
from untaught.methods import TS2Vec

LENGTHS = torch.tensor([9, 8, 6, 5])  # of four series: each half is padded to a width of its own


def terms(place: int, world: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    encoder, x = ConvSeries(channels=1, width=4, hidden=4, depth=1), torch.randn(4, 9, 1)
    rows = torch.arange(4).chunk(world)[place]
    width = int(LENGTHS[rows].max())
    view = View(x[rows, :width], torch.arange(width) < LENGTHS[rows].unsqueeze(1), meta={"index": rows})
    found = TS2Vec(encoder, Facts(rows=4, views={"excerpt": view}), masked=0.3)([view], 0.0)
    torch.stack(list(found.values())).sum().backward()
    return {**found, "gradient": torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])}


def averaged(folder: str) -> dict[str, Tensor]:
    """As DDP does."""
    dist.init_process_group("gloo")
    found = {key: value.detach().clone() for key, value in terms(int(os.environ["RANK"]), 2).items()}
    for value in found.values():
        dist.all_reduce(value)
    dist.destroy_process_group()
    return {key: value / 2 for key, value in found.items()}


def test_two_processes_are_one(tmp_path: Path) -> None:
    pair: list[Any] = together(2, averaged, str(tmp_path), folder=tmp_path)
    alone = terms(0, 1)
    for key in ("instance", "temporal"):
        assert pair[0][key].item() == pytest.approx(alone[key].item(), rel=1e-5)
    torch.testing.assert_close(pair[0]["gradient"], alone["gradient"], rtol=1e-4, atol=1e-6)
