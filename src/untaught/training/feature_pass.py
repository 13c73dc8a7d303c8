"""Features of every training sample, without gradients: for methods that cluster before an epoch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from untaught.data.loader import Loader
from untaught.ops.gather import gather, rank, world_size
from untaught.pipeline.view_pipeline import Views


@dataclass
class ExtractFeatures:
    """Encodes all samples of the loader, in its order. Each process encodes its share and gets all features."""

    loader: Loader
    views: Views
    method: nn.Module
    call: Callable[..., Any]  # the wrapped method, as call(function name, arguments)
    device: torch.device
    folder: Path

    @torch.no_grad()
    def __call__(self, epoch: int, what: str, place: int) -> tuple[Tensor, Tensor]:
        """The method's function `what` of its view at `place`, as that is in `epoch` -> index (N,), and rows (N,D) float32 in the
        same order, memory-mapped in a file that is gone with them."""
        views = Views(self.views.names, self.views.prep, self.views.options, self.views.seed)
        views.channels_last = self.views.channels_last
        indices, rows, start = [], np.empty((0, 0), np.float32), 0
        training = self.method.training
        self.method.eval()
        try:
            for batch in self.loader.batches(0):
                count = len(batch["index"])
                mine = torch.arange(-(-count // world_size()) * world_size()).clamp(max=count - 1)[rank() :: world_size()]
                view = views.one({key: value[mine].to(self.device) for key, value in batch.items()}, epoch, place)
                joint = gather(self.call(what, view).float()).unflatten(0, (world_size(), -1))
                joint = joint.transpose(0, 1).flatten(0, 1)[:count].cpu().numpy()
                if not indices:
                    self.folder.mkdir(parents=True, exist_ok=True)  # it may not exist on another machine
                    with tempfile.TemporaryFile(dir=self.folder) as file:
                        rows = np.memmap(file, np.float32, "w+", shape=(len(self.loader.rows), joint.shape[1]))
                rows[start : start + count] = joint
                indices.append(batch["index"])
                start += count
        finally:
            self.method.train(training)
        return torch.cat(indices), torch.from_numpy(rows)
