"""Label propagation of videos through the public interface: layouts, baselines, several objects, faults."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

import untaught as ut
from untaught.modalities.image.videos import open_videos


def video(root: Path, name: str, frames: int = 5, davis: bool = False, objects: int = 1) -> Path:
    """A bright square (and a second, dark one) that moves over noise."""
    random = np.random.default_rng(len(name))
    for number in range(frames):
        image, mask = random.integers(90, 140, (36, 48, 3), dtype=np.uint8), np.zeros((36, 48), np.uint8)
        for which in range(objects):
            place = np.s_[4 + 16 * which : 16 + 16 * which, 4 + 5 * number : 16 + 5 * number]
            image[place], mask[place] = 250 * (1 - which), which + 1
        where = [root / kind / "480p" / name for kind in ("JPEGImages", "Annotations")] if davis else [root / name] * 2
        for folder, array, suffix in zip(where, (image, mask), ("jpg", "png"), strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / f"{number}.{suffix}")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: Any) -> ut.Run:
    noise = np.random.default_rng(1).integers(0, 255, (32, 24, 32, 3), dtype=np.uint8)
    out = tmp_path_factory.mktemp("propagate") / "run"
    return ut.pretrain(noise, "simclr", out=out, steps=2, batch_size=16, size=32, encoder__width=4, precision="float32")


def test_an_encoder_is_scored_beside_its_baselines(run: ut.Run, tmp_path: Path) -> None:
    video(tmp_path / "davis", "bear", davis=True, objects=2)
    video(tmp_path / "davis", "cow", davis=True)
    rows = run.evaluate(tmp_path / "davis", task="propagate", against=[run.path / "encoder"])
    found = {(row["features"], row["metric"]): row for row in rows}
    names = ["encoder", "random_init", "raw", "copy", f"against:{run.path / 'encoder'}"]
    assert set(found) == {(name, metric) for name in names for metric in ("j&f", "j", "f")}
    assert found["encoder", "j"]["mean"] == found[names[-1], "j"]["mean"] != found["random_init", "j"]["mean"]
    for name in names:
        j, f, both = (found[name, metric]["mean"] for metric in ("j", "f", "j&f"))
        assert both == pytest.approx((j + f) / 2)
        assert 0 <= found[name, "j"]["low"] <= j <= found[name, "j"]["high"] <= 1
    moved = [(12 - step) / (12 + step) for step in (5, 10)]  # J of the first mask in frames 1 and 2; in frame 3 it is 0
    assert found["copy", "j"]["mean"] == pytest.approx(sum(moved) / 3)
    assert found["raw", "j"]["mean"] > 0.6 > found["copy", "j"]["mean"]
    kept = json.loads((run.path / "evaluation.json").read_text())["rows"]
    assert [row for row in kept if row["probe"] == "propagate"] == rows


def test_layouts_read_the_same(tmp_path: Path) -> None:
    beside, apart = video(tmp_path / "beside", "bear", 12), video(tmp_path / "apart", "bear", 12, davis=True)
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(beside.rglob("*.*g")):
            archive.write(path, path.relative_to(beside))
    first, *others = (open_videos(place)[0] for place in (beside, apart, packed))
    assert [Path(name).stem for name, _ in first.images] == [str(number) for number in range(12)]  # 10 after 9
    for other in others:
        assert (other.frames(3) == first.frames(3)).all()
        assert all((other.masks()[number] == mask).all() for number, mask in first.masks().items())


def test_binary_joins_the_objects(run: ut.Run, tmp_path: Path) -> None:
    video(tmp_path / "data", "two", objects=2)
    out = tmp_path / "rows.json"
    both: list[dict[str, Any]] = [{"binary": True}, {}]
    one, two = (
        {
            row["features"]: row["mean"]
            for row in run.evaluate(tmp_path / "data", task="propagate", out=out, **knobs)
            if row["metric"] == "j"
        }
        for knobs in both
    )
    assert one["raw"] != two["raw"]
    assert one["copy"] == pytest.approx(two["copy"])  # both squares move alike


def test_faults_are_said(run: ut.Run, tmp_path: Path) -> None:
    def fails(folder: str, match: str, **knobs: Any) -> None:
        with pytest.raises(ut.UserError, match=match):
            run.evaluate(tmp_path / folder, task="propagate", **knobs)

    fails("nothing", "not found; give a folder or a .zip of videos")
    for path in video(tmp_path / "bare", "a").rglob("*.png"):
        path.unlink()
    fails("bare", r"no video with masks in .* \(5 images\); allowed: VIDEO/00000.jpg")
    video(tmp_path / "short", "a", 1)
    fails("short", "video a has 1 frame, 1 with a mask; the first and the last are not scored")
    (video(tmp_path / "late", "a") / "a" / "0.png").unlink()
    fails("late", "its first frame, a/0.jpg, has no mask")
    place = video(tmp_path / "sizes", "a") / "a"
    for path in place.glob("*.png"):
        Image.open(path).resize((24, 18)).save(path)
    fails("sizes", "its masks are 24 x 18 pixels, its frames 48 x 36")
    Image.open(place / "2.png").resize((48, 36)).save(place / "2.png")
    fails("sizes", "masks of 24 x 18 and 48 x 36 pixels; resize all masks")
    Image.new("L", (48, 36)).save(video(tmp_path / "empty", "a") / "a" / "0.png")
    fails("empty", "the mask of its first frame is empty")
    fails("empty", "no knob speed; allowed: binary=yes", speed=2)
    with pytest.raises(ut.UserError, match=r"requires an encoder with tokens or maps; .* offers only pooled vectors"):
        ut.evaluate(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), video(tmp_path / "fine", "a"), task="propagate")
