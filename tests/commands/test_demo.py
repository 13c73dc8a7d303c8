"""The demo's last words say what was measured, whatever that was."""

from __future__ import annotations

import numpy as np
import pytest

from untaught.commands.demo import DEMOS, demo, next_item, sentences
from untaught.core import UserError
from untaught.data.sources import open_source
from untaught.data.waves import waves
from untaught.modalities.series import SERIES

ROWS = [
    {
        "features": features,
        "probe": "linear",
        "labels": labels,
        "metric": "accuracy",
        "mean": mean,
        "low": 0.7,
        "high": 0.849,
        "draws": 10,
    }
    for features, mean in (("encoder", 0.781), ("random_init", 0.642), ("raw", 0.609))
    for labels, mean in (("all", 0.99), ("1/class", mean))
]


def test_three_sentences_with_the_measured_numbers() -> None:
    said = sentences(ROWS)
    assert len(said) == 3
    assert "recognises 78% of unseen digits" in said[1]
    assert "95% interval 70 to 85%" in said[1]
    assert "raw pixels reach 61% and the same network at random init 64%" in said[2]


def test_sounds_are_not_called_digits() -> None:
    said = " ".join(sentences(ROWS, DEMOS["audio"]))
    assert "recognises 78% of the pitches of unseen sounds" in said
    assert "digit" not in said
    assert "pixel" not in said


def test_next_items_are_told_beside_the_classical_recommenders_and_called_synthetic() -> None:
    names = {"encoder": 0.8, "ease": 0.65, "item_knn": 0.47, "popularity": 0.08, "random_init": 0.03}
    (said,) = next_item([{"features": name, "probe": "next_item", "metric": "hr@10", "mean": mean} for name, mean in names.items()])
    for part in ("for 80% of the visitors", "EASE 65%", "item-kNN 47%", "popularity 8%", "random init 3%"):
        assert part in said
    assert next_item(ROWS) == []
    assert "synthetic visitors" in " ".join(sentences(ROWS, DEMOS["events"]))


def test_rows_are_not_called_digits() -> None:
    said = " ".join(sentences(ROWS, DEMOS["tables"]))
    assert "recognises 78% of unseen rows" in said
    assert "the standardised columns reach 61%" in said
    assert "what pretraining learned" in said
    as_good = [row | {"mean": 0.77} if row["features"] == "raw" else row for row in ROWS]
    assert "here the raw data are as good: start with them" in " ".join(sentences(as_good, DEMOS["tables"]))


def test_a_classical_method_is_told_beside_series() -> None:
    rocket = [{**ROWS[1], "features": "MiniRocket", "mean": 0.9}]
    said = " ".join(sentences(ROWS + rocket, DEMOS["series"]))
    assert "recognises 78% of the shapes of unseen waves" in said
    assert "what pretraining learned; MiniRocket, a classical method, reaches 90%." in said
    assert "MiniRocket" not in " ".join(sentences(ROWS))


def test_the_waves_are_of_six_shapes_that_no_single_step_tells() -> None:
    series, shapes = waves()
    assert series.shape == (900, 2, 128)
    assert np.bincount(shapes).tolist() == [150] * 6
    assert np.array_equal(series, waves()[0])
    source = open_source("builtin:waves", SERIES)
    assert source.classes == ("sine", "square", "triangle", "sawtooth", "pulse", "double")
    found = series.reshape(900, -1)
    nearest = np.array([np.square(found[300:] - row).sum(1).argmin() for row in found[:300]])
    assert (shapes[300:][nearest] == shapes[:300]).mean() < 0.7


def test_a_modality_without_a_demo_is_refused() -> None:
    with pytest.raises(UserError, match="there is no demo of smell; allowed: image, audio, events, series, tables"):
        demo("smell", None)
