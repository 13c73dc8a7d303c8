"""Names of data that mean the same wherever they are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from untaught.data.addresses import data_names, lasting


def test_local_names_are_absolute_and_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, expected in {
        "photos": "a/b/photos",
        "photos/": "a/b/photos",
        "../photos": "a/photos",
        "x/../../p-{00..09}.tar": "a/p-{00..09}.tar",
        "~/photos/*.parquet": "photos/*.parquet",
        str(tmp_path / "photos"): "photos",
        f"file://{tmp_path}/photos": "photos",
    }.items():
        assert lasting(name) == str(tmp_path / expected), name
    for name in ("builtin:digits", "hf:owner/name", "s3://bucket/shards", "memory://x", "in memory: 3 images"):
        assert lasting(name) == name
    assert data_names(["photos", Path("../more")]) == [str(tmp_path / "a/b/photos"), str(tmp_path / "a/more")]
    assert data_names([]) is data_names([1, 2]) is data_names({"x": 1}) is None


def test_a_link_is_kept_but_what_lies_above_it_is_where_the_system_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk" / "inner").mkdir(parents=True)
    os.symlink(tmp_path / "disk" / "inner", tmp_path / "link")
    monkeypatch.chdir(tmp_path)
    assert lasting("link") == str(tmp_path / "link")
    assert lasting("link/../photos") == str(tmp_path / "disk" / "photos")
