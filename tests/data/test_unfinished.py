"""Packing that was cut off goes on: the store is the one that was never cut off, and what was packed is not decoded again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest

from untaught.core import Modality, Preprocessor, Record
from untaught.data import unfinished
from untaught.data.column import Growing
from untaught.data.sources import open_source
from untaught.data.store import Store, pack

LAYOUT = {"ragged": ["ids"]}
ROWS = 500


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "EVERY", 0.0)


def table(folder: Path) -> Path:
    """Train and test parts of texts, a few of which can't be read, labelled by words."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", ROWS), ("test", 100)):
        texts = ["x" if i % 50 == 7 else " ".join(str(j) for j in range(1 + i % 9)) for i in range(rows)]
        pandas.DataFrame({"text": texts, "label": ["odd" if i % 2 else "even" for i in range(rows)]}).to_csv(
            folder / f"{part}.csv", index=False
        )
    return folder


def counted(modality: Modality, seen: list[int]) -> Modality:
    def decode(record: Record, prep: Preprocessor) -> dict[str, np.ndarray]:
        seen.append(1)
        return modality.decode(record, prep)

    return replace(modality, decode=decode)


def cut(after: int) -> Callable[[int, int | None], None]:
    """Ctrl-C, as soon as so many records are packed."""

    def progress(done: int, total: int | None) -> None:
        if done >= after:
            raise KeyboardInterrupt

    return progress


def same(one: Store, other: Store) -> None:
    assert {**one.manifest, "fingerprint": ""} == {**other.manifest, "fingerprint": ""}
    assert sorted(path.name for path in one.folder.iterdir()) == sorted(path.name for path in other.folder.iterdir())
    for path in one.folder.glob("*.npy"):
        assert path.read_bytes() == (other.folder / path.name).read_bytes(), path.name


@pytest.mark.parametrize("after", [64, 320, ROWS + 50], ids=["early", "late", "in the second part"])
def test_what_was_interrupted_goes_on(after: int, tmp_path: Path, tokens: Modality, cache: Path) -> None:
    source = open_source(table(tmp_path / "table"), tokens, label="label")
    whole = pack(source, Preprocessor(tokens, LAYOUT), cache=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        pack(source, Preprocessor(tokens, LAYOUT), progress=cut(after))
    (left,) = (cache / "stores").glob("*.unfinished")
    for file in left.glob("*.npy"):  # written, but not known to be: as a killed process leaves it
        file.open("ab").write(b"torn")
    (left / "labels.jsonl").open("a").write('["to')
    seen: list[int] = []
    store = pack(source, Preprocessor(counted(tokens, seen), LAYOUT))
    same(whole, store)
    assert len(seen) <= ROWS + 100 - after + 64
    assert not list((cache / "stores").glob("*.unfinished"))


PACK = """
import sys, time
sys.path.insert(0, {tests!r})
import tiny
from untaught.core import Preprocessor
from untaught.data import unfinished
from untaught.data.sources import open_source
from untaught.data.store import pack
unfinished.EVERY = 0.0
images = tiny.make_modality(
    name="picture", noun="images", fields={{"image": ("image", "img", "images")}}, suffixes=frozenset({{".png", ".jpg"}}),
    decode=tiny.decode_picture,
)
def slow(done, total):
    print("packed", done, flush=True)
    time.sleep(60 * (done > 150))
pack(open_source({root!r}, images), Preprocessor(images, {{"side": 8}}), progress=slow)
"""


def test_what_was_killed_goes_on(tmp_path: Path, pictures: Modality, cache: Path) -> None:
    from tiny import write_pictures

    root = write_pictures(tmp_path / "photos", [f"{i % 2}/{i}.png" for i in range(300)])
    code = PACK.format(tests=str(Path(__file__).parent), root=str(root))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while (line := process.stdout.readline()) and int(line.split()[1]) <= 150:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    seen: list[int] = []
    store = pack(open_source(root, pictures), Preprocessor(counted(pictures, seen), {"side": 8}))
    assert len(store) == 300
    assert len(seen) == 300 - int(line.split()[1])
    same(pack(open_source(root, pictures), Preprocessor(pictures, {"side": 8}), cache=tmp_path / "whole"), store)


@pytest.mark.parametrize("damage", ["cut column", "cut labels", "no json", "another kind"])
def test_what_is_not_as_it_was_saved_is_packed_anew(damage: str, tmp_path: Path, tokens: Modality, cache: Path) -> None:
    source = open_source(table(tmp_path / "table"), tokens, label="label")
    with pytest.raises(KeyboardInterrupt):
        pack(source, Preprocessor(tokens, LAYOUT), progress=cut(320))
    (left,) = (cache / "stores").glob("*.unfinished")
    if damage == "cut column":
        (left / "ids.npy").write_bytes((left / "ids.npy").read_bytes()[:200])
    elif damage == "cut labels":
        (left / "labels.jsonl").write_text("")
    else:
        (left / "progress.json").write_text("{" if damage == "no json" else json.dumps([1, 2]))
    seen: list[int] = []
    store = pack(source, Preprocessor(counted(tokens, seen), LAYOUT))
    assert len(seen) == ROWS + 100
    same(pack(source, Preprocessor(tokens, LAYOUT), cache=tmp_path / "whole"), store)


def test_nobody_goes_on_after_a_week(tmp_path: Path, tokens: Modality, cache: Path) -> None:
    source = open_source(table(tmp_path / "table"), tokens, label="label")
    with pytest.raises(KeyboardInterrupt):
        pack(source, Preprocessor(tokens, LAYOUT), progress=cut(320))
    other = pandas.DataFrame({"text": ["1 2", "3"]})
    (left,) = (cache / "stores").glob("*.unfinished")
    pack(open_source(other, tokens), Preprocessor(tokens, LAYOUT))
    assert left.exists()
    old = time.time() - 8 * 86400
    os.utime(left / "progress.json", (old, old))
    pack(open_source(other.iloc[:1], tokens), Preprocessor(tokens, LAYOUT))
    assert not left.exists()


def test_a_file_that_grows_is_npy_whenever_it_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    growing = Growing(path, np.dtype(np.int16), (2,))
    growing.append(np.arange(6, dtype=np.int16).reshape(3, 2))
    growing.save()
    growing.append(np.zeros((5, 2), np.int16))
    growing.file.close()
    again = Growing(path, np.dtype(np.int16), (2,), rows=3)
    again.append(np.array([[6, 7]], np.int16))
    again.finish()
    again.file.close()
    assert np.load(path).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    with pytest.raises(ValueError, match=r"a\.npy has fewer than 5 rows"):
        Growing(path, np.dtype(np.int16), (2,), rows=5)
