"""The CTC loss and decoders against plain loops: all paths of a small problem, and prefix beam search with a dictionary of prefixes."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch
from torch import Tensor

from untaught.ops.ctc import BLANK, ctc_loss, greedy, needed, prefix_beam

Prefix = tuple[int, ...]


def log_probabilities(count: int, steps: int, size: int, seed: int = 0, sharp: float = 2.0) -> Tensor:
    return (sharp * torch.randn(count, steps, size, generator=torch.Generator().manual_seed(seed))).log_softmax(2)


def collapsed(path: Prefix) -> Prefix:
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != BLANK)


def labellings(log: Tensor) -> dict[Prefix, float]:
    """Every labelling of log (T,V), with its probability: the sum over all paths."""
    found: dict[Prefix, float] = defaultdict(float)
    for path in itertools.product(range(log.shape[1]), repeat=log.shape[0]):
        found[collapsed(path)] += math.exp(sum(log[step, symbol].item() for step, symbol in enumerate(path)))
    return found


def beam_by_loops(log: Tensor, beam: int) -> tuple[Prefix, float]:
    """Hannun et al. 2014, Algorithm 1, of log (T,V): prefixes with the probabilities of their paths that end in a blank, or not."""
    kept: dict[Prefix, tuple[float, float]] = {(): (1.0, 0.0)}
    for row in log.double().exp().tolist():
        found: dict[Prefix, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for prefix, (blank, symbol) in kept.items():
            for number, chance in enumerate(row):
                if number == BLANK:
                    found[prefix][0] += (blank + symbol) * chance
                elif prefix and number == prefix[-1]:
                    found[prefix][1] += symbol * chance
                    found[(*prefix, number)][1] += blank * chance
                else:
                    found[(*prefix, number)][1] += (blank + symbol) * chance
        best = sorted(found.items(), key=lambda item: -sum(item[1]))[:beam]
        kept = {prefix: (blank, symbol) for prefix, (blank, symbol) in best}
    prefix, chances = max(kept.items(), key=lambda item: sum(item[1]))
    return prefix, math.log(sum(chances))


def said(row: Tensor) -> Prefix:
    return tuple(number for number in row.tolist() if number)


def test_the_loss_is_that_of_all_paths() -> None:
    log = log_probabilities(5, 6, 3)
    length = torch.tensor([6, 5, 6, 3, 2])
    targets = [(1, 2), (2,), (1, 1, 2), (1, 1), (1, 1)]  # the last needs 3 frames and has 2
    target = torch.zeros(5, 3, dtype=torch.long)
    for row, symbols in enumerate(targets):
        target[row, : len(symbols)] = torch.tensor(symbols)
    assert needed(target).tolist() == [2, 1, 4, 3, 3]
    log.requires_grad_()
    found = ctc_loss(log, length, target)
    for row, symbols in enumerate(targets[:-1]):
        assert found[row].item() == pytest.approx(-math.log(labellings(log[row, : length[row]])[symbols]), rel=1e-5)
    assert found[-1].item() == 0
    (gradient,) = torch.autograd.grad(found.sum(), log)
    assert gradient.isfinite().all()
    assert not gradient[-1].any(), "what doesn't fit teaches nothing"
    assert not gradient[1, 5:].any(), "padding has no gradient"


def test_greedy_decoding_merges_and_drops() -> None:
    path = torch.tensor([[1, 1, 0, 1, 2, 2, 0], [0, 0, 0, 0, 0, 0, 0], [2, 1, 1, 2, 0, 2, 2]])
    log = torch.nn.functional.one_hot(path, 3).float().log_softmax(2)
    found = greedy(log, torch.tensor([7, 7, 4]))
    assert [said(row) for row in found] == [(1, 1, 2), (), (2, 1, 2)]
    assert found.shape == (3, 7)


@pytest.mark.parametrize("beam", [1, 2, 3, 8])
def test_the_beam_is_that_of_the_loops(beam: int) -> None:
    log, length = log_probabilities(24, 9, 4, seed=beam), torch.tensor([9, 4, 7] * 8)
    found, score = prefix_beam(log, length, beam)
    for row in range(len(log)):
        prefix, chance = beam_by_loops(log[row, : length[row]], beam)
        assert said(found[row]) == prefix
        assert score[row].item() == pytest.approx(chance, rel=1e-4)


def test_a_wide_beam_finds_the_most_probable_labelling() -> None:
    log = log_probabilities(6, 6, 3, sharp=0.7)
    found, score = prefix_beam(log, torch.full((6,), 6), 200)
    best = greedy(log, torch.full((6,), 6))
    for row in range(6):
        every = labellings(log[row])
        assert every[said(found[row])] == pytest.approx(max(every.values()), rel=1e-4)
        assert score[row].item() == pytest.approx(math.log(max(every.values())), rel=1e-4)
    assert any(said(one) != said(other) for one, other in zip(found, best, strict=True)), "the best path is not always the best labelling"


def test_padding_changes_no_decoding() -> None:
    log, length = log_probabilities(4, 8, 5), torch.tensor([8, 3, 5, 1])
    other = torch.cat([log, log_probabilities(4, 3, 5, seed=9)], 1)
    for row in range(4):
        other[row, length[row] :] = log_probabilities(1, 11, 5, seed=7)[0, length[row] :]
    for decode in (greedy, lambda log, length: prefix_beam(log, length, 4)[0]):
        one, two = decode(log, length), decode(other, length)
        assert [said(row) for row in one] == [said(row) for row in two]
