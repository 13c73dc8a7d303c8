"""Verification: equal error rates that are known, ties, pairs that are drawn once each, and listings of pairs."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import untaught as ut
from untaught.core import UserError
from untaught.evaluation.verification import Curve, cosines, draw_trials, read_trials, verification_rows


def eer(same: list[float], different: list[float]) -> float:
    scores = np.array(same + different)
    return Curve(scores, np.arange(len(scores)) < len(same)).eer(np.ones(len(scores)))


@pytest.mark.parametrize(
    ("same", "different", "rate"),
    [
        ([0.9, 0.8, 0.7], [0.1, 0.2], 0.0),
        ([0.1, 0.2], [0.9, 0.8, 0.7], 1.0),
        ([0.5, 0.5, 0.5], [0.5, 0.5], 0.5),  # all pass or none: halfway between is chance
        ([0.9, 0.8, 0.7, 0.3], [0.6, 0.2, 0.1, 0.0], 0.25),
        ([0.9, 0.5], [0.5, 0.1], 0.25),  # a tie is shared: half of the 0.5s pass
        ([0.9, 0.8, 0.4, 0.3], [0.7, 0.1], 0.5),
    ],
)
def test_equal_error_rates_that_are_known(same: list[float], different: list[float], rate: float) -> None:
    assert eer(same, different) == pytest.approx(rate)


def test_normal_scores_have_the_rate_of_their_distance() -> None:
    random = np.random.default_rng(0)
    assert eer((random.normal(size=20_000) + 2).tolist(), random.normal(size=20_000).tolist()) == pytest.approx(0.1587, abs=0.005)


def test_the_cost_by_loops() -> None:
    random = np.random.default_rng(1)
    same, different = np.round(random.normal(1.5, 1, 40), 1), np.round(random.normal(0, 1, 60), 1)
    scores = np.concatenate([same, different])
    costs = [
        0.05 * (same < threshold).mean() + 0.95 * (different >= threshold).mean() for threshold in [-np.inf, *np.unique(scores), np.inf]
    ]
    curve = Curve(scores, np.arange(100) < 40)
    assert curve.cost(np.ones(100)) == pytest.approx(min(costs) / 0.05)
    assert curve.cost(np.ones(100)) <= 1, "to refuse all costs 1"
    twice = np.where(np.arange(100) % 2, 2, 0)
    again = Curve(np.repeat(scores, twice), np.repeat(np.arange(100) < 40, twice))
    assert curve.eer(twice) == pytest.approx(again.eer(np.ones(100))), "a weight of 2 is the pair twice"


def test_pairs_are_drawn_once_each_and_by_seed() -> None:
    labels = np.array([0, 1, 2, 0, 1, 0, 3, 3, 0])
    found = draw_trials(labels, seed=0, most=1000)
    every = set(combinations(range(9), 2))
    assert {tuple(sorted(pair)) for pair in found.pairs.tolist()} == every
    assert len(found.pairs) == len(every)
    assert (found.same == (labels[found.pairs[:, 0]] == labels[found.pairs[:, 1]])).all()
    many = np.random.default_rng(0).integers(0, 30, 2000)
    one, again, other = (draw_trials(many, seed, most=500) for seed in (0, 0, 1))
    assert (one.pairs == again.pairs).all()
    assert (one.pairs != other.pairs).any()
    assert one.same.tolist() == [True] * 500 + [False] * 500
    assert len({tuple(sorted(pair)) for pair in one.pairs.tolist()}) == 1000
    assert (one.same == (many[one.pairs[:, 0]] == many[one.pairs[:, 1]])).all()
    for alike, what in (([5, 5, 5], "two labels"), ([1, 2, 3], "one label")):
        with pytest.raises(UserError, match=f"have none of {what}"):
            draw_trials(np.array(alike), 0)


def test_the_interval_is_over_labels() -> None:
    random = np.random.default_rng(0)
    few, many = (np.repeat(np.arange(count), 400 // count) for count in (4, 40))
    widths = []
    for labels in (few, many):
        centres = random.normal(size=(labels.max() + 1, 2))
        vectors = centres[labels] + 0.5 * random.normal(size=(400, 2))
        trials = draw_trials(labels, 0, most=3000)
        rows = verification_rows(cosines(vectors, trials.pairs, np.zeros(2), np.ones(2)), trials, labels)
        assert [row["metric"] for row in rows] == ["eer", "min_dcf"]
        assert rows[0]["low"] <= rows[0]["mean"] <= rows[0]["high"]
        widths.append(rows[0]["high"] - rows[0]["low"])
    assert widths[0] > widths[1], "4 speakers say less than 40"


def test_a_listing_of_pairs(tmp_path: Path) -> None:
    names = ["a/1.wav", "a/2.wav", "b/1.wav", "b/3.wav"]
    place = tmp_path / "trials.csv"
    place.write_text("one,other,same\na/1.wav,2.wav,1\nb/1.wav,3.wav,0\n")
    found = read_trials(place, names)
    assert found.pairs.tolist() == [[0, 1], [2, 3]]
    assert found.same.tolist() == [True, False]
    place.write_text("1 a/1.wav a/2.wav\n0 a/1.wav b/1.wav\n")  # as VoxCeleb has it
    assert read_trials(place, names).pairs.tolist() == [[0, 1], [0, 2]]
    for text, fault in (
        ("a/1.wav,1.wav,1\n", "1.wav names several samples"),
        ("a/1.wav,c.wav,1\n", "pair 1: c.wav names no sample of the data; give paths as the data have them, as a/1.wav"),
        ("a/1.wav,a/2.wav,1\n", "has 1 pairs of one label among 1; both kinds are needed"),
        ("a/1.wav,a/2.wav,1\na/1.wav,b/3.wav,maybe\n", r"pair 2: the answer is 'maybe'; 1 \(same\) and 0"),
        ("a/1.wav\n", "its first line is not two files and an answer"),
    ):
        place.write_text(text)
        with pytest.raises(UserError, match=fault):
            read_trials(place, names)
    with pytest.raises(UserError, match="can't be read"):
        read_trials(tmp_path / "none.csv", names)


def test_a_run_is_measured_beside_its_baselines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    speaker = np.repeat(np.arange(6), 20)
    time = np.arange(80)
    waves = np.sin(0.2 * (1 + speaker)[:, None] * time + random.uniform(0, 6, (120, 1))) + 0.3 * random.normal(size=(120, 80))
    options: dict[str, Any] = {"encoder__width": 8, "precision": "float32"}
    run = ut.pretrain(waves.astype(np.float32), "simclr", out=tmp_path / "run", modality="series", steps=2, batch_size=16, **options)
    rows = ut.evaluate(run, (waves.astype(np.float32), speaker), modality="series", task="verify", pairs=200)
    assert {row["features"] for row in rows} == {"encoder", "random_init", "raw", "MiniRocket"}
    assert {(row["probe"], row["metric"]) for row in rows} == {("verification", "eer"), ("verification", "min_dcf")}
    again = ut.evaluate(run, (waves.astype(np.float32), speaker), modality="series", task="verify", pairs=200)
    assert rows == again
    with pytest.raises(ut.UserError, match="--task verify needs labels, or trials=FILE: the data has no labels"):
        ut.evaluate(run, waves.astype(np.float32), modality="series", task="verify")
