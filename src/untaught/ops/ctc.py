"""Connectionist temporal classification: the loss, and greedy and prefix beam decoding, batched, in float32.

Each frame emits a symbol or the blank, number 0; repeated symbols are merged, then blanks removed. Graves et al., ICML 2006
(https://www.cs.toronto.edu/~graves/icml_2006.pdf). Prefix beam search adds up all paths of a prefix: Hannun et al. 2014,
https://arxiv.org/abs/1408.2873, Algorithm 1, without a language model.
"""

from __future__ import annotations

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


def prefix_beam(log: Tensor, length: Tensor, beam: int) -> tuple[Tensor, Tensor]:
    """The most probable labelling that is found by keeping `beam` prefixes per frame: log (B,T,V), length (B,) -> symbols (B,T), 0 behind
    the last, and the log-probability (B,) of all of its paths that were kept."""
    count, steps, size = log.shape
    log = log.float()
    prefixes = torch.zeros(count, 1, steps, dtype=torch.long, device=log.device)
    hashes, last, ends = prefixes.new_zeros(3, count, 1).unbind()  # of each prefix: its hash, last symbol and length
    blank, symbol = log.new_zeros(count, 1), log.new_full((count, 1), NEVER)  # of paths that end in a blank, and in the last symbol
    symbols = torch.arange(size, device=log.device)
    for step in range(steps):
        now = log[:, step]
        total = torch.logaddexp(blank, symbol)
        # Stays: a blank, or the last symbol once more.
        stays_blank = total + now[:, :1]
        repeated = symbol + now.gather(1, last)
        stays_symbol = torch.where(last == BLANK, NEVER, repeated)
        # Grows by each symbol; by its own last one only behind a blank.
        grows = torch.where(symbols == last.unsqueeze(2), blank.unsqueeze(2), total.unsqueeze(2)) + now.unsqueeze(1)
        grows[:, :, BLANK] = NEVER
        # A prefix that grows into another one of the beam adds to that one.
        grown = hashes.unsqueeze(2) * FACTOR + symbols + SHIFT  # (B,K,V)
        into = grown.gather(2, last.unsqueeze(1).expand(-1, last.shape[1], -1))  # (B,from,to): `from` grown by the last symbol of `to`
        same = (into == hashes.unsqueeze(1)) & (ends.unsqueeze(2) + 1 == ends.unsqueeze(1))
        moved = grows.gather(2, last.unsqueeze(1).expand(-1, last.shape[1], -1)).masked_fill(~same, NEVER)
        stays_symbol = torch.logaddexp(stays_symbol, moved.logsumexp(1))
        taken = torch.zeros_like(grows, dtype=torch.bool)
        taken.scatter_reduce_(2, last.unsqueeze(1).expand_as(same), same, "amax")
        grows = grows.masked_fill(taken, NEVER)

        scores = torch.cat([torch.logaddexp(stays_blank, stays_symbol), grows.flatten(1)], 1)
        best, chosen = scores.topk(min(beam, scores.shape[1]), 1)
        old = last.shape[1]
        stayed = chosen < old
        parent = torch.where(stayed, chosen, (chosen - old) // size)
        new = torch.where(stayed, last.gather(1, parent), (chosen - old) % size)
        number = ends.gather(1, parent)
        after = prefixes.gather(1, parent.unsqueeze(2).expand(-1, -1, steps))
        after = torch.where((torch.arange(steps, device=log.device) == number.unsqueeze(2)) & ~stayed.unsqueeze(2), new.unsqueeze(2), after)
        state = (
            torch.where(stayed, stays_blank.gather(1, parent), NEVER),
            torch.where(stayed, stays_symbol.gather(1, parent), grows.flatten(1).gather(1, (chosen - old).clamp(min=0))),
            torch.where(stayed, hashes.gather(1, parent), hashes.gather(1, parent) * FACTOR + new + SHIFT),
            new,
            torch.where(best > NEVER / 2, number + ~stayed, NONE),  # what can't be must not pass for a prefix that is also there
        )
        going = (step < length).unsqueeze(1)
        before = (blank, symbol, hashes, last, ends)
        wide = state[0].shape[1]
        blank, symbol, hashes, last, ends = (
            torch.where(going, one, _widened(other, wide, filling))
            for one, other, filling in zip(state, before, (NEVER, NEVER, 0, 0, NONE), strict=True)
        )
        prefixes = torch.where(going.unsqueeze(2), after, _widened(prefixes, wide, 0))
    total = torch.logaddexp(blank, symbol)
    score, first = total.max(1)
    return prefixes.gather(1, first.view(-1, 1, 1).expand(-1, 1, steps)).squeeze(1), score


def _widened(x: Tensor, wide: int, filling: float) -> Tensor:
    """x (B,K, ...) -> (B,wide, ...)."""
    missing = wide - x.shape[1]
    return x if missing <= 0 else torch.cat([x, x.new_full((len(x), missing, *x.shape[2:]), filling)], 1)
