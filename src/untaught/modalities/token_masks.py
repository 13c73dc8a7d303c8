"""Masked views of sequences, x (B,T,...), valid (B,T): runs of tokens are hidden, or predicted.

A token is `patch` time steps, or, where `window` is given, a frame of `window` steps that begins every `patch` steps.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.core import Options, UserError, View
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.framing import valid_frames
from untaught.ops.masking import first


def masked_tokens(view: View, rng: CounterRNG, options: Options, observed: Tensor | None = None) -> View:
    """Masks a share `rate` of each sample's tokens in runs of about `span`; the target is every token's values (B,N,P); target_valid
    (B,N,P) is False for values beyond the end, and for those that are not `observed` (B,T,C)."""
    tokens = tokens_of(view, options)
    mask = runs(rng, tokens, (options["rate"] * tokens.sum(1)).round(), options["span"])
    seen = view.valid.unsqueeze(2).expand_as(view.x) if observed is None else observed
    patches = lambda part: part.unflatten(1, (-1, options["patch"])).flatten(2)  # noqa: E731
    return replace(view, mask=mask, target=patches(view.x[:, :, : seen.shape[2]]), target_valid=patches(seen))


def masked_runs(view: View, rng: CounterRNG, options: Options) -> View:
    """Masks runs of about `span` tokens: a share drawn from `rates`, in a share `masking` of the samples.

    meta["places"] (B,M): M token positions, all masked ones first. M is the same for every view of this length.
    """
    tokens = tokens_of(view, options)
    low, high = options["rates"]
    share = rng.uniform(low=low, high=high) * rng.chance(options["masking"])
    mask = runs(rng, tokens, (share * tokens.sum(1)).round(), options["span"], least=0)
    places = first(mask, max(round(high * mask.shape[1]), 1))
    return replace(view, mask=mask, meta={**(view.meta or {}), "places": places})


def target_runs(view: View, rng: CounterRNG, options: Options) -> View:
    """Unmasked context tokens, and meta["targets"] (B,T,N) bool: `targets` runs of tokens outside the context, to predict, each a share
    `target_scale` of the tokens."""
    tokens = tokens_of(view, options)
    count, number = tokens.sum(1, keepdim=True), options["targets"]
    low, high = options["target_scale"]
    size = ((low + rng.uniform(number) * (high - low)) * count).round().clamp(min=1)
    start = (rng.uniform(number) * (count - size + 1)).floor().clamp(min=1)  # the first token is always context
    place = torch.arange(tokens.shape[1], device=tokens.device)
    targets = (place >= start.unsqueeze(2)) & (place < (start + size).unsqueeze(2)) & tokens.unsqueeze(1)
    return replace(view, mask=targets.any(1), meta={**(view.meta or {}), "targets": targets})


def masked_spans(view: View, rng: CounterRNG, options: Options) -> View:
    """Masks spans of `length` tokens that start at a share `starts` of the tokens and may overlap. Baevski et al. 2020, section 3.1,
    https://arxiv.org/abs/2006.11477

    Spans are at most half as long as their sample, and never cover all of it. meta["places"] (B,M): M token positions, the masked ones
    first, in order. M is the same for every view of this length.
    """
    tokens = tokens_of(view, options)
    count, number = tokens.sum(1), tokens.shape[1]
    length = ((count + 1) // 2).clamp(min=1, max=options["length"])
    starts = (options["starts"] * count + rng.uniform()).floor().long().clamp(min=1).minimum((count - 1) // length)
    place = torch.arange(number, device=tokens.device)
    noise = rng.uniform(number).masked_fill(place > (count - length).unsqueeze(1), -1.0)
    rank = (-noise).argsort(dim=1, stable=True).argsort(dim=1)
    before = F.pad((rank < starts.unsqueeze(1)).long().cumsum(1), (1, 0))  # starts before each place
    mask = before[:, 1:] > before.gather(1, (place + 1 - length.unsqueeze(1)).clamp(min=0))
    most = min((int(options["starts"] * number) + 1) * options["length"], number)
    return replace(view, mask=mask, meta={**(view.meta or {}), "places": first(mask, most)})


def tokens_of(view: View, options: Options) -> Tensor:
    """A mask of the tokens that are not all padding (B,N)."""
    if not options["patch"]:
        raise UserError("patch=0: this encoder has no tokens; give patch, or use the encoder patch_series")
    if options.get("window"):
        return valid_frames(view.valid, options["window"], options["patch"])
    return view.valid.unflatten(1, (-1, options["patch"])).any(2)


def runs(rng: CounterRNG, tokens: Tensor, count: Tensor, span: int, least: int = 1) -> Tensor:
    """tokens (B,N) bool, count (B,) -> (B,N) bool, true at `count` tokens of each sample (at least `least`, at most all but one) in runs
    of about `span`: those with the largest noise, smoothed over `span` neighbours."""
    number = tokens.shape[1]
    noise = rng.uniform(number + span - 1).unfold(1, span, 1).mean(2)
    rank = (-torch.where(tokens, noise, -1.0)).argsort(dim=1, stable=True).argsort(dim=1)
    count = count.clamp(min=least).minimum(tokens.sum(1) - 1)
    return (rank < count.unsqueeze(1)) & tokens
