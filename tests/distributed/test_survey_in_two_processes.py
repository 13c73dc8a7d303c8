"""A survey is the same for any number of processes, also where a batch can't be shared equally."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from processes import together
from torch import Tensor
from toys import build

from untaught.config.train_config import TrainConfig
from untaught.core import Batch
from untaught.distributed.process_group import ProcessGroup
from untaught.methods.clustering.deepcluster import DeepCluster
from untaught.training.feature_pass import ExtractFeatures


class SevenAtATime:
    rows = range(24)

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def batches(self, epoch: int) -> Iterator[Batch]:
        for start in range(0, 24, 7):
            yield {key: value[start : start + 7] for key, value in self.batch.items()}


def extract_features(folder: str) -> tuple[Tensor, Tensor]:
    group = ProcessGroup(TrainConfig(batch_size=12, steps=1))
    method, views, batch = build(DeepCluster, "image")
    loader: Any = SevenAtATime(batch)
    call = lambda what, view: getattr(method, what)(view)  # noqa: E731
    index, rows = ExtractFeatures(loader, views, method, call, group.fabric.device, Path(folder))(1, "encode", 0)
    return index, rows.clone()


def test_two_processes_see_what_one_sees(tmp_path: Path) -> None:
    ((index, rows),) = together(1, extract_features, str(tmp_path), folder=tmp_path)
    assert index.tolist() == list(range(24))
    for found in together(2, extract_features, str(tmp_path), folder=tmp_path):
        assert torch.equal(found[0], index)
        torch.testing.assert_close(found[1], rows)
