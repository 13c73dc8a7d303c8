"""Arrays to views: windows of a user's events, next-item targets, masked items, and the augmentations of CL4SRec and CoLES.

Training views read only the events before the held-out ones (`known`); `whole` and `next_event` read what there is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from untaught.core import Batch, Options, Preprocessor, UserError, View
from untaught.modalities.events.items import LENGTHS, SPECIAL, items_of, ordinary
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.masking import first
from untaught.ranges import Within, outside

OPERATIONS = ("crop", "mask", "reorder", "slice", "none")
AUGMENTED: Options = {"operations": "crop,mask,reorder", "crop": 0.6, "mask": 0.3, "reorder": 0.6, "slice": (0.2, 0.8)}
VIEWS: dict[str, Options] = {
    "whole": {},
    "light": {"scale": (0.8, 1.0)},
    "global": AUGMENTED,  # CL4SRec, section 3.3
    "global2": AUGMENTED,
    "next_tokens": {"window": "last"},  # SASRec, section 3.1
    "masked_tokens": {"window": "last", "rate": 0.2, "last": 0.1},  # BERT4Rec, section 3.6
    "next_event": {"after": "all"},
}
AFTER = {"all": -1, "validation": 0, "test": 1}  # the event to predict: the one after all, or the first held-out one of a part
WINDOWS = ("last", "random")
RANGES = {
    **dict.fromkeys(("rate", "last", "crop", "mask", "reorder"), Within(0, 1)),
    **dict.fromkeys(("slice", "scale"), Within(0.01, 1)),
    "length": LENGTHS,
}


def presets(settings: Options) -> dict[str, Options]:
    length, size = settings.get("length"), settings.get("vocabulary")
    if type(length) is not int or length not in LENGTHS or type(size) is not int or settings.get("special") != SPECIAL:
        raise UserError(f"events need settings with a length {LENGTHS}, a vocabulary size and its special items; got {str(settings)[:200]}")
    return {name: {"length": length, **options} for name, options in VIEWS.items()}


def check(options: Options) -> str | None:
    """The fault of a view's options, or None."""
    if options.get("window", "last") not in WINDOWS:
        return f"window={options['window']}: must be {' or '.join(WINDOWS)}"
    if options.get("after", "all") not in AFTER:
        return f"after={options['after']}: must be {', '.join(AFTER)}"
    if wrong := [name for name in str(options.get("operations", "none")).split(",") if name not in OPERATIONS]:
        return f"operations={options['operations']}: {wrong[0]!r} is not one of {', '.join(OPERATIONS)}; separate several by commas"
    return outside(options, RANGES)


def whole(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A user's last `length` events."""
    return _read(batch, *_last(batch["ids_valid"].sum(1), options["length"]), options["length"])


def light(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A random run of the last `length` known events, its share drawn from `scale`."""
    run = _last(_known(batch), options["length"])
    return _read(batch, *_part(*run, rng.uniform(low=options["scale"][0], high=options["scale"][1]), rng.uniform()), options["length"])


def next_tokens(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """target (B,T): the next item at each of `length` events: a user's last known ones, or a random run of them (window=random).

    target_valid is False for padding and for items that are not in the vocabulary.
    """
    long = options["length"] + 1
    view = _read(batch, *_last(_known(batch), long, _place(rng, options)), long)
    assert view.valid is not None
    x, target, valid = view.x[:, :-1], view.x[:, 1:], view.valid
    return View(x, valid[:, :-1], target=target, target_valid=valid[:, 1:] & ordinary(target))


def masked_tokens(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """BERT4Rec's masking: a share `rate` of the items, at least one, becomes the mask; in a share `last` of the samples only the last one.

    target (B,T): every item; mask (B,T): items to predict; meta["places"] (B,K): their positions first, then others up to K.
    """
    view = _read(batch, *_last(_known(batch), options["length"], _place(rng, options)), options["length"])
    x, valid = view.x, view.valid
    assert valid is not None
    free = valid & ordinary(x)
    count = (free.sum(1) * options["rate"]).round().long().clamp(min=1).minimum(free.sum(1))
    mask = free & (_rank(rng.uniform(x.shape[1]), free) < count.unsqueeze(1))
    last = torch.arange(x.shape[1], device=x.device) == (valid.sum(1, keepdim=True) - 1)
    mask = torch.where(rng.chance(options["last"]).unsqueeze(1), last & free, mask)
    places = first(mask, max(1, round(options["rate"] * x.shape[1])))
    return View(torch.where(mask, SPECIAL["mask"], x), valid, mask, target=x, meta={"places": places})


def augmented(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """One of the `operations`, drawn for each user, on the last `length` known events.

    crop: a run of a share `crop`; mask: a share `mask` becomes the mask; reorder: a run of a share `reorder` is shuffled (Xie et al. 2022,
    section 3.3, https://arxiv.org/abs/2010.14395). slice: a run of a share drawn from `slice`, of all known events, cut to `length`
    (Babaev et al. 2022, section 3.2, https://arxiv.org/abs/2002.08232).
    """
    names, length, known = str(options["operations"]).split(","), options["length"], _known(batch)
    is_drawn = lambda name: (drawn == names.index(name)) if name in names else torch.zeros_like(drawn, dtype=torch.bool)  # noqa: E731
    drawn, place, share, noise = (rng.uniform() * len(names)).long(), rng.uniform(), rng.uniform(), rng.uniform(length)
    start, count = _last(known, length)
    low, high = options["slice"]
    runs = {
        "crop": _part(start, count, torch.full_like(place, options["crop"]), place),
        "slice": _part(torch.zeros_like(known), known, low + (high - low) * share, place, length),
    }
    for name, (own_start, own_count) in runs.items():
        start, count = torch.where(is_drawn(name), own_start, start), torch.where(is_drawn(name), own_count, count)
    view = _read(batch, start, count, length)
    x, valid = view.x, view.valid
    assert valid is not None
    masked = (_rank(noise, valid) < (options["mask"] * count).floor().unsqueeze(1)) & is_drawn("mask").unsqueeze(1)
    begin, size = (one.unsqueeze(1) for one in _part(torch.zeros_like(count), count, torch.full_like(place, options["reorder"]), place))
    places = torch.arange(length, device=x.device).expand_as(x)
    inside = (places >= begin) & (places < begin + size) & is_drawn("reorder").unsqueeze(1)
    order = torch.where(inside, begin + noise * size, places.float()).argsort(dim=1, stable=True)  # outside the run as they are
    return View(torch.where(masked, SPECIAL["mask"], x.gather(1, order)), valid)


def next_event(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """The events before the one to predict, followed by the mask; target (B,1): that event, the mask if there is none (`after`=all).

    meta["at"] (B,): position of the mask; "history" (B,N): all events before it, not only those of the window, and padding; "times" (B,N)
    float64, if the data have them.
    """
    known, total, length = batch["known"].long(), batch["ids_valid"].sum(1), options["length"]
    part = AFTER[options["after"]]
    end = total if part < 0 else known[:, part]
    ids = batch["ids"].long()
    target = torch.where(end < total, ids.gather(1, end.unsqueeze(1).clamp(max=ids.shape[1] - 1)).squeeze(1), SPECIAL["mask"])
    start, count = _last(end, length - 1)
    view = _read(batch, start, count, length)
    places = torch.arange(length, device=ids.device)
    x = torch.where(places == count.unsqueeze(1), SPECIAL["mask"], view.x)
    before = torch.arange(ids.shape[1], device=ids.device) < end.unsqueeze(1)
    meta = {
        "at": count,
        "history": torch.where(before, ids, SPECIAL["pad"]),
        **({"times": batch["times"]} if prep.settings["timed"] else {}),
    }
    return View(x, places <= count.unsqueeze(1), target=target.unsqueeze(1), meta=meta)


def _known(batch: Batch) -> Tensor:
    """How many of each user's events training may read (B,)."""
    return batch["known"][:, 0].long()


def _place(rng: CounterRNG, options: Options) -> Tensor | None:
    return rng.uniform() if options["window"] == "random" else None


def _last(end: Tensor, length: int, place: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Start and count (B,) of a run of at most `length` of the first `end` events: the last ones; with place (B,) in [0, 1) anywhere."""
    count = end.clamp(max=length)
    spare = end - count
    return spare if place is None else (place * (spare + 1)).floor().long().minimum(spare), count


def _part(start: Tensor, count: Tensor, share: Tensor, place: Tensor, most: int | None = None) -> tuple[Tensor, Tensor]:
    """Start and count (B,) of a run within a run, with a share of its events, at least one and at most `most`; place (B,) in [0, 1)."""
    fewer = (share * count).floor().long().clamp(min=1, max=most).minimum(count)
    spare = count - fewer
    return start + (place * (spare + 1)).floor().long().minimum(spare), fewer


def _read(batch: Batch, start: Tensor, count: Tensor, width: int) -> View:
    """The events of a run -> x (B,width), valid. Without any, the first place is valid padding: attention needs something to read."""
    ids = batch["ids"].long()
    places = torch.arange(width, device=ids.device)
    at = (start.unsqueeze(1) + places).clamp(max=ids.shape[1] - 1)
    valid = places < count.unsqueeze(1)
    return View(torch.where(valid, ids.gather(1, at), SPECIAL["pad"]), valid | ((places == 0) & (count == 0).unsqueeze(1)))


def _rank(unit: Tensor, valid: Tensor) -> Tensor:
    """unit (B,T) in [0, 1) -> the rank of each valid place by its number (B,T), padding last."""
    return torch.where(valid, unit, 2.0).argsort(dim=1, stable=True).argsort(dim=1, stable=True)


def captions(view: View, prep: Preprocessor) -> list[str]:
    """The items of each sample, in order."""
    names = items_of(prep)
    valid: Any = view.valid if view.valid is not None else torch.ones_like(view.x, dtype=torch.bool)
    return [", ".join(names[number] for number in row[known].tolist()) for row, known in zip(view.x.cpu(), valid.cpu(), strict=True)]
