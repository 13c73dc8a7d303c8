"""Files that are written whole or not at all, also by several at once."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from untaught.storage.atomic import KEPT, replacing, replacing_all, write_text


def test_two_writers_of_one_file_share_nothing_and_one_wins_whole(tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        assert first.suffix == second.suffix == ".npy"
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # which ended last
    assert [*tmp_path.iterdir()] == [path]


def test_two_writers_of_one_folder(tmp_path: Path) -> None:
    path = tmp_path / "encoder"
    with replacing(path) as first, replacing(path) as second:
        for place, name in ((first, "a"), (second, "b")):
            place.mkdir()
            (place / name).write_text(name)
    assert [found.name for found in path.iterdir()] == ["a"]
    assert [*tmp_path.iterdir()] == [path]


def test_files_that_belong_together_are_never_mixed(tmp_path: Path) -> None:
    paths = tmp_path / "v.npy", tmp_path / "v.rows.npy"
    done: list[int] = []

    def write(number: int) -> None:
        for _ in range(20):
            with replacing_all(*paths) as partials:
                for partial in partials:
                    partial.write_text(str(number))
        done.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 1, 2]
    assert len({path.read_text() for path in paths}) == 1
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_goes_once_it_is_a_day_old(tmp_path: Path, kind: str) -> None:
    old, new, other = (tmp_path / f".partial.{'0' * 12}.{name}" for name in ("a.txt", "b.txt", "c.txt"))
    for place in (old, new, other):
        place.write_text("") if kind == "file" else place.mkdir()
    for place in (old, other):
        day = place.stat().st_mtime - KEPT - 1
        os.utime(place, (day, day))
    write_text(tmp_path / "a.txt", "a")
    write_text(tmp_path / "b.txt", "b")
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)
