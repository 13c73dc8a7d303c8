"""Arrays to views: truncation, special tokens, crops, masking, deletion, infilling."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.core import Batch, Options, Preprocessor, UserError, View
from untaught.modalities.text.documents import LENGTHS
from untaught.modalities.tokenizer import starts, stops
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.masking import first
from untaught.ranges import Within, outside

VIEWS: dict[str, Options] = {
    "whole": {"rows": "documents"},
    "global": {"rows": "documents", "scale": (1.0, 1.0), "delete": 0.0},  # SimCSE: two views of a text differ by the network's dropout
    "global2": {"rows": "documents", "scale": (1.0, 1.0), "delete": 0.0},
    "light": {"rows": "documents", "delete": 0.0},
    "masked_tokens": {"rows": "runs", "rate": 0.15, "mask": 0.8, "random": 0.1, "words": False, "versions": 0},  # BERT, appendix A.1
    "next_tokens": {"rows": "runs"},
    "deleted": {"rows": "documents", "rate": 0.6},  # TSDAE, section 3
    "infilled": {"rows": "runs", "rate": 0.3, "span": 3.0, "permute": 1.0},  # BART, section 2.2
}


def presets(settings: Options) -> dict[str, Options]:
    length = settings.get("length")
    if type(length) is not int or length not in LENGTHS or not isinstance(settings.get("special"), dict):
        raise UserError(f"text needs settings with a length {LENGTHS} and special tokens; got {settings}")
    size = settings.get("vocabulary")
    tokens = [token for token in settings["special"].values() if token is not None]
    if type(size) is not int or not all(type(token) is int and 0 <= token < size for token in tokens):
        raise UserError(f"text needs settings with a vocabulary size and special tokens that are ids below it; got {settings}")
    return {name: {"length": length, **options} for name, options in VIEWS.items()}


RANGES = {
    **dict.fromkeys(("rate", "mask", "random", "delete", "permute"), Within(0, 1)),
    "scale": Within(1e-4, 1),  # length of the crop as a share of the document: minimum, maximum
    "span": Within(1, 100),  # tokens
    "length": LENGTHS,
    "versions": Within(0, 10_000),  # different maskings to cycle through; 0: a new one every epoch
}


def check(options: Options) -> str | None:
    """The fault of a view's options, or None."""
    if fault := outside(options, RANGES):
        return fault
    if options.get("mask", 0) + options.get("random", 0) > 1:
        return f"mask={options['mask']}: mask and random are shares of the tokens to predict, together at most 1"
    if options["rows"] not in ("documents", "runs"):
        return f"rows={options['rows']}: must be documents or runs"
    return None


def runs(views: list[Options]) -> tuple[str, int] | None:
    """Field and length of stream chunks, one token longer than the longest view, if all views have rows=runs; else None."""
    if all(options["rows"] == "runs" for options in views):
        return "ids", max(options["length"] for options in views) + 1
    return None


def whole(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """The document truncated to the length, between class token and separator if the tokenizer has them.

    `scale`: instead, a random crop of this share of the document (Contriever, section 3.1). `delete`: share of tokens dropped.
    """
    if tuple(options.get("scale", (1.0, 1.0))) != (1.0, 1.0):
        batch = _cropped(batch, rng, options, prep)
    x, valid = _framed(batch, options, prep)
    if options.get("delete"):
        x, valid = _drop(x, valid, _gone(x, valid, rng, options, prep), prep)
    return View(x, valid)


def _gone(x: Tensor, valid: Tensor | None, rng: CounterRNG, options: Options, prep: Preprocessor) -> Tensor:
    return _ordinary(x, valid, prep) & (rng.uniform(x.shape[1]) < options["delete"])


def traced(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """As `whole`, and meta["source"] (B,T): position of each token in the document, -1 for special tokens and padding."""
    x, valid = _framed(batch, options, prep)
    source = torch.arange(x.shape[1], device=x.device) - int(prep.statistics["special"].get("cls") is not None)
    source = torch.where(_ordinary(x, valid, prep), source, -1)
    if options.get("delete"):
        gone = _gone(x, valid, rng, options, prep)
        source = source.gather(1, first(~gone if valid is None else valid & ~gone, x.shape[1]))
        x, valid = _drop(x, valid, gone, prep)
        source = torch.where(valid, source, -1)
    return View(x, valid, meta={"source": source})


def masked_tokens(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """BERT's masking: `rate` of the tokens are predicted; of these, `mask` become the mask token, `random` a random token, the rest stay.

    A sample is masked anew in every epoch, or in `versions` ways in turn: 1 is static masking; BERT's own data had 10.

    target (B,T): every token; mask (B,T): tokens to predict; meta["places"] (B,K): their positions first, then others up to K.
    """
    special = prep.statistics["special"]
    if special.get("mask") is None:
        raise UserError("masked_tokens needs a mask token, which the tokenizer lacks; choose another tokenizer or checkpoint")
    x, valid = _framed(batch, options, prep)
    free = _ordinary(x, valid, prep)
    count = (free.sum(1) * options["rate"]).round().long().clamp(min=1).minimum(free.sum(1))
    unit = rng.uniform(x.shape[1])
    if options["words"]:
        begins = starts(prep, x.device)[x] | ~F.pad(free, (1, -1))  # also any token after a special one
        unit = unit.gather(1, (begins & free).cumsum(1).clamp(max=x.shape[1] - 1))
    unit = torch.where(free, unit, 2.0)
    if options["words"]:  # whole-word masking: the last word is not split
        limit = unit.sort(1).values.gather(1, (count - 1).clamp(min=0).unsqueeze(1))
        masked = (unit <= limit) & free
        most = min(round(1.5 * options["rate"] * x.shape[1]) + 8, x.shape[1])
    else:
        rank = unit.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        masked = (rank < count.unsqueeze(1)) & free
        most = max(1, round(options["rate"] * x.shape[1]))
    fate = rng.uniform(x.shape[1])
    ordinary = _first_ordinary(prep)
    other = ordinary + (rng.uniform(x.shape[1]) * (prep.statistics["vocabulary"] - ordinary)).long()
    shown = torch.where(fate < options["mask"], special["mask"], torch.where(fate < options["mask"] + options["random"], other, x))
    places = first(masked, most)
    return View(torch.where(masked, shown, x), valid, masked, target=x, meta={"places": places})


def next_tokens(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Language modelling: target (B,T) is the next token."""
    ids, length = batch["ids"].long(), options["length"]
    valid = batch.get("ids_valid")
    ids, valid = ids[:, : length + 1], None if valid is None else valid[:, : length + 1]
    x, target = ids[:, :-1], ids[:, 1:]
    if valid is None:
        return View(x, target=target)
    return View(x, valid[:, :-1], target=target, target_valid=valid[:, 1:])


def deleted(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """The document with `rate` of its tokens deleted; target: the full document."""
    target, target_valid = _framed(batch, options, prep)
    gone = _ordinary(target, target_valid, prep) & (rng.uniform(target.shape[1]) < options["rate"])
    x, valid = _drop(target, target_valid, gone, prep)
    return View(x, valid, target=target, target_valid=target_valid)


def infilled(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """BART's corruption: sentences permuted, then spans of Poisson(`span`) tokens, `rate` in total, each replaced by one mask.

    target: the uncorrupted text. A span of length 0 inserts a mask; no span crosses a special token. x is padded to the target's length.
    """
    special = prep.statistics["special"]
    if special.get("mask") is None:
        raise UserError("infilled needs a mask token, which the tokenizer lacks; choose another tokenizer or checkpoint")
    target, target_valid = _framed(batch, options, prep)
    x, valid = target, torch.ones_like(target, dtype=torch.bool) if target_valid is None else target_valid
    if options["permute"]:
        x = _permuted(x, valid, rng, options["permute"], prep)
    free, width = _ordinary(x, valid, prep), x.shape[1]
    at, spans = _spans(rng, width, options["rate"], options["span"])
    places = torch.arange(width, device=x.device)
    reach = torch.full((len(x), width + 1), -1, device=x.device).scatter_(1, at, spans)[:, :width]  # -1: no span starts here
    starts = free & (reach >= 0)
    barred = torch.where(free, width, places).flip(1).cummin(1).values.flip(1)  # the next position that no span may cover
    end = torch.where(starts, (places + reach).minimum(barred), 0).cummax(1).values
    inside = places < end
    masks = starts & (reach > 0)
    inserted = starts & (reach == 0)
    # Output length: 1 per kept token, 1 per span (its mask), 1 more for a mask inserted before a token.
    size = (valid & (~inside | masks)).long() + inserted.long()
    at = size.cumsum(1) - size
    out = torch.full((len(x), 2 * width), special["pad"], dtype=x.dtype, device=x.device)
    dump = 2 * width - 1
    out.scatter_(1, torch.where(inserted | masks, at, dump), special["mask"])
    keep = valid & ~inside
    out.scatter_(1, torch.where(keep, at + inserted.long(), dump), x)
    total = size.sum(1, keepdim=True).clamp(max=width)
    out = out[:, :width]
    valid = torch.arange(width, device=x.device) < total
    return View(torch.where(valid, out, special["pad"]), valid, target=target, target_valid=target_valid)


def _cropped(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> Batch:
    """A random crop of each document (B,T), its length drawn from `scale` and limited by the length, followed by the separator."""
    special = prep.statistics["special"]
    cls, sep = special.get("cls"), special.get("sep")
    ids = batch["ids"].long()
    valid = batch.get("ids_valid")
    total = ids.new_full((len(ids),), ids.shape[1]) if valid is None else valid.sum(1)
    if sep is not None:  # a document split during packing has no separator
        total = total - (ids.gather(1, (total - 1).clamp(min=0).unsqueeze(1)).squeeze(1) == sep).long()
    room = options["length"] - (cls is not None) - (sep is not None)
    count = (total * rng.uniform(low=options["scale"][0], high=options["scale"][1])).ceil().long().clamp(min=1, max=room).minimum(total)
    start = (rng.uniform() * (total - count + 1)).long()
    places = torch.arange(min(room, ids.shape[1]) + (sep is not None), device=ids.device)
    piece = ids.gather(1, (start.unsqueeze(1) + places).clamp(max=ids.shape[1] - 1))
    end = count.unsqueeze(1)
    if sep is not None:
        piece = torch.where(places == end, sep, piece)
        end = end + 1
    return {**batch, "ids": piece, "ids_valid": places < end}


def _framed(batch: Batch, options: Options, prep: Preprocessor) -> tuple[Tensor, Tensor | None]:
    """ids -> x (B,L), valid (B,L) or None if all are: truncated to the length, with a class token if the tokenizer has one."""
    special, length = prep.statistics["special"], options["length"]
    ids, valid = batch["ids"].long(), batch.get("ids_valid")
    cls, sep = special.get("cls"), special.get("sep")
    room = length - (cls is not None)
    if valid is not None:
        longer = valid.sum(1) > room
        ids, valid = ids[:, :room], valid[:, :room]
        ids = torch.where(valid, ids, special["pad"])
        if sep is not None and ids.shape[1] == room:
            ids[:, -1] = torch.where(longer, sep, ids[:, -1])
        if cls is None:  # an empty document reads one padding token
            valid = valid.clone()
            valid[:, 0] = True
    else:
        ids = ids[:, :room]
    if cls is not None:
        ids = torch.cat([ids.new_full((len(ids), 1), cls), ids], 1)
        valid = None if valid is None else torch.cat([valid.new_ones(len(ids), 1), valid], 1)
    return ids, valid


def _ordinary(x: Tensor, valid: Tensor | None, prep: Preprocessor) -> Tensor:
    """(B,T) bool: neither special tokens nor padding."""
    result = torch.ones_like(x, dtype=torch.bool) if valid is None else valid.clone()
    for role in ("cls", "sep", "pad"):
        if (number := prep.statistics["special"].get(role)) is not None:
            result &= x != number
    return result


def _first_ordinary(prep: Preprocessor) -> int:
    """The first id that is not a special token: tokenizers trained here, and most others, number special tokens from 0."""
    numbers = sorted(number for number in prep.statistics["special"].values() if number is not None)
    first_free = 0
    for number in numbers:
        first_free += number == first_free
    return first_free


def _drop(x: Tensor, valid: Tensor | None, gone: Tensor, prep: Preprocessor) -> tuple[Tensor, Tensor]:
    """Removes the tokens in `gone` and closes the gaps -> x (B,T), valid (B,T)."""
    remaining = ~gone if valid is None else valid & ~gone
    order = first(remaining, x.shape[1])
    count = remaining.sum(1, keepdim=True)
    still = torch.arange(x.shape[1], device=x.device) < count
    return torch.where(still, x.gather(1, order), prep.statistics["special"]["pad"]), still


def _permuted(x: Tensor, valid: Tensor, rng: CounterRNG, chance: float, prep: Preprocessor) -> Tensor:
    """Permutes sentences (up to a full stop) within their document; special tokens keep their positions."""
    free = _ordinary(x, valid, prep)
    stop = stops(prep, x.device)[x] & free
    number = stop.cumsum(1) - stop.long()  # sentence number of each token
    rank = rng.uniform(x.shape[1]).gather(1, number)  # random rank of its sentence
    key = torch.where(rng.chance(chance).unsqueeze(1), rank, 0.0) + (~free).cumsum(1).double()  # documents stay in order
    moved = torch.where(free, key, torch.inf).argsort(dim=1, stable=True)  # stable: a sentence keeps its order
    return x.scatter(1, first(free, x.shape[1]), x.gather(1, moved))


def _spans(rng: CounterRNG, width: int, rate: float, mean: float) -> tuple[Tensor, Tensor]:
    """Non-overlapping spans -> starts (B,N), `width` if beyond the end, and lengths (B,N), Poisson distributed.

    Gaps are geometric, so that a span starts at each position with equal probability; it is chosen so that spans cover `rate` of all
    positions.
    """
    none = float(np.exp(-mean))  # probability of length 0: such a span covers nothing, and one uncovered token follows it
    chance = min(rate / (mean * (1 - rate) + rate * (1 - none)), 1.0)
    unit, lengths = rng.uniform(width), _poisson(rng.uniform(width), mean)
    if chance == 0:
        return torch.full_like(lengths, width), lengths
    gaps = ((1 - unit).double().log() / np.log1p(-min(chance, 1 - 1e-12))).floor().clamp(max=width).long()
    taken = lengths.clamp(min=1)
    return ((gaps + taken).cumsum(1) - taken).clamp(max=width), lengths


def _poisson(unit: Tensor, mean: float) -> Tensor:
    """unit (...) uniform -> (...) int64, Poisson with this mean, at most 20."""
    counts = torch.arange(20, device=unit.device, dtype=torch.float64)
    log = counts * np.log(mean) - mean - torch.lgamma(counts + 1)
    return torch.searchsorted(log.exp().cumsum(0).float(), unit.contiguous()).clamp(max=20)
