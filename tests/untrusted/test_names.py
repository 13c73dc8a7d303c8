"""Names may hold any character: a terminal is not to obey them, and no file may break on them."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from command import Cli
from PIL import Image
from pyarrow import parquet

from untaught.console import shown

ESCAPES = ("\x1b]0;owned\x07", "\x1b[2J", "two\nlines", "\rerror: none", "\u202egnp.exe", "\udcff\udcfe", "\x9b31m")


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((9, 9, 3), value, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def nasty(tmp_path: Path) -> Path:
    """A folder of classes and images with such names; some images are none."""
    for i, name in enumerate(ESCAPES):
        folder = tmp_path / "photos" / f"class {name}"
        folder.mkdir(parents=True)
        for copy in range(3):
            (folder / f"{name}{copy}.png").write_bytes(png(20 * i + copy) if copy else b"damaged")
    return tmp_path / "photos"


def test_a_terminal_is_shown_names_and_does_not_obey_them(cli: Cli, nasty: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = cli("pretrain", nasty, "steps=2", "size=16", "batch_size=4", "encoder.width=4", "precision=float32", "--out", out)
    assert run.code == 0, run.err
    done = cli("embed", out, nasty, "-o", tmp_path / "v.parquet")
    assert done.code == 0, done.err
    assert "skipped 7 that are" in done.err
    failed = cli("pretrain", nasty / "\x1b[31m")
    assert len(failed.error.splitlines()) == 1
    for said in (run.err, run.out, done.err, failed.err):
        assert not {letter for letter in said if not letter.isprintable()} - {"\n"}, said
    names = parquet.read_table(tmp_path / "v.parquet")["name"].to_pylist()
    assert len(names) == 14
    assert any("\\udcff" in name for name in names)


def test_names_in_an_archive(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as archive:
        for i, name in enumerate([*(f"{e}.png" for e in ESCAPES), *(f"{e}.txt" for e in ESCAPES)]):
            member = tarfile.TarInfo(name)
            member.size = len(png(i))
            archive.addfile(member, io.BytesIO(png(i)))
    done = cli("preview", path, "-o", tmp_path / "a.png", "size=16")
    assert done.code == 0, done.err
    assert "skipped 7 that are" not in done.out
    assert not {letter for letter in done.err if not letter.isprintable()} - {"\n"}, done.err


@pytest.mark.parametrize("name", ESCAPES)
def test_what_is_shown_is_printable_and_tells_names_apart(name: str) -> None:
    assert shown(name).isprintable()
    assert shown(name) != shown(name + "\x1b")
    assert shown("ordinary, with spaces: ü 漢字 …") == "ordinary, with spaces: ü 漢字 …"
    os.fsencode(shown(name))
