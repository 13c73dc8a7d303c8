"""Draws: numbers that are random, and depend on (seed, epoch, index, position, draw) and on nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from untaught.ops.counter_rng import CounterRNG

INDEX = torch.arange(20_000)


def draws(seed: int = 0, epoch: int = 0, index: Tensor = INDEX, position: int = 0) -> CounterRNG:
    return CounterRNG(seed, epoch, index, position)


def test_numbers_are_uniform_over_samples() -> None:
    assert stats.kstest(draws().uniform().numpy(), "uniform").pvalue > 1e-3


def test_numbers_are_uniform_within_a_sample() -> None:
    assert stats.kstest(draws(index=torch.tensor([7])).uniform(200, 100)[0].flatten().numpy(), "uniform").pvalue > 1e-3


def test_every_bit_is_a_fair_coin() -> None:
    bits = draws().bits()
    share = torch.stack([(bits >> k & 1).float().mean() for k in range(64)])
    assert (share - 0.5).abs().max() < 4.5 * 0.5 / len(INDEX) ** 0.5


OTHERS = [{"seed": 1}, {"seed": -1}, {"epoch": 1}, {"position": 1}, {"index": INDEX + 1}, {"index": INDEX + (1 << 40)}]


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_each_part_of_the_key_gives_independent_numbers(other: dict) -> None:
    a, b = draws().uniform(), draws(**other).uniform()
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 4.5 / len(INDEX) ** 0.5
    assert (a == b).float().mean() < 1e-3


def test_parts_of_the_key_do_not_stand_in_for_each_other() -> None:
    keys = [draws(s, e, torch.arange(4), p).uniform() for s in range(4) for e in range(4) for p in range(4)]
    assert len(torch.cat(keys).unique()) == 4**4


def test_successive_draws_are_independent() -> None:
    one = draws()
    first, second = one.uniform(), one.uniform()
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 4.5 / len(INDEX) ** 0.5


def test_numbers_of_one_draw_are_independent() -> None:
    correlation = torch.corrcoef(draws().uniform(6).T) - torch.eye(6)
    assert correlation.abs().max() < 4.5 / len(INDEX) ** 0.5


CALLS: dict[str, Callable[[CounterRNG], Tensor]] = {
    "uniform": lambda d: d.uniform(3, 2),
    "normal": lambda d: d.normal(5),
    "chance": lambda d: d.chance(0.4),
    "order": lambda d: d.order(6),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_sample_has_its_draws_in_any_batch(call: Callable[[CounterRNG], Tensor]) -> None:
    index = torch.tensor([5, 900, 2, 77, 31, 1 << 33, 0])
    whole = call(draws(index=index))
    assert torch.equal(torch.cat([call(draws(index=part)) for part in index.split(3)]), whole)
    assert torch.equal(call(draws(index=index.flip(0))), whole.flip(0))


def test_a_second_draw_does_not_depend_on_the_shape_of_the_first() -> None:
    one, other = draws(), draws()
    one.uniform(9)
    other.uniform()
    assert torch.equal(one.uniform(), other.uniform())


def test_uniform_keeps_its_bounds() -> None:
    x = draws().uniform(4, low=-2.0, high=3.0)
    assert -2 <= x.min() < -1.99
    assert 2.99 < x.max() <= 3


def test_normal_is_standard_normal() -> None:
    assert stats.kstest(draws().normal().numpy(), "norm").pvalue > 1e-3
    assert draws().normal(20).isfinite().all()


@pytest.mark.parametrize("probability", [0.0, 0.2, 1.0])
def test_chance_has_its_probability(probability: float) -> None:
    slack = 4.5 * (probability * (1 - probability) / len(INDEX)) ** 0.5
    assert abs(draws().chance(probability).float().mean() - probability) <= slack


def splitmix(x: int) -> int:
    """The finalizer of Steele, Lea, Flood 2014, figure 15, on 64 bits."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_numbers_are_those_of_the_hash_in_loops() -> None:
    """Runs that were begun go on with the same views: whatever changes a number here changes theirs."""
    golden, one, index = 0x9E3779B97F4A7C15, CounterRNG(5, 6, torch.tensor([0, 1 << 40]), 7), (0, 1 << 40)
    key = 0
    for part in (5, 6, 7):
        key = splitmix((key + golden + part) % 2**64)
    keys = [splitmix((i * golden + key) % 2**64) for i in index]
    unit = [
        [[(splitmix((k + splitmix(draw) + place * golden) % 2**64) >> 40) / 2**24 for place in (1, 2, 3)] for k in keys]
        for draw in (1, 2, 3)
    ]
    assert one.uniform(3).tolist() == unit[0]
    radius, angle = [torch.tensor(rows, dtype=torch.float64) for rows in unit[1:]]
    want = (-2 * (1 - radius).log()).sqrt() * (2 * torch.pi * angle).cos()
    torch.testing.assert_close(one.normal(3).double(), want, atol=1e-5, rtol=1e-5)


def test_order_is_a_permutation_and_every_one_as_likely() -> None:
    order = draws().order(4)
    assert torch.equal(order.sort(1).values, torch.arange(4).expand(len(INDEX), -1))
    counts = (order * torch.tensor([64, 16, 4, 1])).sum(1).bincount()
    counts = counts[counts > 0]
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_draws_in_parts_are_those_of_the_whole_batch() -> None:
    index, wide = torch.arange(5), 1 << 15
    whole = CounterRNG(3, 1, index, 2)
    drawn = whole.normal(wide), whole.uniform()
    for row in range(5):
        alone = CounterRNG(3, 1, index[row : row + 1], 2)
        assert torch.equal(alone.normal(wide)[0], drawn[0][row])
        assert torch.equal(alone.uniform()[0], drawn[1][row])
    rows = torch.arange(5.0)
    made = CounterRNG(3, 1, index, 2).by_rows(2, lambda part, own: own + part.uniform(), rows)
    assert torch.equal(made, rows + CounterRNG(3, 1, index, 2).uniform())


def test_draws_of_some_rows_are_those_of_the_whole_batch_and_change_no_later_ones() -> None:
    whole, x = CounterRNG(3, 1, INDEX, 2), torch.arange(float(len(INDEX))).unsqueeze(1)
    drawn, after = whole.uniform(2), whole.uniform()
    for chosen in (INDEX % 3 == 0, INDEX < 0, INDEX >= 0):
        part = CounterRNG(3, 1, INDEX, 2)
        made = part.on_rows(chosen, 2, lambda rng, own, more: own + more * rng.uniform(2), x.expand(-1, 2), x)
        assert torch.equal(made, torch.where(chosen.unsqueeze(1), x + x * drawn, x))
        assert torch.equal(part.uniform(), after)
