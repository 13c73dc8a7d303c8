"""Connectionist temporal classification: the loss, and greedy and prefix beam decoding, batched, in float32.

Each frame emits a symbol or the blank, number 0; repeated symbols are merged, then blanks removed. Graves et al., ICML 2006
(https://www.cs.toronto.edu/~graves/icml_2006.pdf). Prefix beam search adds up all paths of a prefix: Hannun et al. 2014,
https://arxiv.org/abs/1408.2873, Algorithm 1, without a language model.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BLANK = 0
NONE = -2  # length of a prefix that can't be
NEVER = -1e30  # log-probability of what can't be; -inf would make NaN of differences
FACTOR, SHIFT = 0x5851F42D4C957F2D, 0x14057B7EF767814F  # of a linear congruence modulo 2^64 (Knuth's MMIX), by which prefixes are hashed


def needed(target: Tensor) -> Tensor:
    """target (B,L) symbols from 1, 0 for padding -> the frames (B,) that it needs: one per symbol and a blank between equal neighbours."""
    again = (target[:, 1:] == target[:, :-1]) & (target[:, 1:] > 0)
    return (target > 0).sum(1) + again.sum(1)


def ctc_loss(log: Tensor, length: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood (B,) of target (B,L), symbols from 1 and 0 for padding, given log-probabilities log (B,T,V) of which the
    first `length` (B,) frames are valid. 0, without a gradient, for a target that needs more frames than there are."""
    with torch.autocast(log.device.type, enabled=False):
        count = (target > 0).sum(1)
        return F.ctc_loss(log.float().transpose(0, 1), target, length, count, BLANK, reduction="none", zero_infinity=True)


def greedy(log: Tensor, length: Tensor) -> Tensor:
    """log (B,T,V), length (B,) -> the symbols (B,T) of the best path, 0 behind the last."""
    best = log.argmax(2)
    valid = torch.arange(log.shape[1], device=log.device) < length.unsqueeze(1)
    kept = valid & (best != BLANK) & (best != F.pad(best, (1, 0), value=BLANK)[:, :-1])
    place = torch.where(kept, kept.cumsum(1) - 1, log.shape[1])  # the others go to a place that is cut off
    return best.new_zeros(len(best), log.shape[1] + 1).scatter_(1, place, torch.where(kept, best, BLANK))[:, :-1]


class _Beam(NamedTuple):
    """The K prefixes kept of each sample."""

    prefixes: Tensor  # (B,K,T) symbols, 0 behind the last
    hashes: Tensor  # (B,K)
    last: Tensor  # (B,K) last symbol
    ends: Tensor  # (B,K) length
    blank: Tensor  # (B,K) log-probability of the paths that end in a blank
    symbol: Tensor  # (B,K) and of those that end in the last symbol


def prefix_beam(log: Tensor, length: Tensor, beam: int) -> tuple[Tensor, Tensor]:
    """The most probable labelling that is found by keeping `beam` prefixes per frame: log (B,T,V), length (B,) -> symbols (B,T), 0 behind
    the last, and the log-probability (B,) of all of its paths that were kept."""
    log = log.float()
    prefixes = torch.zeros(len(log), 1, log.shape[1], dtype=torch.long, device=log.device)
    none = prefixes[:, :, 0]
    blank = log.new_zeros(none.shape)
    kept = _Beam(prefixes, none, none, none, blank, torch.full_like(blank, NEVER))
    for step in range(log.shape[1]):
        grown = _grown(kept, log[:, step], beam)
        kept = _chosen(step < length, grown, kept)
    score, first = torch.logaddexp(kept.blank, kept.symbol).max(1)
    return kept.prefixes.gather(1, first.view(-1, 1, 1).expand(-1, 1, log.shape[1])).squeeze(1), score


def _grown(kept: _Beam, now: Tensor, beam: int) -> _Beam:
    """The best prefixes after one more frame, whose log-probabilities are `now` (B,V)."""
    prefixes, hashes, last, ends, blank, symbol = kept
    old, size = last.shape[1], now.shape[1]
    symbols = torch.arange(size, device=now.device)
    total = torch.logaddexp(blank, symbol)
    # Stays: a blank, or the last symbol once more.
    stays_blank = total + now[:, :1]
    stays_symbol = (symbol + now.gather(1, last)).masked_fill(last == BLANK, NEVER)
    # Grows by each symbol; by its own last one only behind a blank.
    grows = torch.where(symbols == last.unsqueeze(2), blank.unsqueeze(2), total.unsqueeze(2)) + now.unsqueeze(1)
    grows[:, :, BLANK] = NEVER
    # A prefix that grows into another one of the beam adds to that one.
    longer = hashes.unsqueeze(2) * FACTOR + symbols + SHIFT  # (B,K,V)
    of_each = last.unsqueeze(1).expand(-1, old, -1)
    same = (longer.gather(2, of_each) == hashes.unsqueeze(1)) & (ends.unsqueeze(2) + 1 == ends.unsqueeze(1))  # (B,from,to)
    moved = grows.gather(2, of_each).masked_fill(~same, NEVER)
    stays_symbol = torch.logaddexp(stays_symbol, moved.logsumexp(1))
    taken = torch.zeros_like(grows, dtype=torch.bool)
    taken.scatter_reduce_(2, of_each, same, "amax")
    grows = grows.masked_fill(taken, NEVER).flatten(1)

    scores = torch.cat([torch.logaddexp(stays_blank, stays_symbol), grows], 1)
    best, chosen = scores.topk(min(beam, scores.shape[1]), 1)
    stayed = chosen < old
    born = (chosen - old).clamp(min=0)
    parent = torch.where(stayed, chosen, born // size)
    new = torch.where(stayed, last.gather(1, parent), born % size)
    number, hashed = ends.gather(1, parent), hashes.gather(1, parent)
    after = prefixes.gather(1, parent.unsqueeze(2).expand(-1, -1, prefixes.shape[2]))
    here = torch.arange(prefixes.shape[2], device=now.device) == number.unsqueeze(2)
    return _Beam(
        prefixes=torch.where(here & ~stayed.unsqueeze(2), new.unsqueeze(2), after),
        hashes=torch.where(stayed, hashed, hashed * FACTOR + new + SHIFT),
        last=new,
        ends=(number + ~stayed).masked_fill(best <= NEVER / 2, NONE),  # what can't be must not pass for a prefix that is also there
        blank=stays_blank.gather(1, parent).masked_fill(~stayed, NEVER),
        symbol=torch.where(stayed, stays_symbol.gather(1, parent), grows.gather(1, born)),
    )


def _chosen(going: Tensor, after: _Beam, before: _Beam) -> _Beam:
    """`after` for the samples (B,) that go on, `before`, made as wide, for those that have ended."""
    missing = after.last.shape[1] - before.last.shape[1]
    fillings = (0, 0, 0, NONE, NEVER, NEVER)  # in the order of the fields
    wide = [torch.cat([x, x.new_full((len(x), missing, *x.shape[2:]), filling)], 1) for x, filling in zip(before, fillings, strict=True)]
    return _Beam(*(torch.where(going.view(-1, *[1] * (new.dim() - 1)), new, old) for new, old in zip(after, wide, strict=True)))
