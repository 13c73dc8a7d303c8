"""What one step depends on: the epoch's views, chance that is the place's alone, micro-batches and chunks that add up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy import Batches, Line, Spread, fit

from untaught.core import Batch, Facts, Terms, View
from untaught.methods.contrastive.simclr import SimCLR


def test_views_are_those_of_the_epoch_and_the_batch(tmp_path: Path) -> None:
    run = fit(tmp_path, Spread(), epochs=2)
    made, seen = run.views, []

    def watched(batch: Batch, epoch: int) -> list[View]:
        seen.append((epoch, batch["index"].tolist()))
        return made(batch, epoch)

    run.views = watched  # type: ignore[assignment]
    run.run()
    assert seen == [(epoch, list(range(start, start + 8))) for epoch in (0, 1) for start in (0, 8, 16, 24)]


def drawn(folder: Path, before: int = 0, **knobs: Any) -> list[float]:
    """One number of torch's generator in each forward of a run of 2 steps of 2 micro-batches."""
    numbers: list[float] = []

    def draw(step: int, views: list[View], terms: Terms) -> Terms:
        numbers.append(float(torch.rand(())))
        return terms

    torch.manual_seed(before)
    fit(folder, Spread(draw), steps=2, accumulate=2, **knobs).run()
    return numbers


def test_chance_is_the_seeds_the_steps_and_the_micro_batchs_alone(tmp_path: Path) -> None:
    numbers = drawn(tmp_path / "one")
    assert len(set(numbers)) == 4
    assert drawn(tmp_path / "again", before=5) == numbers
    assert not set(drawn(tmp_path / "other", seed=1)) & set(numbers)


def test_chance_goes_on_where_steps_outgrow_16_bits(tmp_path: Path) -> None:
    step, numbers = fit(tmp_path, Spread(), steps=1).train_step, set()
    for seed in (0, 1):
        step.train_config = dataclasses.replace(step.train_config, seed=seed)
        for place in (0, 1, 1 << 16, 1 << 17):
            step._reseed(place, 0)
            numbers.add(float(torch.rand(())))
    assert len(numbers) == 8


def test_metrics_of_micro_batches_are_their_mean(tmp_path: Path) -> None:
    run = fit(tmp_path, Spread(), accumulate=2)
    (view,) = run.views(next(iter(Batches().batches(0))), 0)
    halves = [Spread().forward([View(half)], 0.0) for half in view.x.chunk(2)]
    run.run()
    (row,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for name in ("spread", "size"):
        assert row[name] == pytest.approx(sum(half[name].item() for half in halves) / 2, rel=1e-5)
    assert row["loss"] == pytest.approx(row["spread"] + row["size"], rel=1e-5)


def test_gradients_shorter_than_clip_stay_as_they_are(tmp_path: Path) -> None:
    fit(tmp_path / "free", free := Spread()).run()
    fit(tmp_path / "clipped", clipped := Spread(), clip=100.0).run()
    for one, other in zip(free.parameters(), clipped.parameters(), strict=True):
        assert torch.equal(one, other)


class Noisy(SimCLR):
    """SimCLR on the toy's encoder, with BatchNorm and dropout in its projector, that remembers what it projected."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(Line(), Facts(32), width=3)
        self.norm = nn.BatchNorm1d(4)
        self.projector = nn.Sequential(self.norm, nn.Dropout(0.5), nn.Linear(4, 3))
        self.projected: list[list[Tensor]] = []

    def project(self, views: list[View]) -> list[Tensor]:
        self.projected.append(found := super().project(views))
        return found


def test_the_second_pass_of_cached_gradients_drops_what_the_first_did(tmp_path: Path) -> None:
    fit(tmp_path, method := Noisy(), views=2, cache_gradients=4).run()
    first, second, first_again, second_again = ([z.detach() for z in pair] for pair in method.projected)
    for once, again in ((first, first_again), (second, second_again)):
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not torch.equal(method.projector(torch.eye(4)), method.projector(torch.eye(4))), "it does drop"


def test_running_statistics_move_once_a_chunk_with_cached_gradients(tmp_path: Path) -> None:
    run = fit(tmp_path, method := Noisy(), views=2, cache_gradients=4)
    made, encoder = run.views(next(iter(Batches().batches(0))), 0), Line()
    encoder.load_state_dict(method.encoder.state_dict())
    mean = torch.zeros(4)
    for chunk in range(2):
        for view in made:
            mean = 0.9 * mean + 0.1 * encoder(view[4 * chunk : 4 * chunk + 4]).detach().mean(0)
    run.run()
    torch.testing.assert_close(method.norm.running_mean, mean)
