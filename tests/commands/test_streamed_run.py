"""Runs on shards, near and afar: what is said, what is refused, what breaks off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from shards import write_shards

import untaught as ut
from untaught.core import UserError

pytestmark = pytest.mark.usefixtures("bare_runs")

KNOBS: dict[str, Any] = {"size": 16, "batch_size": 16, "encoder__width": 8, "log_every": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    (tmp_path / "shards").mkdir()
    return write_shards(tmp_path / "shards", each=12)


@pytest.fixture
def remote(shards: Path) -> Iterator[str]:
    for path in shards.iterdir():
        fsspec.filesystem("memory").pipe_file(f"/digits/{path.name}", path.read_bytes())
    yield "memory://digits"
    fsspec.filesystem("memory").rm("/digits", recursive=True)


def test_a_stream_of_unknown_length_has_steps_and_no_epochs(remote: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="a stream of unknown length has no epochs; give steps or minutes"):
        ut.pretrain(remote, epochs=1, out=tmp_path / "none", **KNOBS)
    ut.pretrain(remote, steps=2, out=tmp_path / "run", **KNOBS)
    said = capsys.readouterr().err
    assert "data      a stream of images in 5 webdataset shards under memory://digits: image from column png, without labels" in said
    assert "stream    5 shards in 4 lanes, " in said
    ut.pretrain(out=tmp_path / "run", resume=True, steps=4)
    assert (tmp_path / "run" / "checkpoints" / "step-4").is_dir()


def test_small_shards_are_packed_and_a_list_of_them_is_repeated(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(map(str, shards.iterdir()))
    ut.pretrain(names, epochs=1, out=tmp_path / "run", **KNOBS)
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["data"] == names
    assert "60 images in 5 webdataset shards" in capsys.readouterr().err
    ut.pretrain(out=tmp_path / "run", resume=True, epochs=2)
    assert "from step 3 of 6" in capsys.readouterr().err


def test_a_run_goes_on_when_a_shard_breaks_off(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = shards / "digits-1.tar"
    cut.write_bytes(cut.read_bytes()[:5000])
    ut.pretrain(shards, stream=True, epochs=2, out=tmp_path / "run", **KNOBS)
    said = capsys.readouterr().err
    assert said.count("digits-1.tar: is truncated after 4 samples") == 1
    assert "trained   6 steps" in said
