"""Words drawn from their scores: as often as their shares say, each by its own number."""

from __future__ import annotations

import pytest
import torch

from untaught.ops import sampling
from untaught.ops.sampling import linear_sample

SCORES = torch.tensor([0.0, 1.0, -2.0, 0.5, -40.0])


def test_words_come_as_often_as_their_shares_say() -> None:
    count = 20_000
    unit = (torch.arange(count) + 0.5) / count
    found = linear_sample(torch.ones(count, 1), SCORES[:, None], None, unit).bincount(minlength=5) / count
    torch.testing.assert_close(found, SCORES.softmax(0), atol=2e-4, rtol=0)


def test_the_bias_is_part_of_the_scores_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, weight, bias, unit = torch.randn(50, 3), torch.randn(5, 3), torch.randn(5), torch.rand(50)
    want = [(row.softmax(0).cumsum(0) <= u).sum().item() for row, u in zip(x @ weight.T + bias, unit, strict=True)]
    for chunk in (1 << 24, 35, 1):
        monkeypatch.setattr(sampling, "CHUNK", chunk)
        assert linear_sample(x, weight, bias, unit).tolist() == want


@pytest.mark.parametrize("unit", [0.0, 1 - 2.0**-24])
def test_the_ends_are_words_that_can_be(unit: float) -> None:
    scores = torch.cat([torch.tensor([-200.0]), torch.zeros(30_000), torch.tensor([-200.0])])
    (found,) = linear_sample(torch.ones(1, 1), scores[:, None], None, torch.tensor([unit])).tolist()
    assert 1 <= found <= 30_000


def test_nothing_has_a_gradient() -> None:
    x, weight = torch.ones(2, 1, requires_grad=True), torch.ones(3, 1, requires_grad=True)
    assert not linear_sample(x, weight, None, torch.zeros(2)).requires_grad
