"""What is hidden, what is left, and where it sat."""

from __future__ import annotations

import math

import pytest
import torch

from untaught.ops.counter_rng import CounterRNG
from untaught.ops.masking import block_mask, first, mask_tokens, masked_mean, random_mask, rectangles, take, visible


@pytest.mark.parametrize(("rate", "hidden"), [(0.75, 12), (0.0, 1), (1.0, 15), (0.5, 8), (0.72, 12), (0.7, 11)])
def test_each_sample_hides_the_same_number_and_never_all(rate: float, hidden: int) -> None:
    mask = random_mask(CounterRNG(0, 0, torch.arange(5), 0).order(16), rate)
    assert mask.sum(1).tolist() == [hidden] * 5


def test_every_place_is_hidden_as_often() -> None:
    share = random_mask(CounterRNG(0, 0, torch.arange(4000), 0).order(16), 0.75).float().mean(0)
    assert (share - 0.75).abs().max() < 4.5 * (0.75 * 0.25 / 4000) ** 0.5


def test_visible_are_the_places_not_hidden_in_order() -> None:
    hidden = random_mask(CounterRNG(0, 0, torch.arange(6), 0).order(10), 0.6)
    for row, places in zip(hidden, visible(hidden, 4), strict=True):
        assert places.tolist() == [i for i in range(10) if not row[i]]


def test_take_reads_the_rows_at_the_places() -> None:
    x, index = torch.randn(2, 5, 3), torch.tensor([[4, 0], [1, 1]])
    out = take(x, index)
    for b in range(2):
        for k in range(2):
            assert torch.equal(out[b, k], x[b, index[b, k]])


GRID = (14, 14)


def drawn(rows: int, tries: int) -> torch.Tensor:
    return CounterRNG(0, 0, torch.arange(rows), 0).uniform(tries, 4)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_blocks_hide_nearly_the_count_and_never_more(share: float) -> None:
    count = torch.full((500,), round(share * 196))
    hidden = block_mask(drawn(500, 16), count, GRID).sum(1)
    assert (hidden <= count).all()
    assert hidden.float().mean() > 0.85 * count[0]


def test_each_sample_hides_its_own_count_of_tokens() -> None:
    hidden = block_mask(drawn(300, 16), torch.arange(300) % 3 * 40, GRID).sum(1)
    assert not hidden[::3].any()
    assert hidden[2::3].float().mean() > 1.7 * hidden[1::3].float().mean() > 0


def test_a_single_try_hides_one_rectangle() -> None:
    hidden = block_mask(drawn(200, 1), torch.full((200,), 60), GRID).unflatten(1, GRID)
    some = hidden[hidden.any((1, 2))]
    assert len(some) > 100
    assert torch.equal(some, some.any(2, keepdim=True) & some.any(1, keepdim=True))
    assert some.sum((1, 2)).min() >= 9  # a ninth of 196 is 16 at least, rounded to whole rows and columns


def test_blocks_are_as_often_tall_as_wide() -> None:
    hidden = block_mask(drawn(2000, 1), torch.full((2000,), 60), GRID).unflatten(1, GRID)
    some = hidden[hidden.any((1, 2))]
    ratio = (some.any(2).sum(1) / some.any(1).sum(1)).log()
    assert abs(ratio.mean()) < 0.05
    assert 0.7 < ratio.max() < math.log(1 / 0.3) + 0.3  # sides are rounded
    assert -0.7 > ratio.min() > -math.log(1 / 0.3) - 0.3


def test_blocks_lie_everywhere() -> None:
    share = block_mask(drawn(4000, 16), torch.full((4000,), 60), GRID).float().mean(0)
    assert share.min() > 0.02
    assert share.max() < 0.6


def test_rectangles_are_of_the_scale_and_the_ratio_and_never_larger() -> None:
    found = rectangles(drawn(300, 4), (0.15, 0.2), (0.75, 1.5), GRID).unflatten(2, GRID)
    assert found.shape == (300, 4, *GRID)
    assert torch.equal(found, found.any(3, keepdim=True) & found.any(2, keepdim=True))
    area, height, width = found.sum((2, 3)), found.any(3).sum(2), found.any(2).sum(2)
    assert area.max() <= 39
    assert abs(area.float().mean() - 0.175 * 196) < 2
    assert 0.6 < (height / width).min() < (height / width).max() <= 2


def test_first_are_the_chosen_and_then_the_others() -> None:
    chosen = torch.tensor([[False, True, False, True], [False, False, False, False], [True, True, True, False]])
    assert first(chosen, 2).tolist() == [[1, 3], [0, 1], [0, 1]]


def test_hide_puts_the_mask_where_it_is_hidden() -> None:
    tokens, hidden, mask = torch.randn(2, 3, 4), torch.tensor([[True, False, False], [False, True, True]]), torch.arange(4.0)
    found = mask_tokens(tokens, hidden, mask)
    for b in range(2):
        for n in range(3):
            assert torch.equal(found[b, n], mask if hidden[b, n] else tokens[b, n])


def test_the_masked_mean_is_of_what_counts() -> None:
    x, counted = torch.randn(2, 3), torch.tensor([[True, False, True], [False, False, True]])
    torch.testing.assert_close(masked_mean(x, counted), x[counted].mean())
    assert masked_mean(x, torch.zeros_like(counted)) == 0
