"""Methods of time series against the papers' equations in plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from untaught.core import Facts, View
from untaught.encoders.conv_series import ConvSeries
from untaught.methods import TLoss, TS2Vec
from untaught.methods.contrastive.ts2vec import drawn_crops
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.hierarchical_contrast import hierarchical_contrast


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# -------------------------------------------------------------------------------------------------------------- TS2Vec


def by_algorithm_1(a: list[Tensor], b: list[Tensor]) -> tuple[float, float]:
    """For each series its vectors (n_i, D) in two views -> the two contrasts, averaged over levels."""
    instance, temporal, levels = 0.0, 0.0, 0
    while True:
        inst, temp = [], []
        for r, s in ((a, b), (b, a)):
            for i in range(len(r)):
                for t in range(len(r[i])):
                    own = float(r[i][t] @ s[i][t])
                    at_t = [j for j in range(len(r)) if t < len(r[j])]
                    below = sum(math.exp(float(r[i][t] @ s[j][t])) + (j != i) * math.exp(float(r[i][t] @ r[j][t])) for j in at_t)
                    inst.append(math.log(below) - own)
                    steps = range(len(r[i]))
                    below = sum(math.exp(float(r[i][t] @ s[i][u])) + (u != t) * math.exp(float(r[i][t] @ r[i][u])) for u in steps)
                    temp.append(math.log(below) - own)
        instance, temporal, levels = instance + sum(inst) / len(inst), temporal + sum(temp) / len(temp), levels + 1
        if max(len(x) for x in a) == 1:
            return instance / levels, temporal / levels
        a, b = ([halved(x) for x in each] for each in (a, b))


def halved(x: Tensor) -> Tensor:
    return x if len(x) == 1 else torch.stack([torch.maximum(x[2 * t], x[2 * t + 1]) for t in range(len(x) // 2)])


@pytest.mark.parametrize("lengths", [[6, 6, 6], [9, 4, 1], [1, 1], [5]])
def test_the_hierarchy_is_algorithm_1(lengths: list[int]) -> None:
    count, width = torch.tensor(lengths), max(lengths) + 4
    a, b = torch.randn(2, len(lengths), width, 3, dtype=torch.float64)
    want = by_algorithm_1([x[:n] for x, n in zip(a, lengths, strict=True)], [x[:n] for x, n in zip(b, lengths, strict=True)])
    found = hierarchical_contrast(a, b, count)
    assert [x.item() for x in found] == pytest.approx(want, rel=1e-5)


def test_crops_overlap_in_their_series_and_are_drawn_once_for_the_batch() -> None:
    length, seen, places = torch.tensor([20, 2, 13, 20, 1]), set(), set()
    for step in range(400):
        first, crops = drawn_crops(length, CounterRNG(0, 1, torch.tensor([step]), 0), CounterRNG(0, 0, torch.arange(5), step))
        for n, at, ((start, end), (start_2, end_2)) in zip(length.tolist(), first.tolist(), crops.tolist(), strict=True):
            assert 0 == start <= start_2 < end <= end_2
            assert 0 <= at <= at + end_2 <= n
            assert end - start_2 >= min(n, 2)
        assert torch.equal(crops[0], crops[3]), "of series of one length"
        places |= {int(first[0] - first[3])}
        seen |= {int(crops[0, 0, 1] - crops[0, 1, 0])}
    assert seen == set(range(2, 21))
    assert len(places) > 10, "each series has a place of its own"


@pytest.mark.parametrize("lengths", [[9, 9, 9], [12, 7, 2, 5]])
def test_ts2vec_contrasts_the_overlap_of_crops_whose_latent_steps_are_masked(lengths: list[int]) -> None:
    encoder = ConvSeries(channels=1, width=4, hidden=4, depth=1)
    count = torch.tensor(lengths)
    valid = torch.arange(12) < count.unsqueeze(1)
    view = View(torch.randn(len(count), 12, 1), valid, meta={"index": torch.arange(len(count))})
    method = TS2Vec(encoder, Facts(rows=2, views={"excerpt": view}), masked=0.0, instance=0.25)
    for step in range(5):
        a, b = [], []
        method.step.fill_(step)
        own = CounterRNG(0, 0, (step << 32) + torch.arange(len(count)), 0)
        first, crops = drawn_crops(count, CounterRNG(0, 1, torch.tensor([step]), 0), own)
        for x, at, ((s, e), (s2, e2)) in zip(view.x, first.tolist(), crops.tolist(), strict=True):
            for to, start, end in ((a, s, e), (b, s2, e2)):
                tokens = encoder.features(View(x[None, at + start : at + end]), want=("tokens",)).tokens
                assert tokens is not None
                to.append(tokens[0, s2 - start : e - start].detach())
        instance, temporal = by_algorithm_1(a, b)
        found = method([view], 0.0)
        assert found["instance"].item() == pytest.approx(0.25 * instance, rel=1e-5)
        assert found["temporal"].item() == pytest.approx(0.75 * temporal, rel=1e-5)


def test_half_of_the_latent_steps_of_each_crop_are_masked() -> None:
    encoder = ConvSeries(channels=1, width=4, hidden=4, depth=1)
    seen: list[Tensor] = []
    encoder.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    long = View(torch.randn(2, 4000, 1), meta={"index": torch.arange(2)})
    TS2Vec(encoder, Facts(rows=2, views={"excerpt": long}), masked=0.3)([long], 0.0)
    TS2Vec(encoder, Facts(rows=2, views={"excerpt": long}), masked=0.0)([long], 0.0)
    hidden = ((seen[0] == 0) & (seen[1] != 0)).all(1)  # (4,T), the crops of both series: all but what lies outside of a crop
    inside = (seen[1] != 0).all(1)
    assert (hidden.sum(1) / inside.sum(1)).tolist() == pytest.approx([0.3] * 4, abs=0.05)
    common = inside[0] & inside[2]
    assert not torch.equal(hidden[0, common], hidden[2, common]), "each crop has a mask of its own"


def test_the_encoder_that_is_kept_is_the_mean_over_all_steps() -> None:
    encoder = ConvSeries(channels=1, width=4, hidden=4, depth=1)
    method = TS2Vec(encoder, Facts(rows=2))
    weights = [encoder.inside.weight.detach().clone()]
    for _ in range(4):
        with torch.no_grad():
            encoder.inside.weight.add_(torch.randn_like(encoder.inside.weight))
        method.after_step(0.0)
        weights.append(encoder.inside.weight.detach().clone())
    kept = method.exported()["encoder"]
    assert isinstance(kept, ConvSeries)
    torch.testing.assert_close(kept.inside.weight, torch.stack(weights).mean(0))


# -------------------------------------------------------------------------------------------------------------- T-Loss


def test_t_loss_is_equation_1_with_the_other_series_as_negatives() -> None:
    encoder = ConvSeries(channels=2, width=4, hidden=4, depth=1)
    x, other = torch.randn(2, 3, 9, 2)
    spans = [(0, 9, 2, 6), (0, 5, 4, 5), (0, 1, 0, 1)]  # the subseries in x, and the one within it
    places = torch.arange(9)
    valid = torch.stack([places < end for _, end, _, _ in spans])
    outer = View(x, valid, meta={"inner": torch.tensor([[start, end] for *_, start, end in spans])})
    lengths = (7, 9, 2)
    negatives = View(other, torch.stack([places < length for length in lengths]))
    method = TLoss(encoder, Facts(rows=3))

    embed = lambda one: encoder(View(one[None]))[0].detach()  # noqa: E731
    sigmoid = lambda value: 1 / (1 + math.exp(-value))  # noqa: E731
    positive = negative = 0.0
    for i, (start, end, first, last) in enumerate(spans):
        own, inner = embed(x[i, start:end]), embed(x[i, first:last])
        positive -= math.log(sigmoid(float(own @ inner))) / 3
        for j in range(3):
            if j != i:
                negative -= math.log(sigmoid(-float(own @ embed(other[j, : lengths[j]])))) / 3
    found = method([outer, negatives], 0.0)
    assert found["positive"].item() == pytest.approx(positive, rel=1e-5)
    assert found["negative"].item() == pytest.approx(negative, rel=1e-5)
