"""From a batch to views: each at its place, with its options, and chance that is of seed, epoch, sample and place alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from untaught.core import Batch, Options, Preprocessor, View
from untaught.modalities.image import IMAGE
from untaught.ops.counter_rng import CounterRNG
from untaught.pipeline.view_pipeline import Views

INDEX = torch.tensor([3, 0, 7])


def drawn(batch: Batch, draws: CounterRNG, options: Options, statistics: Options) -> View:
    """A view that says what it was given."""
    return View(draws.uniform(2), meta={"option": torch.full((len(batch["index"]),), options["option"])})


MODALITY = replace(IMAGE, views={"drawn": drawn})


def made(epoch: int, seed: int = 0, index: torch.Tensor = INDEX, **more: Any) -> list[View]:
    options = [{"option": 10 + place, **more} for place in range(2)]
    return Views(("drawn", "drawn"), Preprocessor(MODALITY, {}, {}), options, seed)({"index": index}, epoch)


def test_each_view_has_the_options_and_the_chance_of_its_place() -> None:
    for place, view in enumerate(made(epoch=4, seed=9)):
        assert torch.equal(view.x, CounterRNG(9, 4, INDEX, place).uniform(2))
        assert view.meta is not None
        assert view.meta["option"].tolist() == [10 + place] * 3
        assert torch.equal(view.meta["index"], INDEX)


def test_views_of_another_place_epoch_seed_or_sample_are_others() -> None:
    found = [*made(0), *made(1), *made(0, seed=1), *made(0, index=INDEX + 1)]
    assert len(torch.cat([view.x for view in found]).unique()) == 8 * 3 * 2
    assert torch.equal(made(0)[1].x, found[1].x)


@pytest.mark.parametrize(("versions", "kinds"), [(0, 7), (1, 1), (3, 3)])
def test_a_view_has_so_many_versions_by_turns(versions: int, kinds: int) -> None:
    found = [made(epoch, versions=versions)[0].x for epoch in range(7)]
    assert len({tuple(x.flatten().tolist()) for x in found}) == kinds
    assert all(torch.equal(x, y) for x, y in zip(found, found[versions:], strict=False)) or not versions


@pytest.mark.parametrize(("size", "fitted"), [(3, 8), (19, 16), (24, 24), (29, 32), (30, 32)])
def test_a_side_becomes_the_nearest_multiple_of_the_encoders_patch(size: int, fitted: int) -> None:
    views = Views(("drawn",), Preprocessor(replace(MODALITY, suit=IMAGE.suit), {}), [{"size": size, "patch": 0}], 0)
    encoder: Any = SimpleNamespace(patch=8, offers=frozenset({"any_size"}))
    views.fit_encoder(encoder)
    assert views.options == [{"size": fitted, "patch": 8}]
    assert list(views.adjusted) == ([] if size == fitted else [f"drawn.size={fitted}"])
