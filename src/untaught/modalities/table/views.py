"""Views of table rows: x (B,D), the values of every feature side by side.

A number has two places in x: its score (see `columns.knots_of`), and whether it is missing. A category has one per value, 1 at its own, and
one for missing. A category that no training row has is 0 everywhere. A missing value is marked where training rows have missing ones
in this feature; elsewhere it is the score 0. A hidden feature (a masked token, a column outside the subset) is 0, and marked as missing.

Features are corrupted as in SCARF (Bahri, Jiang, Tay, Metzler, ICLR 2022, algorithm 1, https://arxiv.org/abs/2106.15147): the value is
replaced by one drawn from the feature's distribution in the training rows. `corruption=missing` hides them instead, which leaves a
subset of the columns, as in SubTab (Ucar, Hajiramezanali, Edwards, NeurIPS 2021, https://arxiv.org/abs/2110.04361).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from untaught.core import Batch, Options, Preprocessor, UserError, View
from untaught.modalities.corruption import corruption_fault
from untaught.modalities.table.columns import FILE, features_of_file, knots_of
from untaught.modalities.token_masks import masked_runs, target_runs
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.masking import first, random_mask
from untaught.ranges import Within, outside

CORRUPTIONS = ("marginal", "missing")
TOKENS: Options = {"patch": 1, "span": 1}  # a token is a feature; columns have no order, so that a run is one token
VIEWS: dict[str, Options] = {
    "whole": {},
    "global": {"corruption": "marginal", "level": 0.3},
    "global2": {"corruption": "marginal", "level": 0.3},
    "local": {"corruption": "missing", "level": 0.6},
    "light": {"corruption": "marginal", "level": 0.1},
    "corrupted": {"corruption": "marginal", "level": 0.3},
    "redrawn": {"corruption": "marginal", "level": 0.3},  # VIME's p_m
    "masked": {"corruption": "marginal", "level": 0.0, "rate": 0.5},
    "blocks": {"corruption": "marginal", "level": 0.0, "rate": 0.5},
    "masked_tokens": {"rate": 0.3},  # of 14 features BERT's 15% would be 2
    "global_masked": {"corruption": "marginal", "level": 0.3, "rate": 0.15},
    "global_blocks": {"corruption": "marginal", "level": 0.3, "rates": (0.1, 0.5), "masking": 0.5, **TOKENS},
    "global2_blocks": {"corruption": "marginal", "level": 0.3, "rates": (0.1, 0.5), "masking": 0.5, **TOKENS},
    "multiblock": {"corruption": "marginal", "level": 0.0, "targets": 4, "target_scale": (0.15, 0.2), **TOKENS},
}
RANGES = {
    **dict.fromkeys(("level", "rate", "rates", "masking"), Within(0, 1)),  # shares of the features
    "patch": Within(1, 1),
    "span": Within(1, 1 << 16),
    "targets": Within(1, 64),
    "target_scale": Within(0.01, 1),
}


def presets(settings: Options) -> dict[str, Options]:
    if not isinstance(settings.get("features"), list) or not settings["features"]:
        raise UserError("table rows need settings with features; copy the whole run folder again")
    return {name: dict(options) for name, options in VIEWS.items()}


def check(options: Options) -> str | None:
    """The fault of a view's options, or None."""
    return outside(options, RANGES) or corruption_fault(options, CORRUPTIONS)


class Layout(NamedTuple):
    """Where the features are in x, and how cells become scores; F features, of which N are numbers and C categories."""

    width: int  # D
    numbers: Tensor  # (N,) feature
    knots: Tensor  # (N,K) ascending
    scores: Tensor  # (N,K)
    last: Tensor  # (N,1) index of the last knot
    score_at: Tensor  # (N,) place in x
    categories: Tensor  # (C,) feature
    code_at: Tensor  # (C,) place of code 0
    missing_at: Tensor  # (F,)
    missing: Tensor  # (F,) bool, whether training rows have missing values
    marginal: Tensor  # (F,Q) cells
    slots: Tensor  # (F,P) places of the values, D where a feature has fewer
    edges: Tensor  # (F,T-1) inner edges of a number's bins, infinite where it has fewer
    unseen_below: Tensor  # (F,) cells below are unseen categories
    token_at: Tensor  # (F,) the first of its ids in the vocabulary of feature values


def layout_of(prep: Preprocessor, device: torch.device) -> Layout:
    edges = tuple(tuple(one["edges"]) for one in prep.settings["features"])
    return _layout(prep.files[FILE], prep.settings["scale"], edges, str(device))


@lru_cache(16)
def _layout(content: bytes, scale: str, edges: tuple[tuple[float, ...], ...], device: str) -> Layout:
    features = features_of_file(content)
    numbers = [at for at, feature in enumerate(features) if feature.values is None]
    categories = [at for at, feature in enumerate(features) if feature.values is not None]
    sizes = [1 if one.values is None else one.buckets or len(one.values) + (one.other >= 0) for one in features]
    starts = np.concatenate([[0], np.cumsum([size + 1 for size in sizes])])
    known = [knots_of(features[at], scale)[:2] for at in numbers]
    most = max([2, *(len(knots) for knots, _ in known)])
    knots, scores, last = np.full((len(numbers), most), np.inf), np.zeros((len(numbers), most)), np.ones((len(numbers), 1), int)
    for row, (k, s) in enumerate(known):
        k, s = (k, s) if len(k) > 1 else (np.append(k, k + 1), np.repeat(s, 2))
        knots[row, : len(k)], scores[row, : len(s)], last[row] = k, s, len(k) - 1
    slots = np.full((len(features), max(sizes)), starts[-1])
    inner = np.full((len(features), max(1, *(len(one) - 2 for one in edges))), np.inf)
    vocabulary = []
    for at, size in enumerate(sizes):
        slots[at, :size] = starts[at] + np.arange(size)
        inner[at, : max(len(edges[at]) - 2, 0)] = edges[at][1:-1]
        vocabulary.append(max(len(edges[at]) - 1, 1) if features[at].values is None else size)
    made = lambda values, kind=torch.long: torch.as_tensor(np.array(values), dtype=kind, device=device)  # noqa: E731
    return Layout(
        int(starts[-1]),
        made(numbers),
        made(knots, torch.float32),
        made(scores, torch.float32),
        made(last),
        made([starts[at] for at in numbers]),
        made(categories),
        made([starts[at] for at in categories]),
        made([starts[at] + size for at, size in enumerate(sizes)]),
        made([feature.missing for feature in features], torch.bool),
        made(np.stack([feature.marginal for feature in features]), torch.float32),
        made(slots),
        made(inner, torch.float32),
        made([-np.inf if feature.values is None else 0 for feature in features], torch.float32),
        made(np.concatenate([[0], np.cumsum(vocabulary)[:-1]])),
    )


def packed(cells: Tensor, layout: Layout, hidden: Tensor | None = None) -> Tensor:
    """cells (B,F), hidden (B,F) bool -> x (B,D)."""
    known = cells.isfinite() if hidden is None else cells.isfinite() & ~hidden
    x, cells_or_0 = cells.new_zeros(len(cells), layout.width), torch.where(known, cells, 0.0)
    if len(layout.numbers):
        scores = scores_of(cells_or_0.index_select(1, layout.numbers), layout)
        x.index_copy_(1, layout.score_at, torch.where(known.index_select(1, layout.numbers), scores, 0.0))
    if len(layout.categories):
        codes = cells_or_0.index_select(1, layout.categories)
        here = known.index_select(1, layout.categories) & (codes >= 0)
        x.scatter_(1, codes.clamp(min=0).long() + layout.code_at, here.float())
    missing = cells.isnan() & layout.missing
    return x.index_copy_(1, layout.missing_at, (missing if hidden is None else missing | hidden).float())


def scores_of(values: Tensor, layout: Layout) -> Tensor:
    """Standardised numbers (B,N), finite -> scores (B,N), linear between the knots and constant beyond them."""
    v = values.T.contiguous()
    above = torch.searchsorted(layout.knots, v).clamp(min=1).minimum(layout.last)
    low, high = layout.knots.gather(1, above - 1), layout.knots.gather(1, above)
    share = ((v - low) / (high - low)).clamp(0, 1)
    below = layout.scores.gather(1, above - 1)
    return (below + share * (layout.scores.gather(1, above) - below)).T


def redrawn(cells: Tensor, chosen: Tensor, rng: CounterRNG, layout: Layout) -> Tensor:
    """cells (B,F) with the chosen ones (B,F) bool replaced by draws from the features' distributions in the training rows."""
    count = layout.marginal.shape[1]
    at = (rng.uniform(cells.shape[1]) * count).long().clamp(max=count - 1)
    return torch.where(chosen, layout.marginal.gather(1, at.T).T, cells)


# --------------------------------------------------------------------------------------------------------- the views


def whole(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Every feature."""
    return View(packed(batch["cells"].float(), layout_of(prep, batch["cells"].device)))


def corrupted_rows(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A share `level` of each row's features, rounded down but one at least, is redrawn or hidden: meta["changed"] (B,F)."""
    x, _, _, changed = _corrupted(batch, rng, options, prep)
    return View(x, meta={"changed": changed})


def _corrupted(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> tuple[Tensor, Tensor, Layout, Tensor]:
    """-> x (B,D), the cells (B,F) with NaN where hidden, the layout, and which features were redrawn or hidden (B,F) bool."""
    cells = batch["cells"].float()
    layout = layout_of(prep, cells.device)
    count = max(int(options["level"] * cells.shape[1] + 1e-9), int(options["level"] > 0))
    if not count:
        return packed(cells, layout), cells, layout, torch.zeros_like(cells, dtype=torch.bool)
    chosen = rng.order(cells.shape[1]) < count
    if options["corruption"] == "missing":
        return packed(cells, layout, chosen), cells.masked_fill(chosen, torch.nan), layout, chosen
    cells = redrawn(cells, chosen, rng, layout)
    return packed(cells, layout), cells, layout, chosen


def corrupted(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Each feature is redrawn or hidden with probability `level`; the target is the clean row (B,D), `mask` (B,F) says which features
    changed: a value that is drawn again has not. The pretext generator of VIME (Yoon, Zhang, Jordon, van der Schaar, NeurIPS 2020)."""
    cells = batch["cells"].float()
    layout = layout_of(prep, cells.device)
    chosen = rng.uniform(cells.shape[1]) < options["level"]
    clean = packed(cells, layout)
    if options["corruption"] == "missing":
        return View(packed(cells, layout, chosen), mask=chosen & ~cells.isnan(), target=clean)
    changed = redrawn(cells, chosen, rng, layout)
    same = torch.isclose(changed, cells, rtol=1e-5, atol=1e-6, equal_nan=True)  # distributions are kept to seven digits
    changed = torch.where(same, cells, changed)
    return View(packed(changed, layout), mask=~same, target=clean)


def masked(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Masks a share `rate` of each row's features; the target is every feature's values (B,F,P), target_valid is False where a feature
    has fewer than P values, or is missing. meta["few"]: a token is too small to be normalised by itself."""
    x, cells, layout, changed = _corrupted(batch, rng, options, prep)
    count = cells.shape[1]
    mask = random_mask(rng.order(count), options["rate"])
    target = torch.cat([x, x.new_zeros(len(x), 1)], 1)[:, layout.slots]
    valid = (layout.slots < layout.width) & ~cells.isnan().unsqueeze(2)
    few = torch.ones(len(x), dtype=torch.bool, device=x.device)
    return View(x, mask=mask, target=target, target_valid=valid, meta={"few": few, "changed": changed})


def blocks(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Masks a share of the features, drawn from `rates`, in a share `masking` of the rows: see `token_masks.masked_runs`."""
    return _of_tokens(masked_runs, batch, rng, options, prep)


def multiblock(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """Unmasked features, and sets of features to predict: see `token_masks.target_runs`."""
    return _of_tokens(target_runs, batch, rng, options, prep)


def _of_tokens(make: Any, batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    x, cells, _, _ = _corrupted(batch, rng, options, prep)
    return replace(make(View(x, torch.ones_like(cells, dtype=torch.bool)), rng, options), valid=None)


def masked_tokens(batch: Batch, rng: CounterRNG, options: Options, prep: Preprocessor) -> View:
    """A share `rate` of the features to predict, at least one: of these 80% are hidden, 10% redrawn and 10% left as they are (Devlin et
    al. 2019, section 3.1). target (B,F): ids in a vocabulary of all features' categories and bins of numbers; meta["places"] (B,M)."""
    cells = batch["cells"].float()
    layout = layout_of(prep, cells.device)
    count = cells.shape[1]
    known = cells.isfinite() & (cells >= layout.unseen_below)
    most = max(1, round(options["rate"] * count))
    noise = torch.where(known, rng.uniform(count), -1.0)
    mask = ((-noise).argsort(dim=1, stable=True).argsort(dim=1) < most) & known
    fate = rng.uniform(count)
    shown = redrawn(cells, mask & (fate >= 0.8) & (fate < 0.9), rng, layout)
    x = packed(shown, layout, mask & (fate < 0.8))
    return View(x, mask=mask, target=ids_of(cells, layout), meta={"places": first(mask, most)})


def ids_of(cells: Tensor, layout: Layout) -> Tensor:
    """cells (B,F) -> (B,F) int64: a feature's first id plus the category's code, or the number's bin."""
    bins = cells.new_zeros(cells.shape, dtype=torch.long)
    if len(layout.numbers):
        scores = scores_of(cells.index_select(1, layout.numbers).nan_to_num(0.0), layout)
        bins[:, layout.numbers] = torch.searchsorted(layout.edges[layout.numbers], scores.T.contiguous(), right=True).T
    if len(layout.categories):
        bins[:, layout.categories] = cells[:, layout.categories].nan_to_num().long().clamp(min=0)
    return bins + layout.token_at
