"""Transcription from a listing to predictions, on sequences of tones that a small network learns; and what is wrong with transcripts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

import untaught as ut

pytestmark = pytest.mark.usefixtures("bare_runs")
RATE = 4000
TONES = {"a": 300.0, "b": 600.0, "c": 1200.0}
TINY: dict[str, Any] = {"precision": "float32", "scratch": False, "validation": 0, "batch_size": 16}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNTAUGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def sound(text: str, random: np.random.Generator) -> np.ndarray:
    """80 ms of tone and 40 ms of noise for each letter, 120 ms of noise for a space."""
    parts = []
    for letter in text:
        time = np.arange(round((0.08 if letter in TONES else 0.12) * RATE)) / RATE
        parts += [0.5 * np.sin(2 * np.pi * TONES.get(letter, 0.0) * time), np.zeros(round(0.04 * RATE))]
    wave = np.concatenate(parts)
    return (wave + 0.01 * random.normal(size=len(wave))).astype(np.float32)


def listing(folder: Path, texts: list[str], parts: list[str]) -> Path:
    """A listing of recordings with `transcript` and `part`; "" has a sound as well."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number, text in enumerate(texts):
        soundfile.write(folder / f"{number:03}.wav", sound("".join(c if c in TONES else " " for c in text) or "b", random), RATE)
    place = folder / "list.csv"
    with place.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "transcript", "part"])
        writer.writerows((f"{number:03}.wav", text, part) for number, (text, part) in enumerate(zip(texts, parts, strict=True)))
    return place


def words(count: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    word = lambda: "".join(random.choice(list("abc"), random.integers(1, 4)))  # noqa: E731
    return [" ".join(word() for _ in range(random.integers(1, 3))) for _ in range(count)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ut.Run:
    noise = np.random.default_rng(1).normal(0, 1000, (16, RATE)).astype(np.int16)
    options: dict[str, Any] = {"encoder__width": 32, "encoder__depth": 1, "encoder__patch": 4, "precision": "float32"}
    place = tmp_path_factory.mktemp("run") / "run"
    return ut.pretrain(noise, "vicreg", encoder="patch_series", out=place, modality="audio", rate=RATE, steps=1, batch_size=8, **options)


def test_tones_are_read(run: ut.Run, tmp_path: Path, capfd: Any) -> None:
    train, test = words(48, 0), words(16, 1)
    data = listing(tmp_path / "data", train + test, ["train"] * 48 + ["test"] * 16)
    capfd.readouterr()
    model = run.finetune(data, "transcribe", out=tmp_path / "model", label="transcript", split="part", steps=250, lr=3e-3, **TINY)
    said = capfd.readouterr().err
    assert "4 different; 48 recordings to learn from, none to stop by, 16 to test" in said
    assert "output    4 characters and blank, 1 frame for each token" in said
    scores = {row["metric"]: row["mean"] for row in model.scores}
    assert scores["cer"] < 0.1
    assert scores["wer"] < 0.3
    assert 0.2 < scores["blank_share"] < 0.9
    assert "collapsed" not in said
    assert model.config["symbols"] == [" ", "a", "b", "c"]
    beside = pd.read_csv(model.path / "predictions.csv")
    assert list(beside.columns) == ["file", "transcript", "prediction", "word_errors"]
    assert list(beside["transcript"]) == test
    assert beside["word_errors"].sum() / sum(len(text.split()) for text in test) == pytest.approx(scores["wer"])
    table = ut.load(model.path).predict(sorted((tmp_path / "data").glob("*.wav"))[48:], tmp_path / "said.csv")
    found = pd.read_csv(table)
    assert list(found["transcript"]) == list(beside["prediction"]), "new data are transcribed as the test part was"
    assert found["confidence"].between(0.3, 1).all()


def test_what_is_wrong_with_transcripts_is_counted_or_said(run: ut.Run, tmp_path: Path, capfd: Any) -> None:
    short: dict[str, Any] = {"steps": 2, **TINY}
    texts = ["ab", "ba", "", "abab", "bx", "a"]
    data = listing(tmp_path / "data", texts, ["train"] * 4 + ["test"] * 2)
    capfd.readouterr()
    model = run.finetune(data, "transcribe", out=tmp_path / "model", label="transcript", split="part", **{**short, "batch_size": 2})
    said = capfd.readouterr().err
    assert "skipped 1 that are not readable recordings: 002.wav: has no transcript" in said
    assert "1 symbols in 1 of 2 recordings to test are unseen in training ('x'): they count as errors" in said
    assert model.config["symbols"] == ["a", "b"]
    renamed = data.with_name("renamed.csv")
    renamed.write_text(data.read_text().replace("transcript", "said"))
    with pytest.raises(ut.UserError, match="recognised as the transcript; its columns are file, said, part: give --columns"):
        run.finetune(renamed, "transcribe", out=tmp_path / "no", split="part", **short)
    empty = listing(tmp_path / "empty", ["", "", "", ""], ["train", "train", "test", "test"])
    with pytest.raises(ut.UserError, match=r"none of the first 4 recordings can be read: 000.wav \(has no transcript\)"):
        run.finetune(empty, "transcribe", out=tmp_path / "no", label="transcript", split="part", **short)
    with pytest.raises(ut.UserError, match="transcript"):
        run.finetune(tmp_path / "data" / "000.wav", "transcribe", out=tmp_path / "no", **short)
    with pytest.raises(ut.UserError, match="labels=10/class: --task transcribe has no classes"):
        run.finetune(data, "transcribe", out=tmp_path / "no", label="transcript", labels="10/class", **short)


def test_speakers_are_held_out_whole_even_where_pretraining_heard_them(tmp_path: Path, capfd: Any) -> None:
    data = listing(tmp_path / "data", words(20, 3), [f"s{number % 5}" for number in range(20)])
    tiny: dict[str, Any] = {"encoder__width": 32, "encoder__depth": 1, "encoder__patch": 4, "precision": "float32"}
    run = ut.pretrain(data, "vicreg", encoder="patch_series", out=tmp_path / "run", modality="audio", steps=1, batch_size=8, **tiny)
    capfd.readouterr()
    model = run.finetune(data, "transcribe", out=tmp_path / "model", columns={"group": "part"}, **{**TINY, "steps": 2, "batch_size": 4})
    assert "was trained on 4 of the 4 recordings held out, without their labels" in " ".join(capfd.readouterr().err.split())
    assert len({int(Path(file).stem) % 5 for file in pd.read_csv(model.path / "predictions.csv")["file"]}) == 1


def test_the_frozen_encoder_is_measured_beside_random_init(run: ut.Run, tmp_path: Path) -> None:
    texts = words(30, 2)
    data = listing(tmp_path / "data", texts, ["train"] * 24 + ["test"] * 6)
    how: dict[str, Any] = {"label": "transcript", "split": "part", "out": tmp_path / "scores.json"}
    rows = ut.evaluate(run, data, task="transcribe", steps=4, precision="float32", validation=0, batch_size=8, units="words", **how)
    assert {(row["features"], row["probe"]) for row in rows} == {("encoder", "frozen"), ("random_init", "frozen")}
    assert {row["metric"] for row in rows} == {"wer", "cer", "blank_share"}
