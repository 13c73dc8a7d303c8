"""The loss on held-out samples: the measure of a language model; and the accuracy of a pretext task."""

from __future__ import annotations

from collections.abc import Callable

import torch

from untaught.core import Method
from untaught.data.loader import Loader
from untaught.data.parts import held_out_part
from untaught.pipeline.dataset import Dataset
from untaught.pipeline.view_pipeline import Views

MOST = 4096  # samples


class HeldOut:
    """Mean terms of a method on a held-out part: val if there is one, else test."""

    def __init__(self, method: Method, views: Views, dataset: Dataset, device: torch.device, bf16: bool, batch_size: int) -> None:
        self.method, self.views, self.dataset, self.device, self.bf16, self.batch_size = method, views, dataset, device, bf16, batch_size
        parts = dataset.parts if dataset.store is not None else {}
        self.part = "val" if len(parts.get("val", ())) else held_out_part(parts)
        self.possible = self.part is not None and len(dataset.numbers(self.part)) > 0

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """{"held_out_TERM": mean over at most 4096 evenly spaced samples}."""
        assert self.part is not None
        numbers = self.dataset.numbers(self.part)
        numbers = numbers[:: -(-len(numbers) // MOST)]
        loader = Loader(self.dataset.samples(self.part), numbers, min(self.batch_size, len(numbers)), 0, drop_last=False, shuffle=False)
        training = self.method.training
        totals: dict[str, float] = {}
        self.method.eval()
        try:
            for batch in loader.batches(0):
                views = self.views({key: value.to(self.device) for key, value in batch.items()}, 0)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    terms = self.method.validate(views, 1.0)
                for name, value in terms.items():
                    totals[name] = totals.get(name, 0.0) + float(value) * len(batch["index"])
        finally:
            self.method.train(training)
        return {f"held_out_{name}": total / len(numbers) for name, total in totals.items()}


def both(first: Callable[[], dict[str, float]] | None, second: Callable[[], dict[str, float]]) -> Callable[[], dict[str, float]]:
    """Two evaluations as one."""
    return second if first is None else lambda: {**first(), **second()}
