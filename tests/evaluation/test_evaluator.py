"""Scores on planted data: of which rows, with which labels, chosen by what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import CLASSES, KEPT, RIGHT, SIDE, TRAIN, Pixels, dataset, flat, planted
from torch import Tensor

import untaught as ut
from untaught.core import Features, View
from untaught.evaluation import evaluator as score
from untaught.evaluation import layers, low_label
from untaught.evaluation.evaluator import Scorer, merge_rows, read_rows
from untaught.pipeline.dataset import Dataset
from untaught.pipeline.view_pipeline import used_view

pytestmark = pytest.mark.usefixtures("bare_runs")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNTAUGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def known() -> Dataset:
    return dataset(planted())


def scorer(found: Dataset, seed: int = 0) -> Scorer:
    return Scorer(found, "whole", torch.device("cpu"), False, seed)


def accuracies(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    return {(row["probe"], row["labels"]): row["mean"] for row in rows if row["metric"] == "accuracy"}


def test_neighbours_are_asked_of_the_test_part_in_the_training_part(known: Dataset) -> None:
    made = scorer(known)
    assert made.held_out == "test"
    assert made.bank.tolist() == list(KEPT["train"])
    assert made.queries.tolist() == list(KEPT["test"])
    for encoder in (Pixels(), None):
        assert accuracies(made.knn("encoder", encoder)) == {("knn20", "all"): RIGHT, ("knn200", "all"): RIGHT}


def test_every_probe_of_the_battery_is_of_the_test_part(known: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_label, "SETTINGS", ("10/class",))
    for encoder in (Pixels(), None):
        found = accuracies(scorer(known).battery("encoder", encoder))
        assert {key: found[key] for key in (("knn20", "all"), ("knn200", "all"), ("linear", "all"))} == {
            ("knn20", "all"): RIGHT,
            ("knn200", "all"): RIGHT,
            ("linear", "all"): RIGHT,
        }
        few = found["linear", "10/class"]  # a fifth of the originals is known; of the rest a third is right by chance
        assert 0.15 < few < 0.45


def test_both_parts_are_shown_in_the_encoders_own_view(known: Dataset) -> None:
    own = replace(known.prep, statistics={"mean": [0.25], "std": [0.5]})  # black is -0.5, white 1.5
    encoder = Pixels()
    scorer(known).battery("against:other", encoder, (used_view(own, "whole"), None))
    assert [len(view) for view in encoder.shown] == [60, 150]
    assert {round(value, 4) for value in torch.cat(encoder.shown).unique().tolist()} == {-0.5, 1.5}


def test_the_val_part_is_asked_where_there_is_no_test_part() -> None:
    frame = planted()
    made = scorer(dataset(frame.drop(index=KEPT["test"])))
    assert made.held_out == "val"
    assert accuracies(made.knn("raw", None))["knn20", "all"] == 1.0


def test_on_the_way_only_the_training_part_is_looked_at_and_no_sample_is_its_own_neighbour(known: Dataset) -> None:
    for seed in range(3):
        made, encoder = scorer(known, seed), Pixels()
        bank, queries = made.watched
        assert sorted([*bank, *queries]) == list(KEPT["train"])
        assert len(queries) == TRAIN // 6
        found = made.watch(encoder)  # nothing is known of one training image from the others; of the test part, 30%
        assert set(found) == {"knn20", "knn200"}
        assert found["knn20"] != RIGHT
        assert max(found.values()) < 0.7
        assert sum(map(len, encoder.shown)) == TRAIN
    assert scorer(known, 1).watched[1].tolist() != scorer(known, 2).watched[1].tolist()


def test_watched_samples_are_told_where_the_training_part_tells_them() -> None:
    """Each training image five times over, with one label; the test part shows the same images under other labels."""
    frame = planted()
    train = frame.iloc[:60]
    again = np.repeat(np.arange(60), 5)
    frame = train.iloc[again].reset_index(drop=True)
    test = train.copy()
    test["split"], test["label"] = "test", test["label"].map({"a": "b", "b": "c", "c": "a"})
    import pandas as pd

    made = scorer(dataset(pd.concat([frame, test], ignore_index=True)))
    assert made.watch(Pixels())["knn20"] == 1.0
    assert accuracies(made.knn("raw", None))["knn20", "all"] == 0.0


def test_samples_without_a_label_are_in_no_part_and_the_first_class_is() -> None:
    frame = planted()
    frame.loc[[0, 1, 2, 210, 211], "label"] = None
    made = scorer(dataset(frame))
    assert made.bank.tolist() == list(range(3, 150))
    assert made.queries.tolist() == list(range(212, 270))
    assert set(made.labels(made.bank)) == set(range(CLASSES))


def test_of_many_rows_some_are_drawn_once_each(known: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "BANK", 140)
    monkeypatch.setattr(score, "QUERIES", 50)
    monkeypatch.setattr(score, "WATCHED", 90)
    made = scorer(known)
    for rows, many, among in ((made.bank, 140, "train"), (made.queries, 50, "test"), (np.sort(np.concatenate(made.watched)), 90, "train")):
        assert len(np.unique(rows)) == len(rows) == many
        assert set(rows) <= set(KEPT[among])
        assert (np.diff(rows) > 0).all()
    assert made.bank.tolist() != scorer(known, 1).bank.tolist()


class TwoLayers(Pixels):
    """A layer that is always the same, and the pixels."""

    layered = True

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        flat = view.x.flatten(1)
        return Features(pooled=flat, layers=[torch.ones_like(flat)[:, None], flat[:, None]])


def test_layers_are_chosen_by_training_rows(known: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    choose = layers.choose

    def watched(found: np.ndarray, labels: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
        seen.append((found[:, 1].argmax(1), labels))
        return choose(found, labels, seed)

    monkeypatch.setattr(score.layers, "choose", watched)
    monkeypatch.setattr(score, "battery", lambda *_, **__: iter([]))
    scorer(known).battery("encoder", TwoLayers())
    ((bright, labels),) = seen
    frame = planted()
    train = frame[frame["split"] == "train"]
    assert bright.tolist() == [int(image.argmax()) for image in train["image"]]
    assert [("a", "b", "c")[label] for label in labels] == train["label"].tolist()


class PooledInside(Pixels):
    """A constant map, and the pixels as pooled vectors."""

    offers = frozenset({"maps"})

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return Features(pooled=view.x.flatten(1), maps=[torch.ones_like(view.x)])


class BestInside(Pixels):
    """Pixels as the first map, and pooled vectors that say nothing."""

    offers = frozenset({"maps"})

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        flat = view.x.flatten(1)
        return Features(pooled=torch.ones_like(flat[:, :1]), maps=[flat[:, :, None, None], torch.ones_like(view.x)])


def test_the_probe_on_the_best_inner_layer_is_that_on_its_features(
    known: Dataset, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[np.ndarray]] = []
    monkeypatch.setattr(score.layers, "best_inner", lambda found, labels, seed: seen.append(found) or 0)
    rows = scorer(known).battery("encoder", BestInside())
    assert "layers    encoder: layer 1 of 2 has a better probe than the pooled vectors" in capsys.readouterr().err
    frame = planted()
    train = frame[frame["split"] == "train"]
    assert seen[0][0].argmax(1).tolist() == [int(image.argmax()) for image in train["image"]], "chosen on training rows"
    found = accuracies(rows)
    want = accuracies(scorer(known).battery("encoder", Pixels()))
    assert found["linear-inner", "all"] == want["linear", "all"] == RIGHT
    assert found["linear", "all"] != RIGHT


def test_without_a_better_layer_there_is_no_such_row(known: Dataset, capsys: pytest.CaptureFixture) -> None:
    rows = scorer(known).battery("encoder", Pixels())
    assert not [row for row in rows if row["probe"] == "linear-inner"]
    rows = scorer(known).battery("encoder", PooledInside())
    assert not [row for row in rows if row["probe"] == "linear-inner"]
    assert "the pooled vectors have a better probe than each of 1 inner layers" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- the commands whole


def test_pretraining_and_evaluating_score_the_test_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raw pixels are known to be right in 30%, and so is an encoder of the user's own that keeps them as they are."""
    monkeypatch.setattr(low_label, "SETTINGS", ())
    knobs: dict[str, Any] = {"steps": 1, "batch_size": 8, "precision": "float32", "encoder__width": 4, "size": SIDE}
    run = ut.pretrain(planted(), "simclr", label="label", split="split", out=tmp_path / "run", **knobs)
    raw = [row for row in run.scores if row["features"] == "raw"]
    assert accuracies(raw) == {("knn20", "all"): RIGHT, ("knn200", "all"): RIGHT}
    rows = ut.evaluate(flat(), planted(), label="label", split="split")
    for features in ("encoder", "raw"):
        found = accuracies([row for row in rows if row["features"] == features])
        assert [found[key] for key in (("knn20", "all"), ("knn200", "all"), ("linear", "all"))] == [RIGHT] * 3, features


def test_rows_of_other_seeds_stand_side_by_side(tmp_path: Path) -> None:
    row = {"features": "encoder", "probe": "knn20", "labels": "all", "metric": "accuracy", "data": "x"}
    merge_rows(tmp_path / "e.json", [row | {"mean": 0.1, "seed": 0}, row | {"mean": 0.2, "seed": 1}])
    merge_rows(tmp_path / "e.json", [row | {"mean": 0.3, "seed": 1}])
    assert [(found["seed"], found["mean"]) for found in read_rows(tmp_path / "e.json")] == [(0, 0.1), (1, 0.3)]
