"""Curves as static inline SVG; a script adds the values under the pointer."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

WIDTH, HEIGHT = 360, 200  # of the view box: unscaled on a phone
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 10, 26
LETTER = 6.5  # approximate width of a character
MOST = 240  # points per curve; more are averaged


class Point(NamedTuple):
    x: float
    y: float
    low: float | None = None
    high: float | None = None


class Curve(NamedTuple):
    name: str
    style: str  # CSS class for the colour
    points: Sequence[Point]


def number(value: float, digits: int = 3) -> str:
    """Human-readable: 0.00125, 3.2, 12,500, 1.2e-07."""
    size = abs(value)
    if not math.isfinite(value):
        return str(value)
    if size and (size < 1e-3 or size >= 1e6):
        return f"{value:.2g}"
    return f"{value:,.0f}" if size >= 1000 or value == int(value) else f"{value:.{digits}g}"


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def tick_labels(values: Sequence[float], as_percent: bool = False) -> list[str]:
    """Labels of an axis: the shortest that are distinct."""
    if as_percent:
        return [percent(value).replace(".0%", "%") for value in values]
    written = ([number(value, digits) for value in values] for digits in range(3, 9))
    return next((labels for labels in written if len(set(labels)) == len(labels)), [number(value) for value in values])


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers from low to high."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= count + 0.5)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def thin(points: Sequence[tuple[float, float]]) -> list[Point]:
    """At most MOST points, each the mean of its neighbours."""
    each = -(-len(points) // MOST)
    groups = [points[i : i + each] for i in range(0, len(points), each)] if points else []
    return [Point(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def chart(label: str, curves: Sequence[Curve], x_name: str, *, as_percent: bool = False, x_labels: Sequence[str] | None = None) -> Markup:
    """One plot of curves over x, with intervals as whiskers. `x_labels` names the positions 0, 1, 2 ... of a categorical axis."""
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return Markup("")
    text_of = percent if as_percent else number
    every = [point for curve in curves for point in curve.points]
    values = [v for p in every for v in (p.y, p.low, p.high) if v is not None]
    low, high = min(values), max(values)
    flat, alone = low == high, len({point.x for point in every}) == 1
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - room, high + room
    if as_percent:
        low, high = max(low, 0.0), min(high, 1.0)
    left, right = min(p.x for p in every), max(p.x for p in every)
    if x_labels:
        left, right = -0.3, len(x_labels) - 0.7
    elif left == right:
        left, right = left - 1, right + 1
    across = lambda x: LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)  # noqa: E731
    up = lambda y: HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)  # noqa: E731

    parts = [Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, label)]
    heights = [values[0]] if flat else ticks(low, high)
    for y, text in zip(heights, tick_labels(heights, as_percent), strict=True):
        line = '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/><text class="tick end" x="{}" y="{:.1f}">{}</text>'
        parts.append(Markup(line).format(LEFT, WIDTH - RIGHT, up(y), up(y), LEFT - 6, up(y) + 4, text))
    steps = [every[0].x] if alone else ticks(left, right)
    marks = list(enumerate(x_labels)) if x_labels else list(zip(steps, tick_labels(steps), strict=True))
    crowded = bool(x_labels) and LETTER * max(map(len, x_labels)) > across(1) - across(0)
    for i, (x, text) in enumerate(marks):
        down = HEIGHT - (8 if not crowded else 3 if i % 2 else 14)  # alternating between two lines
        middle = min(across(x), WIDTH - LETTER * len(text) / 2)  # within the picture
        parts.append(Markup('<text class="tick mid" x="{:.1f}" y="{}">{}</text>').format(middle, down, text))
    for curve in curves:
        path = "M" + "L".join(f"{across(p.x):.1f} {up(p.y):.1f}" for p in curve.points)
        parts.append(Markup('<path class="line {}" d="{}"/>').format(curve.style, path))
        for p in curve.points:
            if p.low is not None and p.high is not None:
                whisker = '<line class="whisker {}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>'
                parts.append(Markup(whisker).format(curve.style, across(p.x), across(p.x), up(p.low), up(p.high)))
            if len(curve.points) <= 12:
                parts.append(Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(curve.style, across(p.x), up(p.y)))
    places = sorted({p.x for p in every})
    labels = [f"{x_name} {number(x)}" if not x_labels else x_labels[int(x)] for x in places]
    at = {x: [f"{c.name} {text_of(p.y)}" for c in curves for p in c.points if p.x == x] for x in places}
    spots = [[round(across(x), 1), "; ".join([text, *at[x]])] for x, text in zip(places, labels, strict=True)]
    cursor = '<line class="cursor" y1="{}" y2="{}"/><g class="spots" data-spots="{}"/></svg>'
    parts.append(Markup(cursor).format(TOP, HEIGHT - BOTTOM, json.dumps(spots)))
    return Markup("").join(parts)
