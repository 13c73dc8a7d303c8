"""SASRec's and BERT4Rec's objectives over items, and the sampled softmax, against their equations in plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from toys import build

from untaught.core import View
from untaught.encoders.event_transformer import EventTransformer, bert4rec, sasrec
from untaught.methods.autoregression.clm import CLM
from untaught.methods.reconstruction.mlm import MLM
from untaught.ops.sampled_softmax import log_uniform, sampled_cross_entropy


def surprise(scores: torch.Tensor, item: int) -> float:
    """-log of the share of an item among all, of scores (V,)."""
    found = [math.exp(score) for score in scores.double().tolist()]
    return -math.log(found[item] / sum(found))


def test_clm_over_items_is_the_mean_surprise_of_the_next_item() -> None:
    method, views, batch = build(CLM, "events")
    (view,) = views(batch, 0)
    encoder = method.encoder
    assert isinstance(encoder, EventTransformer)
    assert view.valid is not None
    assert view.target is not None
    assert view.target_valid is not None
    each = []
    for x, valid, target, counted in zip(view.x, view.valid, view.target, view.target_valid, strict=True):
        for place in range(int(valid.sum())):
            if counted[place]:
                last = encoder.features(View(x[None, : place + 1]), want=("tokens",)).tokens[0, -1]  # type: ignore[index]
                each.append(surprise(encoder.items.weight @ last, int(target[place])))
    assert len(each) > 60
    assert method([view], 0.0)["next_tokens"].item() == pytest.approx(sum(each) / len(each), abs=1e-5)


def test_mlm_over_items_is_the_mean_surprise_of_the_hidden_items() -> None:
    method, views, batch = build(MLM, "events")
    (view,) = views(batch, 0)
    encoder = method.encoder
    assert isinstance(encoder, EventTransformer)
    assert view.valid is not None
    assert view.mask is not None
    assert view.target is not None
    each = []
    for x, valid, mask, target in zip(view.x, view.valid, view.mask, view.target, strict=True):
        tokens = encoder.features(View(x[None, : int(valid.sum())]), want=("tokens",)).tokens
        assert tokens is not None
        for place in mask.nonzero().flatten().tolist():
            each.append(surprise(encoder.items.weight @ tokens[0, place], int(target[place])))
    assert method([view], 0.0)["masked_tokens"].item() == pytest.approx(sum(each) / len(each), abs=1e-5)


@torch.no_grad()
def test_one_block_is_attention_and_a_network_each_after_its_norm() -> None:
    torch.manual_seed(0)
    encoder = sasrec(vocabulary=20, length=6, special={}, width=8, depth=1, heads=2).eval()
    assert isinstance(encoder, EventTransformer)
    ids = torch.tensor([[3, 7, 5, 7]])
    block: Any = encoder.blocks[0]
    x = encoder.items.weight[ids[0]] * math.sqrt(8) + encoder.positions.weight[:4]
    read = torch.zeros(4, 8)
    q, k, v = (block.qkv(block.norm1(x))[:, 8 * i : 8 * i + 8] for i in range(3))
    for place in range(4):
        for head in (slice(0, 4), slice(4, 8)):
            scores = [math.exp(float(q[place, head] @ k[other, head]) / 2) for other in range(place + 1)]
            read[place, head] = sum(score * v[other, head] for other, score in enumerate(scores)) / sum(scores)
    x = x + block.out(read)
    x = x + block.mlp[3](block.mlp[0](block.norm2(x)).relu())
    found = encoder.features(View(ids), want=("tokens", "pooled"))
    torch.testing.assert_close(found.tokens, encoder.norm(x)[None])
    torch.testing.assert_close(found.pooled, encoder.norm(x).mean(0)[None])


@pytest.mark.parametrize("make", [sasrec, bert4rec])
def test_later_events_change_only_a_bidirectional_encoder(make: Any) -> None:
    torch.manual_seed(0)
    encoder = make(vocabulary=20, length=6, special={}, width=8).eval()
    x = torch.tensor([[3, 7, 5, 9, 0]])
    valid = torch.tensor([[True, True, True, True, False]])
    tokens = [encoder.features(View(own, valid), want=("tokens",)).tokens for own in (x, x.clone().index_fill_(1, torch.tensor([3]), 11))]
    assert torch.equal(tokens[0][:, :3], tokens[1][:, :3]) == (make is sasrec)
    padded = encoder.features(View(x[:, :4]), want=("tokens",)).tokens
    torch.testing.assert_close(tokens[0][:, :4], padded)
    at = torch.tensor([[1, 3]])
    torch.testing.assert_close(encoder.tokens_at(View(x, valid), at), tokens[0][:, [1, 3]])
    smaller = encoder.shallower(0.5)
    assert smaller.items is encoder.items
    assert len(smaller.blocks) == 1


def test_the_sampled_loss_is_that_of_loops() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, 4), torch.randn(12, 4), torch.randn(12)
    target, counted = torch.tensor([0, 3, 3, 7, 11]), torch.tensor([True, True, False, True, True])
    drawn, log_q = log_uniform(torch.rand(8), 12)
    assert log_q.exp().sum().item() == pytest.approx(1)
    each = []
    for row in range(5):
        if not counted[row]:
            continue
        score = [float(x[row] @ weight[word] + bias[word]) for word in range(12)]
        own, q = int(target[row]), log_q.double().exp().tolist()
        others = [word for word in drawn.tolist() if word != own]
        rest = sum(math.exp(score[word]) * (1 - q[own]) / q[word] for word in others) / max(len(others), 1)
        each.append(math.log(math.exp(score[own]) + rest) - score[own])
    found = sampled_cross_entropy(x, weight, bias, target, counted, drawn, log_q)
    assert found.item() == pytest.approx(sum(each) / len(each), rel=1e-4)


def test_with_many_draws_the_sampled_loss_and_its_gradient_are_those_of_all_words() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(6, 4), torch.randn(30, 4, requires_grad=True)
    target, counted = torch.arange(6) * 5, torch.ones(6, dtype=torch.bool)
    drawn, log_q = log_uniform(torch.rand(200_000), 30)
    counts = torch.bincount(drawn, minlength=30) / len(drawn)
    torch.testing.assert_close(counts, log_q.exp(), atol=5e-3, rtol=0)
    found = sampled_cross_entropy(x, weight, None, target, counted, drawn, log_q)
    full = torch.nn.functional.cross_entropy(x @ weight.T, target)
    assert found.item() == pytest.approx(full.item(), rel=0.02)
    one, other = (torch.autograd.grad(loss, weight)[0] for loss in (found, full))
    assert torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.999


def test_a_sampled_softmax_trains_clm() -> None:
    method, views, batch = build(CLM, "events", negatives=16)
    optimizer, losses = torch.optim.Adam(method.parameters(), 1e-2), []
    for step in range(40):
        torch.manual_seed(step)
        loss = method(views(batch, 0), 0.5)["next_tokens"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    full, _, _ = build(CLM, "events", encoder=method.encoder)
    before, _, _ = build(CLM, "events")
    assert full(views(batch, 0), 0.5)["next_tokens"] < 0.8 * before(views(batch, 0), 0.5)["next_tokens"]
