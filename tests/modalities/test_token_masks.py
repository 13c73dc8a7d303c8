"""Masked spans: how many, how long, and that they depend on the sample alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from untaught.core import View
from untaught.modalities.token_masks import masked_spans, tokens_of
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.framing import frame_count, valid_frames

PAPER = {"patch": 1, "window": 0, "starts": 0.065, "length": 10}


def spans(counts: list[int], width: int = 0, index: list[int] | None = None, **options: float) -> View:
    count, width = torch.tensor(counts), max(width, *counts)
    view = View(torch.zeros(len(counts), width, 2), torch.arange(width) < count.unsqueeze(1))
    return masked_spans(view, CounterRNG(0, 0, torch.tensor(index or range(len(counts))), 0), PAPER | options)


def runs(mask: Tensor) -> list[int]:
    """The lengths of the masked runs."""
    text = "".join("x" if masked else " " for masked in mask.tolist())
    return [len(run) for run in text.split()]


def test_about_half_of_a_long_recording_is_masked_in_spans_that_may_overlap() -> None:
    """Section 4.2: p = 0.065 and M = 10 mask about 49% of all time steps, in runs of 14.7 on average."""
    view = spans([500] * 200)
    assert view.mask is not None
    assert view.mask.float().mean().item() == pytest.approx(0.49, abs=0.015)
    lengths = [length for row in view.mask for length in runs(row)]
    assert min(lengths) == 10
    assert sum(lengths) / len(lengths) == pytest.approx(14.7, abs=0.7)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, 23])
def test_a_short_recording_keeps_a_part_and_has_a_negative_where_it_can(count: int) -> None:
    view = spans([count] * 60, width=40)
    assert view.mask is not None
    assert not view.mask[:, count:].any()
    masked = view.mask.sum(1)
    assert (masked < count).all()
    assert (masked >= min(2, count // 2)).all() if count != 2 else (masked == 1).all()
    assert max(length for row in view.mask for length in runs(row) or [0]) <= 10 * 2


def test_other_padding_and_other_samples_do_not_matter() -> None:
    alone, beside = spans([37], index=[5]), spans([90, 37, 8], width=120, index=[2, 5, 7])
    assert alone.mask is not None
    assert beside.mask is not None
    narrow, wide = spans([37, 20], index=[5, 6]), spans([37, 20], width=80, index=[5, 6])
    assert torch.equal(wide.mask[:, :37], narrow.mask)  # type: ignore[index,arg-type]
    assert torch.equal(beside.mask[1, :37], alone.mask[0])


def test_places_name_the_masked_tokens_first() -> None:
    view = spans([60, 31, 4], width=64)
    assert view.mask is not None
    assert view.meta is not None
    places = view.meta["places"]
    assert places.shape == (3, 50)  # at most 4 + 1 spans of 10 in 64 tokens
    for mask, at in zip(view.mask, places, strict=True):
        assert at[: int(mask.sum())].tolist() == mask.nonzero().flatten().tolist()


def test_frames_are_those_of_convolutions() -> None:
    for length in (1, 199, 200, 359, 360, 1000):
        valid = torch.arange(1200) < torch.tensor([[length]])
        want = max((length - 200) // 160 + 1, 1)
        assert int(valid_frames(valid, 200, 160).sum()) == want
        assert frame_count(length, 200, 160) == want
        assert int(tokens_of(View(valid.float(), valid), {"patch": 160, "window": 200}).sum()) == want
    assert not valid_frames(torch.zeros(1, 500, dtype=torch.bool), 200, 160).any()
