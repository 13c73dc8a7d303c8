"""Leave one group out: no group is in two parts, and a leak would change the score visibly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import Pixels

import untaught as ut
from untaught.core import UserError
from untaught.data.labels import hold_out
from untaught.evaluation.evaluate import as_text
from untaught.evaluation.evaluator import Scorer, read_rows
from untaught.evaluation.left_out_groups import Groups, leave_each_out, over_groups
from untaught.modalities.image import IMAGE
from untaught.pipeline.dataset import Dataset, open_dataset
from untaught.pipeline.infer import chosen_modality

GROUPS, EACH, SIDE = 5, 18, 16


def voices() -> pd.DataFrame:
    """Images (16,16) of five speakers. Every speaker has six bright places, each with one label for all of its images there, drawn
    without regard to the place: with the speaker in the training part every label is known, without it none is."""
    random = np.random.default_rng(0)
    rows = []
    for speaker in range(GROUPS):
        for number in range(EACH):
            word = number % 6
            pixels = np.zeros(SIDE * SIDE, np.uint8)
            pixels[speaker * 6 + word] = 200 + number // 6
            rows.append({"image": pixels.reshape(SIDE, SIDE), "label": "ab"[(word + speaker) % 2], "speaker": f"s{speaker}"})
    return pd.DataFrame([rows[i] for i in random.permutation(len(rows))])


def opened(frame: pd.DataFrame, **columns: str) -> Dataset:
    found = open_dataset(frame, IMAGE, columns={"group": "speaker", **columns}, label="label", split="split" if "split" in frame else None)
    found.open(False, 0)
    return found


def scorer(dataset: Dataset) -> Scorer:
    return Scorer(dataset, "whole", torch.device("cpu"), False, 0)


def of(rows: list[dict[str, Any]], probe: str, labels: str = "all", group: str | None = None) -> dict[str, Any]:
    return next(row for row in rows if (row["probe"], row["labels"], row.get("group")) == (probe, labels, group))


def test_a_leak_of_the_group_would_change_the_score() -> None:
    judge = scorer(opened(voices()))
    rows = leave_each_out(judge, Groups.of(judge, "speaker"), "encoder", Pixels())
    mean = of(rows, "linear")
    assert mean["groups"] == GROUPS
    assert mean["mean"] < 0.7
    leaking = scorer(opened(voices().assign(speaker=[f"s{i % GROUPS}" for i in range(GROUPS * EACH)])))  # speakers in both parts
    leaked = leave_each_out(leaking, Groups.of(leaking, "speaker"), "encoder", Pixels())
    assert of(leaked, "linear")["mean"] > 0.95
    few = of(rows, "linear", "5/class")
    assert few["groups"] == GROUPS
    assert few["mean"] < 0.7


def test_every_fold_leaves_its_group_out() -> None:
    judge = scorer(opened(voices()))
    groups, seen = Groups.of(judge, "speaker"), []
    battery = judge.battery

    def watched(*given: Any, **how: Any) -> list[dict[str, Any]]:
        seen.append((judge.bank, judge.queries))
        return battery(*given, **how)

    judge.battery = watched  # type: ignore[method-assign]
    encoder = Pixels()
    leave_each_out(judge, groups, "encoder", encoder)
    store = judge.dataset.store
    assert store is not None
    assert len(seen) == GROUPS
    for bank, queries in seen:
        assert len(set(store.groups[queries])) == 1
        assert not set(store.groups[queries]) & set(store.groups[bank])
        assert len(bank) + len(queries) == GROUPS * EACH
    assert sum(map(len, encoder.shown)) == GROUPS * EACH  # encoded once


def test_mean_and_interval_are_over_groups() -> None:
    def row(mean: float, metric: str = "accuracy") -> dict[str, Any]:
        return {"features": "encoder", "probe": "linear", "labels": "all", "metric": metric, "mean": mean, "low": 0.0, "high": 1.0}

    first, *others = over_groups([[row(0.2), row(0.1, "balanced_accuracy")], [row(0.4)], [row(0.6)]], "it")
    assert first["mean"] == pytest.approx(0.4)
    assert first["groups"] == 3
    assert not others
    half = 4.302653 * 0.2 / np.sqrt(3)  # Student's t with two degrees of freedom
    assert first["low"] == 0.0
    assert first["high"] == pytest.approx(0.4 + half, abs=1e-5)


def test_splits_keep_groups_whole() -> None:
    dataset = opened(voices())
    store = dataset.store
    assert store is not None
    parts = [set(store.groups[rows]) for rows in dataset.parts.values()]
    assert len(parts) == 2
    assert not parts[0] & parts[1]
    assert len(parts[1]) == 1
    assert sorted(store.group_names.values()) == ["s0", "s1", "s2", "s3", "s4"]


def test_groups_of_one_label_stay_stratified() -> None:
    labels, groups = np.repeat([0, 1], 20), np.repeat(np.arange(20), 2)
    held = hold_out(labels, 0, groups=groups)
    assert held.sum() == 8
    assert held[:20].sum() == held[20:].sum() == 4
    mixed = np.tile([0, 1], 20)
    assert hold_out(mixed, 0, groups=groups).sum() == 8


def test_a_split_that_shares_groups_is_refused() -> None:
    frame = voices()
    frame["split"] = ["train", "test"] * (len(frame) // 2)
    with pytest.raises(UserError, match=r"5 groups of column speaker, e.g. s\d, are in both train and test"):
        opened(frame)


def test_without_leaves_rows_out() -> None:
    dataset = opened(voices(), without="speaker=s3")
    store = dataset.store
    assert store is not None
    assert len(store) == (GROUPS - 1) * EACH
    assert "s3" not in store.group_names.values()
    other = opened(voices(), without="speaker=s4")
    assert other.source.fingerprint != dataset.source.fingerprint  # equal numbers of rows, other rows
    for wrong, told in (("speaker=nobody", "no row"), ("speaker", "COLUMN=VALUE"), ("voice=s3", "no column voice")):
        with pytest.raises(UserError, match=told):
            opened(voices(), without=wrong)


def test_rows_without_a_group_are_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    frame = voices()
    frame.loc[:9, "speaker"] = None
    judge = scorer(opened(frame))
    assert len(Groups.of(judge, "speaker").all) == len(frame) - 10
    assert "skipping 10 images without a value in column speaker" in " ".join(capsys.readouterr().err.split())


def test_evaluate_by_group_says_what_pretraining_saw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = {"steps": 2, "encoder.width": 8, "batch_size": 8, "precision": "float32"}
    columns = {"without": "speaker=s3"}
    run = ut.pretrain(voices(), "simclr", label="label", columns=columns, out=tmp_path / "run", **tiny)
    capsys.readouterr()
    rows = run.evaluate(voices(), label="label", group="speaker")
    told = " ".join(capsys.readouterr().err.split())
    assert "5 of column speaker: s0 18, s1 18" in told
    assert "of 4 of 5 groups (s0, s1, s2, s4), without their labels" in told
    assert {row["features"] for row in rows} == {"encoder", "random_init", "raw"}
    text = as_text(rows, 120)
    assert "over the 5 groups" in text
    assert "\ns3 " in text
    assert text.count("s3") == 1
    assert len([row for row in read_rows(run.path / "evaluation.json") if "group" in row]) > 15
    run.report()
    with pytest.raises(UserError, match="no column voice"):
        run.evaluate(voices(), label="label", group="voice")


def test_finetuning_keeps_groups_whole_whatever_pretraining_saw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny: dict[str, Any] = {"steps": 2, "batch_size": 8, "precision": "float32"}
    short = {**tiny, "scratch": False, "validation": 0, "label": "label", "columns": {"group": "speaker"}}
    frame = voices()
    seen = {}
    for name, columns in (("mixed", None), ("four", {"without": "speaker=s3"})):
        run = ut.pretrain(frame, "simclr", label="label", columns=columns, out=tmp_path / name, encoder__width=8, **tiny)
        capsys.readouterr()
        run.finetune(frame, out=tmp_path / f"{name}_model", **short)
        seen[name] = " ".join(capsys.readouterr().err.split())
    assert re.search(r"skipping 1\d of 18 images of val: .* was trained on them", seen["mixed"]), "images of one speaker are held out"
    assert "split 80/20 by group, seed 0: train 72, val " in seen["mixed"]
    assert "was trained on in train, the new ones split 80/20: train 72, val 18" in seen["four"], (
        "the speaker that pretraining did not see is held out"
    )


def test_a_weighted_sum_of_layers_is_read_of_a_split_by_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny: dict[str, Any] = {"steps": 2, "batch_size": 8, "precision": "float32"}
    vit = {"encoder.embed_dim": 16, "encoder.depth": 3, "encoder.num_heads": 2}
    run = ut.pretrain(
        voices(), "simclr", label="label", columns={"without": "speaker=s3"}, out=tmp_path / "run", encoder="vit_mini", **vit, **tiny
    )
    capsys.readouterr()
    given: dict[str, Any] = {"train": "frozen", "read": "layers", "scratch": False, "validation": 0, "columns": {"group": "speaker"}}
    run.finetune(voices(), label="label", out=tmp_path / "model", **given, **tiny)
    said = " ".join(capsys.readouterr().err.split())
    assert "train 72, val 18" in said, "one speaker of five, whom pretraining did not see, is held out"
    weights = [float(weight) for weight in re.findall(r"(\d\.\d\d) x [123]", said)]
    assert len(weights) == 3
    assert sum(weights) == pytest.approx(1, abs=0.02)


def test_a_split_by_group_is_said_to_be_one() -> None:
    dataset = opened(voices())
    assert dataset.store is not None
    assert dataset.store.parts(0)[1].startswith("80/20 by group, seed 0: train 72, val 18")
    alone = opened(voices().assign(speaker="s0"))
    assert alone.store is not None
    assert "too few labels or groups to hold some out" in alone.store.parts(0)[1]


def test_what_names_no_groups_is_refused(tmp_path: Path) -> None:
    frame = voices()
    with pytest.raises(UserError, match="no label of speaker s0 occurs in another group"):
        Groups.of(scorer(opened(frame.assign(label=frame["speaker"]))), "speaker")
    np.save(tmp_path / "images.npy", np.zeros((20, 16, 16), np.uint8))
    with pytest.raises(UserError, match="--group needs a table"):
        open_dataset(tmp_path / "images.npy", IMAGE, columns={"group": "speaker"}, label=None, split=None)
    with pytest.raises(UserError, match=r"^no column voice in the table; its columns are image, label, speaker: give --group NAME$"):
        chosen_modality(None, frame, {"group": "voice"})
