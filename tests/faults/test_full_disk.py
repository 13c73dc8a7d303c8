"""A disk that is full: one line, nothing torn, and what was good stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from command import Cli
from lives import Life

from untaught.config.registry import modality_named
from untaught.core import Preprocessor, UserError
from untaught.data import store as store_module
from untaught.data.sources import open_source
from untaught.data.store import pack
from untaught.distributed.process_group import ProcessGroup
from untaught.storage.atomic import replacing
from untaught.training import checkpoint
from untaught.training import sharded_checkpoint as shards

Disk = Callable[[int], Path]


def test_a_run_fills_one_disk_after_another_and_still_ends_as_it_should(
    cli: Cli, photos: Path, tmp_path: Path, undisturbed: Life, disk: Disk
) -> None:
    life = Life(cli, photos, tmp_path)
    failed: list[str] = []
    for kilobytes in (8, 60, 100, 170, 260, 380, 600, 4000):
        life.out = disk(kilobytes) / "run"
        running = life.start().wait()
        if running.code == 0:
            break
        failed.append(running.error)
        assert "no space left" in running.error.lower(), running.err
        assert life.left_over() == []
        if checkpoint.steps(life.out / "checkpoints"):
            assert checkpoint.load(life.out / "checkpoints", pytest.fail) is not None
        for line in (life.out / "metrics.jsonl").read_text().splitlines() if (life.out / "metrics.jsonl").exists() else ():
            json.loads(line)
    assert len(failed) >= 4, failed
    assert len({said.partition(" can't be written")[0].partition(":")[0] for said in failed}) >= 3, failed  # at several places
    assert running.code == 0, running.err
    assert life.weights() == undisturbed.weights()
    assert life.rows() == undisturbed.rows()


@pytest.mark.parametrize("ending", [".npy", ".parquet"])
def test_vectors_that_do_not_fit(cli: Cli, photos: Path, undisturbed: Life, disk: Disk, ending: str) -> None:
    place = disk(16)
    out = place / f"vectors{ending}"
    there = pandas.DataFrame({"name": ["a"], "vector": [[0.0]]})
    there.to_parquet(out) if ending == ".parquet" else np.save(out, np.zeros((1, 1), np.float32))
    before = out.read_bytes()
    assert cli("embed", undisturbed.out, photos, "-o", out).error == f"{out} can't be written: no space left"
    assert [path.name for path in place.iterdir()] == [out.name]
    assert out.read_bytes() == before


def test_a_store_that_does_not_fit(photos: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_check_space", lambda *_: None)  # or it would be known before
    image, place = modality_named("image"), disk(64)
    with pytest.raises(UserError, match=r"no space left in .* while packing; free some space, or set UNTAUGHT_CACHE"):
        pack(
            open_source(photos, image),
            Preprocessor(image, {"side": 12, "size": 8, "channels": 3, "bits": 8, "preset": "small"}),
            cache=place,
        )
    assert [path for path in (place / "stores").iterdir() if path.suffix != ".lock"] == []


def test_a_checkpoint_in_parts_that_does_not_fit(disk: Disk) -> None:
    network, folder = torch.nn.Linear(100, 100), disk(300)
    optimizer = torch.optim.AdamW(network.parameters())

    def save(step: int) -> None:
        with checkpoint.written(folder, step, {"step": step}) as partial:
            shards.save(partial, network, optimizer, ProcessGroup())

    save(1)
    disk(180)
    said = r"step 2 could not be written: .*part-00000\.safetensors can't be written: no space left; the last good checkpoint is .*step-1$"
    with pytest.raises(UserError, match=said):
        save(2)
    assert [place.name for place in folder.iterdir()] == ["step-1"]
    assert checkpoint.load(folder, pytest.fail) is not None


def test_any_file_is_written_whole_or_not_at_all(disk: Disk) -> None:
    path = disk(32) / "kept.txt"
    path.write_text("good")
    with pytest.raises(UserError, match=r"kept.txt can't be written: no space left"), replacing(path) as partial:
        partial.write_bytes(bytes(100_000))
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_bytes(bytes(1 // len(b"")))
    assert [p.name for p in path.parent.iterdir()] == ["kept.txt"]
    assert path.read_text() == "good"
