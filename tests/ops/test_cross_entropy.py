"""linear_cross_entropy against torch's plain one: value and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.ops import cross_entropy
from untaught.ops.cross_entropy import linear_cross_entropy

ROWS, WIDTH, WORDS = 23, 8, 37


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[1 << 24, 5 * WORDS, 1], ids=["one chunk", "chunks of 5 rows", "chunks of a row"])
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK", request.param)


def parts(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, weight, bias = (torch.randn(*shape, dtype=dtype) for shape in ((ROWS, WIDTH), (WORDS, WIDTH), (WORDS,)))
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), torch.randint(WORDS, (ROWS,))


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, counted: Tensor | None = None) -> Tensor:
    each = F.cross_entropy(F.linear(x, weight, bias).float(), target, reduction="none")
    return each.sum() if counted is None else (each * counted).sum()


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("share", [1.0, 0.4, 0.0], ids=["all count", "some count", "none counts"])
def test_value_and_gradients_are_plain_ones(biased: bool, share: float) -> None:
    x, weight, bias, target = parts()
    counted = None if share == 1 else torch.rand(ROWS) < share
    taken = (x, weight, bias) if biased else (x, weight)
    found = linear_cross_entropy(x, weight, bias if biased else None, target, counted)
    want = plain(x, weight, bias if biased else None, target, counted)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, want)
    for own, other in zip(torch.autograd.grad(0.3 * found, taken), torch.autograd.grad(0.3 * want, taken), strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("_chunks")
def test_a_target_of_a_row_that_does_not_count_may_be_anything() -> None:
    x, weight, bias, target = parts()
    counted = torch.arange(ROWS) % 2 == 0
    wild = torch.where(counted, target, 10**9)
    assert torch.equal(linear_cross_entropy(x, weight, bias, wild, counted), linear_cross_entropy(x, weight, bias, target, counted))


@pytest.mark.usefixtures("_chunks")
def test_a_tied_weight_gets_what_both_uses_ask_of_it() -> None:
    _, weight, bias, target = parts()
    ids = torch.randint(WORDS, (ROWS,))
    hidden = F.embedding(ids, weight).tanh()
    (found,) = torch.autograd.grad(linear_cross_entropy(hidden, weight, bias, target), weight, retain_graph=True)
    (want,) = torch.autograd.grad(plain(hidden, weight, bias, target), weight)
    torch.testing.assert_close(found, want, atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("_chunks")
def test_under_autocast_it_is_as_exact_as_plain_bfloat16() -> None:
    x, weight, bias, target = parts()
    exact = plain(x.double(), weight.double(), bias.double(), target)
    with torch.autocast("cpu", torch.bfloat16):
        found, low = linear_cross_entropy(x, weight, bias, target), plain(x, weight, bias, target)
    assert found.dtype == torch.float32
    assert abs(found - exact) <= 2 * abs(low - exact) + 0.01 * abs(exact)
    want = torch.autograd.grad(exact, (x, weight, bias))
    theirs = torch.autograd.grad(low, (x, weight, bias))
    for own, other, right in zip(torch.autograd.grad(found, (x, weight, bias)), theirs, want, strict=True):
        assert own.dtype == torch.float32
        assert (own - right).norm() <= 2 * (other - right).norm() + 1e-3 * right.norm()
        assert (own - right).norm() < 0.02 * right.norm()


def test_many_chunks_in_bfloat16_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """600 alike rows, a chunk each: a sum in bfloat16 would stand still at 256 times its addend."""
    monkeypatch.setattr(cross_entropy, "CHUNK", 1)
    x, weight = torch.ones(600, 4), torch.zeros(3, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(x, weight, None, torch.zeros(600, dtype=torch.long))
    (found,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(found[0], torch.full((4,), -400.0), atol=1.0, rtol=0.005)


def test_scores_do_not_outlive_their_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK", 5 * WORDS)
    x, weight, bias, target = parts()
    kept: list[Tensor] = []

    def look(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        linear_cross_entropy(x, weight, bias, target)
    assert {tuple(tensor.shape) for tensor in kept} == {(ROWS, WIDTH), (WORDS, WIDTH), (WORDS,)}


@pytest.mark.usefixtures("_chunks")
def test_two_backwards_give_the_same() -> None:
    x, weight, bias, target = parts()
    loss = linear_cross_entropy(x, weight, bias, target)
    first = torch.autograd.grad(3 * loss, (x, weight, bias), retain_graph=True)
    second = torch.autograd.grad(3 * loss, (x, weight, bias))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_extreme_scores_stay_finite() -> None:
    x, weight = torch.full((2, 1), 1e4), torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    loss = linear_cross_entropy(x, weight, None, torch.tensor([0, 1]))
    assert loss.item() == 2e4
    assert torch.autograd.grad(loss, weight)[0].isfinite().all()


def test_without_gradients_none_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias, target = parts()
    products: list[tuple[int, ...]] = []
    mm = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b, out: products.append(tuple(b.shape)) or mm(a, b, out=out))
    with torch.no_grad():
        found = linear_cross_entropy(x, weight, bias, target)
    assert not found.requires_grad
    assert set(products) == {tuple(weight.T.shape)}  # scores alone
    torch.testing.assert_close(found, plain(x, weight, bias, target))
