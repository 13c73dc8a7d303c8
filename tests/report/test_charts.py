"""Ticks are round and inside; thinned curves keep their mean."""

from __future__ import annotations

import itertools
import re

import pytest

from untaught.report.charts import Curve, Point, chart, number, percent, thin, tick_labels, ticks


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.93, 0.98), (-3, 12_345), (1e-7, 3e-6), (5, 5), (0, 0)])
def test_ticks(low: float, high: float) -> None:
    found = ticks(low, high)
    assert len(found) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    if high > low:
        assert len(found) >= 2
        steps = {round((b - a) / (found[1] - found[0]), 6) for a, b in itertools.pairwise(found)}
        assert steps == {1.0}


def test_thin_keeps_ends_and_mean() -> None:
    points = [(float(i), 2.0 * i) for i in range(1000)]
    thinned = thin(points)
    assert len(thinned) <= 240
    assert sum(p.y for p in thinned) / len(thinned) == pytest.approx(999, rel=0.01)
    assert all(p.y == pytest.approx(2 * p.x) for p in thinned)
    assert thin([]) == []


def test_higher_is_further_up() -> None:
    svg = str(chart("t", [Curve("a", "c0", [Point(0, 1.0), Point(1, 3.0), Point(2, 2.0)])], "step"))
    heights = [float(y) for y in re.findall(r'class="dot c0" cx="[\d.]+" cy="([\d.]+)"', svg)]
    assert heights[1] < heights[2] < heights[0]
    assert chart("t", [Curve("a", "c0", [])], "step") == ""
    assert "step 0; a 5" in str(chart("t", [Curve("a", "c0", [Point(0, 5.0)])], "step"))


def test_names_are_no_markup() -> None:
    nasty = '"><script>alert(1)</script>'
    svg = str(chart(nasty, [Curve(nasty, "c0", [Point(0, 1.0), Point(1, 2.0)])], nasty, x_labels=[nasty, nasty]))
    assert "<script>" not in svg
    assert 'aria-label="&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;"' in svg


def test_numbers_that_are_none_are_said() -> None:
    assert [number(float(v)) for v in ("nan", "inf", "-inf")] == ["nan", "inf", "-inf"]


def test_numbers_are_short() -> None:
    assert [number(v) for v in (0.0, 3.0, 0.12345, 12345.6, 1e-7, 0.0012)] == ["0", "3", "0.123", "12,346", "1e-07", "0.0012"]
    assert [percent(v) for v in (1.0, 0.96939, 0.5)] == ["100.0%", "96.9%", "50.0%"]


def test_ticks_are_told_apart() -> None:
    assert tick_labels([0.5, 0.975, 1.0], as_percent=True) == ["50%", "97.5%", "100%"]
    assert tick_labels([-1.19, -1.185, -1.18]) == ["-1.19", "-1.185", "-1.18"]
    assert tick_labels([0.0, 0.5, 1.0]) == ["0", "0.5", "1"]


@pytest.mark.parametrize(("count", "heights"), [(4, 1), (8, 2)])
def test_labels_that_would_meet_stand_on_two_lines(count: int, heights: int) -> None:
    names = [f"{10 + i}/class" for i in range(count)]
    svg = str(chart("curve", [Curve("a", "c0", [Point(i, 0.5 + i / 100) for i in range(count)])], "labels", x_labels=names))
    found = re.findall(r'<text class="tick mid" x="([\d.]+)" y="(\d+)">(\d+/class)</text>', svg)
    assert [text for _, _, text in found] == names
    assert len({y for _, y, _ in found}) == heights
    assert all(one[1] != other[1] for one, other in itertools.pairwise(found)) == (heights == 2)


def test_an_axis_has_no_ticks_around_a_single_value() -> None:
    ticks_of = lambda svg: re.findall(r'<text class="tick \w+" [^>]*>([^<]*)</text>', str(svg))  # noqa: E731
    assert ticks_of(chart("t", [Curve("a", "c0", [Point(140, 0.25)])], "step")) == ["0.25", "140"]
    assert ticks_of(chart("t", [Curve("a", "c0", [Point(140, 1.0)])], "step", as_percent=True)) == ["100%", "140"]
    assert ticks_of(chart("t", [Curve("a", "c0", [Point(0, 5.0), Point(100, 5.0)])], "step"))[0] == "5"
    assert len(ticks_of(chart("t", [Curve("a", "c0", [Point(0, 5.0), Point(100, 6.0)])], "step"))) > 4
