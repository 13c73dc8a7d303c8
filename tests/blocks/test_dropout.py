"""Dropout drops as many as it says, keeps the mean, and its gradient goes where its values went."""

from __future__ import annotations

import pytest
import torch

from untaught.blocks.dropout import Dropout, dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_share_is_gone_and_the_rest_makes_up_for_it(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.full((401, 503), 2.0, dtype=dtype, requires_grad=True)  # of no multiple of four
    y = dropout(x, p)
    gone = y == 0
    error = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(float(gone.double().mean()) - p) < 5 * error + 1 / 65536
    torch.testing.assert_close(y[~gone], torch.full_like(y[~gone], 2 / (1 - p)), rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=0)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, y.detach() / 2)
    rows, columns = gone.double().mean(1), gone.double().mean(0)  # draws are not alike along an axis
    assert float(rows.std()) < 2 * (p * (1 - p) / 503) ** 0.5
    assert float(columns.std()) < 2 * (p * (1 - p) / 401) ** 0.5


def test_the_seed_decides() -> None:
    x = torch.ones(1000)
    torch.manual_seed(3)
    first, second = dropout(x, 0.3), dropout(x, 0.3)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.3), first)
    assert not torch.equal(first, second)


def test_nothing_is_dropped_where_nothing_is_to_be() -> None:
    x = torch.randn(50)
    assert torch.equal(dropout(x, 0.0), x)
    assert torch.equal(dropout(x, 1.0), torch.zeros(50))
    module = Dropout(0.5)
    assert torch.equal(module.eval()(x), x)
    assert not torch.equal(module.train()(x), x)
    assert module.state_dict() == {}
