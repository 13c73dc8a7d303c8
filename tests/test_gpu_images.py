"""The command for one GPU does all of its work on a CPU too, on a few images: profile, legs that go on, scores taken once."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyarrow import Table, parquet

ROOT = Path(__file__).parent.parent


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu_images")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """48 images of 4 classes to train on, 16 to test on, as Hugging Face has CIFAR-10."""
    for part, count in (("train", 48), ("test", 16)):
        rows: dict[str, list[Any]] = {"image": [], "label": []}
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 64, (32, 32, 3)) + 48 * (i % 4)
            buffer = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(buffer, "png")
            rows["image"].append({"bytes": buffer.getvalue(), "path": f"{i}.png"})
            rows["label"].append(i % 4)
        (tmp_path / "tiny").mkdir(exist_ok=True)
        parquet.write_table(Table.from_pydict(rows), tmp_path / "tiny" / f"{part}.parquet")
    return tmp_path / "tiny"


def test_it_profiles_trains_in_legs_and_scores_once(
    gpu: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out, legs = tmp_path / "out", []
    rows = out / "simclr" / "metrics.jsonl"

    def over(seconds: float) -> Callable[[], bool]:
        """The first leg is over with its first steps, the second never."""
        legs.append(seconds)
        return (lambda: rows.exists() and rows.stat().st_size > 0) if len(legs) == 1 else (lambda: False)

    monkeypatch.setattr(gpu, "leg_over", over)
    words = ["--data", str(data), "--out", str(out), "--methods", "simclr", "--encoder", "conv_small", "--epochs", "10", "--batch", "16"]
    words += ["--validation", "8", "--leg", "99", "encoder.width=4", "log_every=1"]
    gpu.main(words)
    assert legs == [99, 99]
    trained = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["step"] for row in trained] == list(range(1, 21))  # 40 of the 48 images train: two steps an epoch
    profiled = json.loads((out / "profile" / "simclr.json").read_text())
    assert profiled["data"] + profiled["views"] + profiled["compute"] == pytest.approx(1)
    assert min(profiled[key] for key in ("waiting", "free", "limit")) > 0
    printed = capsys.readouterr().out
    assert "| simclr | 10 " in printed
    assert "simclr: knn20 " in printed
    assert "nan" not in printed

    parts = parquet.read_table(out / "training.parquet").to_pydict()
    assert [parts["label"][i] for i in range(48) if parts["part"][i] == "val"].count(0) == 2
    assert parts["part"].count("val") == 8

    monkeypatch.setattr(gpu, "evaluate", pytest.fail)  # the test part is not looked at again
    monkeypatch.setattr(gpu, "pretrain", pytest.fail)
    gpu.main(words)
    assert capsys.readouterr().out.splitlines()[2:] == printed.splitlines()[2:]


def test_a_leg_that_comes_nowhere_and_a_run_that_fails_stop(gpu: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gpu, "profile", lambda *asked: dict.fromkeys(("data", "views", "compute", "waiting", "free", "limit"), 1.0))
    words = ["--data", str(data), "--out", str(tmp_path / "out"), "--methods", "simclr", "--encoder", "conv_small", "--validation", "8"]
    with pytest.raises(SystemExit, match=r"training ended with 2"):
        gpu.main([*words, "--batch", "16", "nonsense=1"])
    with pytest.raises(SystemExit, match=r"the time is over; the same command goes on with .*simclr"):
        gpu.main([*words, "--seconds", "0"])
