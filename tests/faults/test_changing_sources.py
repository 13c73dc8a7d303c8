"""Data that changes while it is read is never mixed in silently: left out and named, or refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lives import write_photos

from untaught.config.registry import modality_named
from untaught.core import Modality, Preprocessor, UserError
from untaught.data.sources import open_source
from untaught.data.store import Store, pack

LAYOUT = {"side": 12, "size": 8, "channels": 3, "bits": 8, "preset": "small"}


@pytest.fixture
def image() -> Modality:
    return modality_named("image")


def packed(source: Any, image: Modality, cache: Path, meanwhile: Any) -> Store:
    """`meanwhile` happens when the first records have been packed."""
    calls = []

    def once(done: int, total: int | None) -> None:
        if not calls:
            meanwhile()
        calls.append(done)

    return pack(source, Preprocessor(image, LAYOUT), cache=cache, progress=once)


def test_files_that_change_or_vanish_are_named(photos: Path, image: Modality, tmp_path: Path) -> None:
    root = shutil.copytree(photos, tmp_path / "photos")
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    changed, vanished, touched = names[-3:]

    def meanwhile() -> None:
        shutil.copy(root / names[0], root / changed)
        (root / vanished).unlink()
        os.utime(root / touched, ns=(0, 0))
        shutil.copy(root / names[1], root / "new.png")  # not listed: the next run's

    store = packed(open_source(root, image), image, tmp_path / "cache", meanwhile)
    assert sorted(store.names(np.arange(len(store)))) == names[:-3]
    since = "changed since the data was opened"
    assert sorted(store.skipped) == sorted([(changed, since), (vanished, "there is no such file"), (touched, since)])
    again = pack(open_source(root, image), Preprocessor(image, LAYOUT), cache=tmp_path / "cache")
    assert len(again) == len(names)  # one has gone, one has come


def test_a_listed_file_that_changes_is_named(photos: Path, image: Modality, tmp_path: Path) -> None:
    root = shutil.copytree(photos, tmp_path / "photos")
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    (root / "list.csv").write_text("file_name\n" + "".join(f"{name}\n" for name in names))
    source = open_source(root / "list.csv", image)
    store = packed(source, image, tmp_path / "cache", lambda: shutil.copy(root / names[0], root / names[-1]))
    assert store.skipped == [(names[-1], "changed since the data was opened")]
    assert len(store) == len(names) - 1


@pytest.mark.parametrize("kind", ["zip", "tar", "parquet", "npy"])
def test_a_file_of_many_records_that_changes_is_refused(kind: str, image: Modality, tmp_path: Path) -> None:
    def write(name: str, count: int) -> Path:
        if kind == "npy":
            np.save(tmp_path / f"{name}.npy", np.full((count, 12, 12, 3), len(name), np.uint8))
            return tmp_path / f"{name}.npy"
        root = write_photos(tmp_path / name / "photos", count)
        if kind == "parquet":
            import pandas

            pandas.DataFrame({"image": [path.read_bytes() for path in sorted(root.rglob("*.png"))]}).to_parquet(
                tmp_path / f"{name}.parquet"
            )
            return tmp_path / f"{name}.parquet"
        return Path(shutil.make_archive(str(tmp_path / name), kind, tmp_path / name))

    path, other = write("data", 300), write("other one", 310)
    with pytest.raises(UserError, match=r"data\.\w+ (changed while it was read; start again once it no longer changes|is damaged .*)"):
        packed(open_source(path, image), image, tmp_path / "cache", lambda: os.replace(other, path))
    assert [found for found in (tmp_path / "cache" / "stores").iterdir() if found.is_dir()] == []
