"""Rows as pictures with a line per column, and answers to pretext tasks as columns of a table."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor

from untaught.core import Options, Preprocessor, Pretext, View
from untaught.modalities.table.columns import Feature, features_of
from untaught.modalities.table.views import Layout, layout_of

LINES, LINE = 24, 13  # lines of a picture at most, their height in pixels
WIDE, VALUE, LEAST = 210, 110, 96  # pixels: width, where the values begin, least height
CHANGED, HIDDEN, WHITE = (255, 214, 153), (205, 205, 205), (255, 255, 255)
FIRST_PART = "day"  # of a date, the part that is shown; the others are its place in the year, the week and the day


def render(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """A view -> (B,H,210,3) uint8: a column and its value on each line, at most 24. Orange: redrawn, or to be predicted; grey: hidden."""
    x, layout = view.x.detach().float().cpu(), layout_of(prep, torch.device("cpu"))
    none = torch.zeros(len(x), len(layout.missing), dtype=torch.bool)
    own = None if view.mask is None else view.mask.cpu()
    tokens = own is not None and (view.target is None or view.target.ndim == 3)  # masked in the encoder: x has them still
    changed = (view.meta or {}).get("changed", none).cpu()
    if own is not None and not tokens:
        changed = changed | own
    missing = x[:, layout.missing_at] > 0.5
    hidden = (own if tokens and own is not None else none) | (missing & (changed | ~layout.missing))
    return _drawn(_values(x, prep), missing, changed & ~hidden, hidden, prep)


def _drawn(values: list[list[str]], missing: Tensor, changed: Tensor, hidden: Tensor, prep: Preprocessor) -> np.ndarray:
    """values (B,F) text, and which of them (B,F) bool are missing, changed and hidden -> (B,H,W,3)."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(10)
    places = _shown(features_of(prep))
    lines, more = places[:LINES], len(places) - LINES
    high = max(LEAST, LINE * (len(lines) + (more > 0)) + 2)
    pages = []
    for row, text in enumerate(values):
        page = Image.new("RGB", (WIDE, high), WHITE)
        pen = ImageDraw.Draw(page)
        for number, (place, name) in enumerate(lines):
            top = LINE * number + 1
            if hidden[row, place] or changed[row, place]:
                pen.rectangle((VALUE - 3, top, WIDE, top + LINE - 2), fill=HIDDEN if hidden[row, place] else CHANGED)
            shown = "" if hidden[row, place] else "missing" if missing[row, place] else text[place][:16]
            pen.text((2, top), name[:18], fill=(90, 90, 90), font=font)
            pen.text((VALUE, top), shown, fill=(150, 150, 150) if shown == "missing" else "black", font=font)
        if more > 0:
            pen.text((2, LINE * len(lines) + 1), f"and {more} more columns", fill=(90, 90, 90), font=font)
        pages.append(np.asarray(page))
    return np.stack(pages)


def _shown(features: tuple[Feature, ...]) -> list[tuple[int, str]]:
    """Place and column of the features that stand for their column."""
    first: dict[str, tuple[int, str]] = {}
    for place, one in enumerate(features):
        if one.column not in first or one.part == FIRST_PART:
            first[one.column] = place, one.column
    return list(first.values())


def _values(x: Tensor, prep: Preprocessor) -> list[list[str]]:
    """x (B,D) -> the value of every feature as text (B,F)."""
    columns = [[_text(one) for one in column] for column in values_of_features(x, prep)]
    return [list(row) for row in zip(*columns, strict=True)]


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


def values_of_features(x: Tensor, prep: Preprocessor) -> list[list[Any]]:
    """x (B,D), or a reconstruction of it -> for each feature its values (B,): numbers, to a ten-thousandth of their spread, dates in ISO
    form, names of categories (the likeliest one; None if none is above 0, as of an unseen category)."""
    layout, found = layout_of(prep, torch.device("cpu")), []
    number_of = {int(feature): place for place, feature in enumerate(layout.numbers)}
    for at, feature in enumerate(features_of(prep)):
        own = x[:, layout.slots[at][layout.slots[at] < layout.width]].numpy()
        found.append(_number_values(own[:, 0], feature, layout, number_of[at]) if at in number_of else _category_values(own, feature))
    return found


def _number_values(score: np.ndarray, feature: Feature, layout: Layout, row: int) -> list[Any]:
    count = int(layout.last[row]) + 1
    standard = np.interp(score, layout.scores[row, :count].numpy(), layout.knots[row, :count].numpy())
    unit = 10.0 ** (math.floor(math.log10(feature.std)) - 4)
    values = (np.round((standard.astype(np.float64) * feature.std + feature.mean) / unit) * unit).tolist()
    if feature.part != FIRST_PART:
        return values
    return [(datetime(1970, 1, 1) + timedelta(days=math.floor(value + 0.01))).date().isoformat() for value in values]


def _category_values(shares: np.ndarray, feature: Feature) -> list[Any]:
    names = [f"hash {code}" for code in range(feature.buckets)] or [*(feature.values or {}), *["(other)"] * (feature.other >= 0)]
    return [names[code] if share > 0 else None for code, share in zip(shares.argmax(1).tolist(), shares.max(1).tolist(), strict=True)]


# --------------------------------------------------------------------------------------------------------------- answers


def render_row(view: View, options: Options, prep: Preprocessor) -> np.ndarray:
    """The row that the target describes, a row (B,D) or its features (B,F,P)."""
    x, layout = _row(view, view.target, prep), layout_of(prep, torch.device("cpu"))
    none = torch.zeros(len(x), len(layout.missing), dtype=torch.bool)
    changed = none if view.mask is None else view.mask.cpu()
    return _drawn(_values(x, prep), none, changed, none, prep)


def measure(view: View, answer: Tensor, options: Options, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> rmse of the known values (of masked features, where features are masked), as normalised; and COLUMN.restored, the answer in the
    column's own units, also where the value is missing."""
    layout = layout_of(prep, torch.device("cpu"))
    restored, given = _row(view, answer, prep), _row(view, view.target, prep)
    known = given[:, layout.missing_at] <= 0.5
    if view.target is not None and view.target.ndim == 3 and view.mask is not None:
        known = known & view.mask.cpu()
    counted = torch.zeros(len(given), layout.width + 1)
    counted.scatter_(1, layout.slots.flatten().expand(len(given), -1), known.repeat_interleave(layout.slots.shape[1], 1).float())
    counted = counted[:, : layout.width]
    squares = ((restored - given).square() * counted).sum(1) / counted.sum(1).clamp(min=1)
    found: dict[str, np.ndarray] = {"rmse": squares.sqrt().numpy()}
    values = values_of_features(restored, prep)
    for place, name in _shown(features_of(prep)):
        found[f"{name}.restored"] = np.array(values[place], object)
    return found


def _row(view: View, target: Tensor | None, prep: Preprocessor) -> Tensor:
    """The row (B,D) of a target in any form; x itself without one."""
    x = view.x.detach().float().cpu()
    if target is None:
        return x
    target = target.detach().float().cpu()
    if target.ndim == 2:
        return target
    layout = layout_of(prep, torch.device("cpu"))
    wide = torch.cat([x, x.new_zeros(len(x), 1)], 1)
    wide.scatter_(1, layout.slots.flatten().expand(len(x), -1), target.flatten(1))
    return wide[:, : layout.width]


ROWS = Pretext(render_row, measure)
PRETEXTS: dict[str, Pretext] = dict.fromkeys(("whole", "corrupted", "masked"), ROWS)
