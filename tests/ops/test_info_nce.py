"""The chunked loss against plain loops in float64: value and gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.ops import info_nce as module
from untaught.ops.info_nce import info_nce, nt_xent

N, M, D = 7, 9, 5


def by_loops(queries: Tensor, keys: Tensor, positive: Tensor, temperature: Tensor, exclude: Tensor | None) -> Tensor:
    total = queries.new_zeros(())
    for i in range(len(queries)):
        others = [k for k in range(len(keys)) if exclude is None or k not in exclude[i].reshape(-1).tolist()]
        denominator = sum(torch.exp(queries[i] @ keys[k] / temperature) for k in others)
        total = total - torch.log(torch.exp(queries[i] @ keys[positive[i]] / temperature) / denominator)
    return total / len(queries)


@pytest.fixture(params=[1, 2 * M, 1 << 20], ids=["a row a chunk", "two rows a chunk", "one chunk"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("excluding", [0, 1, 2])
def test_value_and_gradients_are_those_of_loops(excluding: int) -> None:
    torch.manual_seed(0)
    given = torch.randn(N, D), torch.randn(M, D), torch.tensor(0.3)
    positive = torch.arange(N)
    exclude = [None, positive + 2, torch.stack([positive + 2, positive], 1)][excluding]  # the last leaves out the positive too
    ours = [x.clone().requires_grad_() for x in given]
    theirs = [x.double().requires_grad_() for x in given]
    loss = info_nce(ours[0], ours[1], positive, ours[2], exclude)
    want = by_loops(theirs[0], theirs[1], positive, theirs[2], exclude)
    assert abs(loss.item() - want.item()) < 1e-5
    (3 * loss).backward()
    (3 * want).backward()
    for x, y in zip(ours, theirs, strict=True):
        assert x.grad is not None
        assert y.grad is not None
        torch.testing.assert_close(x.grad, y.grad.float(), atol=2e-5, rtol=1e-4)


def test_a_query_that_is_its_own_key_gets_both_gradients() -> None:
    x = torch.randn(4, D, requires_grad=True)
    turned, self = torch.tensor([1, 2, 3, 0]), torch.arange(4)
    info_nce(x, x, turned, 0.5, exclude=self).backward()
    y = x.detach().double().requires_grad_()
    by_loops(y, y, turned, torch.tensor(0.5), self).backward()
    assert x.grad is not None
    assert y.grad is not None
    torch.testing.assert_close(x.grad, y.grad.float(), atol=1e-5, rtol=1e-4)


def test_without_gradients_the_value_is_the_same() -> None:
    queries, keys = torch.randn(N, D), torch.randn(M, D)
    want = info_nce(queries.clone().requires_grad_(), keys, torch.arange(N), 0.2)
    with torch.no_grad():
        assert info_nce(queries, keys, torch.arange(N), 0.2) == want


def test_large_similarities_do_not_overflow() -> None:
    queries = 100 * torch.eye(4, D)
    assert info_nce(queries, queries, torch.arange(4), 0.01).item() == 0


def test_autocast_does_not_lower_the_precision() -> None:
    a, b = torch.randn(64, 32), torch.randn(64, 32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent(a, b, 0.1)
    assert inside.dtype == torch.float32
    assert inside == nt_xent(a, b, 0.1)


def test_nt_xent_is_equation_1_of_simclr() -> None:
    torch.manual_seed(1)
    count, temperature = 4, 0.5
    a, b = torch.randn(count, D), torch.randn(count, D)
    z = [row for pair in zip(a.double(), b.double(), strict=True) for row in pair]  # 2k and 2k + 1 are one sample's views

    def similarity(i: int, j: int) -> float:
        return float(z[i] @ z[j] / (z[i].norm() * z[j].norm()))

    def pair_loss(i: int, j: int) -> float:
        below = sum(math.exp(similarity(i, k) / temperature) for k in range(2 * count) if k != i)
        return -math.log(math.exp(similarity(i, j) / temperature) / below)

    want = sum(pair_loss(2 * k, 2 * k + 1) + pair_loss(2 * k + 1, 2 * k) for k in range(count)) / (2 * count)
    assert abs(nt_xent(a, b, temperature).item() - want) < 1e-5


def test_nt_xent_of_one_sample_is_zero() -> None:
    assert nt_xent(torch.randn(1, D), torch.randn(1, D), 0.5).item() == 0


def test_a_random_batch_has_about_the_loss_of_guessing() -> None:
    a, b = F.normalize(torch.randn(256, 512)), F.normalize(torch.randn(256, 512))
    assert abs(nt_xent(a, b, 1.0).item() - math.log(511)) < 0.05
